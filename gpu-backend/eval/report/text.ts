import { counted, coverageWords, isWhole } from './coverage.ts';
import { stars, written } from './html/compare.ts';
import { comparisonPowerWords, powerWords } from './power-words.ts';
import type { EvalComparison, EvalReport } from './schema.ts';
import { percent, signed } from './vision.ts';

/** Cells of a bar of 0 … 100 %. */
const BAR_CELLS = 24;
const MAX_LABEL = 38;
const MIN_LABEL = 18;

/** A report for a terminal: what a person wants to see when a run ends. Control characters of models and data sets do not reach the terminal. */
export function renderText(report: EvalReport): string {
  const { headline: own, counts, baseline, anchors } = report;
  const lines = [`${report.title} · ${report.model.name}`, ''];
  if (own === null) lines.push('  no reference is published for these questions: nothing to score');
  else {
    const interval = own.method === 'none' ? 'one group only: no interval' : range(own.interval);
    lines.push(
      `  ${percent(own.mean)}   95 %: ${interval}   ${counted(counts.scored, 'answer')}, ${counted(own.clusters, 'group')}`,
    );
  }
  const part = coverageWords(report);
  if (part !== null)
    lines.push(`  Only a part was asked: ${part}. Published scores are over all and do not compare with it.`);
  const without = [
    ...(counts.errors > 0 ? [`${counts.errors} without an answer`] : []),
    ...(counts.unparsed > 0 ? [`${counts.unparsed} from which no answer could be read`] : []),
    ...(counts.withoutReference > 0 ? [`${counts.withoutReference} without a published reference`] : []),
  ];
  if (without.length > 0) lines.push(`  ${without.join(', ')}`);
  const rows: Row[] = [
    ...(own === null ? [] : [{ label: report.model.name, value: own.mean, interval: own.interval, isOwn: true }]),
    ...(isWhole(report) ? nearest(anchors, own?.mean ?? 0) : []),
    ...(baseline.majority === null ? [] : [{ label: `always “${baseline.majorityAnswer}”`, value: baseline.majority }]),
    ...(baseline.chance === null ? [] : [{ label: 'guessing', value: baseline.chance }]),
  ];
  lines.push('', ...table(rows.sort((a, b) => b.value - a.value)));
  for (const { cause, items } of report.errors.slice(0, 3)) lines.push(`  ${items} × ${cause}`);
  if (report.categories.length > 0) {
    const sorted = report.categories.toSorted((a, b) => b.mean - a.mean);
    lines.push('', '  Categories', ...table(sorted.map((one) => ({ ...one, label: one.name, value: one.mean }))));
  }
  if (report.imageOrder !== null) {
    const { orders, sameAnswer, allRight, groupsAllRight } = report.imageOrder;
    lines.push('', '  Orders of the pictures');
    lines.push(...table(orders.map((one) => ({ ...one, label: one.order, value: one.mean }))));
    lines.push(
      `  same answer in every order ${percent(sameAnswer.mean)}, right in every order ${percent(allRight.mean)}, groups right throughout ${percent(groupsAllRight.mean)}`,
    );
  }
  if (report.optionRotation !== null) {
    const { rotations, circular } = report.optionRotation;
    lines.push(
      '',
      `  Options rotated: right under all ${rotations.length} rotations ${percent(circular.mean)} (${range(circular.interval)})`,
    );
    lines.push(...table(rotations.map((one) => ({ ...one, label: `moved by ${one.by}`, value: one.mean }))));
  }
  if (report.vision !== null) {
    lines.push('', `  Does it use every picture? ${report.vision.summary}`);
    for (const { outcome, words } of report.vision.checks) lines.push(`  ${MARKS[outcome]} ${words}`);
  }
  const power = powerWords(report);
  if (power !== null) lines.push('', `  ${power}`);
  return `${lines.map(plain).join('\n')}\n`;
}

