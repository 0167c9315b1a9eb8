/** Runs side by side: one row a model, one column a task. */
import type { EvalReport } from '../eval/report/schema.ts';
import { csvCell } from './csv.ts';

export const tableFormats = ['text', 'markdown', 'csv'] as const;
export type TableFormat = (typeof tableFormats)[number];

export interface Table {
  readonly head: readonly string[];
  readonly rows: readonly (readonly string[])[];
  /** Below the table, for people. */
  readonly notes: readonly string[];
}

type Row = { readonly name: string; readonly cells: Map<string, EvalReport> };

/**
 * Reports of any tasks and models. Columns are kinds of run: two of one task that did different things (another mode, other records) have one each, since their
 * numbers do not compare. Rows are models, the best in the first column on top.
 */
export function leaderboard(reports: readonly EvalReport[]): Table {
  const columns = [...new Set(reports.map(({ specHash }) => specHash))];
  const first = columns.map((hash) => reports.find(({ specHash }) => specHash === hash) as EvalReport);
  const rows: Row[] = [];
  for (const report of reports) {
    const { name } = report.model;
    // Two runs of one model and kind are two rows.
    const row = rows.find((one) => one.name === name && !one.cells.has(report.specHash));
    if (row !== undefined) row.cells.set(report.specHash, report);
    else rows.push({ name, cells: new Map([[report.specHash, report]]) });
  }
  const score = ({ cells }: Row): number => {
    for (const hash of columns) {
      const mean = cells.get(hash)?.headline?.mean;
      if (mean !== undefined) return mean;
    }
    return -1;
  };
  const names = first.map(({ spec }) => spec.task);
  return {
    head: [
      'model',
      ...first.map((report, i) =>
        columnName(report, names.indexOf(names[i] ?? '') !== names.lastIndexOf(names[i] ?? '')),
      ),
    ],
    rows: rows
      .toSorted((a, b) => score(b) - score(a))
      .map(({ name, cells }) => [name, ...columns.map((hash) => cell(cells.get(hash)))]),
    notes: [
      'Accuracy in %, with the 95 % interval.',
      ...first.flatMap(({ spec, counts }) =>
        spec.data.part === undefined ? [] : [`${spec.task}: ${counts.records} questions, a part of the benchmark.`],
      ),
    ],
  };
}

/** `nlvr`, or `nlvr (merge, 5e21…)` where another column is of the same task. */
function columnName({ spec, specHash }: EvalReport, isShared: boolean): string {
  if (!isShared) return spec.task;
  const { data, mode } = spec;
  return `${spec.task} (${mode === 'merge' ? 'merge, ' : ''}${data.records} questions, ${specHash.slice(0, 6)})`;
}

function cell(report: EvalReport | undefined): string {
  if (report === undefined) return '';
  const { headline } = report;
  if (headline === null) return 'no reference';
  const [low, high] = headline.interval;
  return `${percent(headline.mean)} (${percent(low)} … ${percent(high)})`;
}

const percent = (share: number): string => (100 * share).toFixed(1);

/** One line a run, every number in a column of its own, for a spreadsheet or a program. */
export function runTable(reports: readonly EvalReport[]): Table {
  const number = (value: number | null | undefined): string => (value == null ? '' : String(value));
  return {
    head: ['model', 'task', 'questions', 'accuracy', 'low', 'high', 'answers', 'errors', 'part', 'spec_hash'],
    rows: reports.map(({ model, spec, specHash, counts, headline }) => [
      model.name,
      spec.task,
      String(counts.records),
      number(headline?.mean),
      number(headline?.interval[0]),
      number(headline?.interval[1]),
      String(counts.scored),
      String(counts.errors),
      spec.data.part === undefined ? 'no' : 'yes',
      specHash,
    ]),
    notes: [],
  };
}

/** As text in columns, a Markdown table, or comma-separated values (RFC 4180). Ends with a line break. */
export function formatTable({ head, rows, notes }: Table, format: TableFormat): string {
  const lines = [head, ...rows];
  if (format === 'csv') return lines.map((cells) => `${cells.map(csvCell).join(',')}\n`).join('');
  if (format === 'markdown') {
    const line = (cells: readonly string[]) =>
      `| ${cells.map((cell) => plain(cell).replaceAll('|', '\\|')).join(' | ')} |\n`;
    const rule = `| ${head.map((_, i) => (i === 0 ? '---' : '---:')).join(' | ')} |\n`;
    return `${line(head)}${rule}${rows.map(line).join('')}\n${notes.join(' ')}\n`;
  }
  const widths = head.map((_, column) => Math.max(...lines.map((cells) => [...plain(cells[column] ?? '')].length)));
  const text = lines.map((cells) =>
    cells
      .map((value, column) => plain(value) + ' '.repeat((widths[column] ?? 0) - [...plain(value)].length))
      .join('  ')
      .trimEnd(),
  );
  return `${[...text, '', ...notes].join('\n')}\n`;
}

/** Of one line: nothing in it moves the cursor or turns the direction of reading. */
const plain = (text: string): string => text.replace(/[\p{Cc}\u202a-\u202e\u2066-\u2069]/gu, '�');