/** A comparison for a terminal. */
export function renderComparisonText(comparison: EvalComparison): string {
  const { first, second, change, counts, pairs, clusters, categories, specDifferences } = comparison;
  const lines = [comparison.title, ''];
  for (const { path, first: before, second: after } of specDifferences)
    lines.push(`  the runs differ in ${path}: ${before} and ${after}`);
  lines.push(
    ...table([first, second].map(({ label, mean, interval }) => ({ label, value: mean, interval }))),
    `  ${second.label} less ${first.label}: ${signed(change.difference)} points (${signed(change.interval[0])} … ${signed(change.interval[1])}), ${written(change.pValue)} (${change.test}), ${counted(pairs, 'pair')} in ${counted(clusters, 'group')}`,
  );
  if (counts !== null)
    lines.push(
      `  both right ${counts.both}, only ${first.label} ${counts.onlyFirst}, only ${second.label} ${counts.onlySecond}, neither ${counts.neither}`,
    );
  if (categories.length > 0) {
    lines.push('', `  ${second.label} less ${first.label} by category (Holm: * 0.05, ** 0.01, *** 0.001)`);
    for (const { name, difference, interval, adjustedPValue } of categories)
      lines.push(
        `  ${fit(name)} ${signed(difference).padStart(6)}  (${signed(interval[0])} … ${signed(interval[1])}) ${stars(adjustedPValue)}`.trimEnd(),
      );
  }
  lines.push('', `  ${comparison.verdict.words}`);
  if (comparison.verdict.outcome !== 'unclear') lines.push(`  ${comparisonPowerWords(comparison)}`);
  return `${lines.map(plain).join('\n')}\n`;
}

const MARKS = { yes: '✓', no: '✗', unclear: '–' } as const;

interface Row {
  readonly label: string;
  readonly value: number;
  readonly interval?: readonly [number, number];
  readonly isOwn?: boolean;
  /** No value, but its place among them. */
  readonly isGap?: boolean;
}

function table(rows: readonly Row[]): string[] {
  const longest = Math.max(MIN_LABEL, ...rows.map(({ label }) => [...plain(label)].length));
  return rows.map(({ label, value, interval, isOwn, isGap }) => {
    if (isGap === true) return `    ${label}`;
    const cells = Math.round(BAR_CELLS * Math.max(0, Math.min(1, value)));
    const bar = '█'.repeat(cells).padEnd(BAR_CELLS, '·');
    return `${isOwn === true ? '▸' : ' '} ${fit(label, longest)} ${bar} ${percent(value).padStart(7)}${interval === undefined ? '' : `  ${range(interval)}`}`;
  });
}

/** The published scores that stand around this one; a terminal has no room for all. Where some are left out above or below, a row says how many. */
function nearest(anchors: EvalReport['anchors'], mean: number): Row[] {
  const SHOWN = 8;
  const shown = new Set(
    anchors.toSorted((a, b) => Math.abs(a.value - mean) - Math.abs(b.value - mean)).slice(0, SHOWN),
  );
  const values = [...shown].map(({ value }) => value);
  const left = anchors.filter((one) => !shown.has(one));
  const gap = (count: number, value: number): Row[] =>
    count === 0 ? [] : [{ label: `… ${count} more published`, value, isGap: true }];
  const [most, least] = [Math.max(...values), Math.min(...values)];
  return [
    ...gap(left.filter(({ value }) => value >= most).length, most + 1e-9),
    ...[...shown].map(({ name, value, kind }) => ({
      label: kind === 'random' ? `${name.toLowerCase()}, as published` : name,
      value,
    })),
    ...gap(left.filter(({ value }) => value < most).length, least - 1e-9),
  ];
}

function range([low, high]: readonly [number, number]): string {
  return `${(100 * low).toFixed(1)} … ${(100 * high).toFixed(1)}`;
}

function fit(label: string, length = MAX_LABEL): string {
  const characters = [...plain(label)];
  const most = Math.min(length, MAX_LABEL);
  return (characters.length > most ? `${characters.slice(0, most - 1).join('')}…` : characters.join('')).padEnd(most);
}

/** Of one line: nothing in it moves the cursor or turns the direction of reading. */
function plain(text: string): string {
  return text.replace(/[\p{Cc}\u202a-\u202e\u2066-\u2069]/gu, '�');
}
