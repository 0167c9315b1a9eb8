/** How evaluations are listed and shown. */
import type { Command } from 'commander';
import type { EvalOutputItem, EvalRun } from '../../shared/contract/evals.ts';
import type { List } from '../../shared/contract/files.ts';
import type { ApiOptions } from './api.ts';
import { csvCell } from './csv.ts';
import { wholeWithin } from './parse.ts';

export interface JsonOption extends ApiOptions {
  readonly json?: boolean;
}

export interface Paged {
  readonly limit: number;
}

/** What a list asks of the API at once. */
const PAGE = 100;

/** Adds `--limit` to a command that lists. */
export function paged(command: Command, fallback: number): Command {
  return command.option('--limit <n>', 'at most so many', wholeWithin(1, 1_000_000), fallback);
}

export interface Listed<T> {
  readonly data: readonly T[];
  readonly hasMore: boolean;
}

/** Page after page, until there are as many as asked for or no more. */
export async function readPages<T extends { readonly id: string }>(
  { limit }: Paged,
  page: (query: { readonly limit: number; readonly after?: string }) => Promise<List<T>>,
): Promise<Listed<T>> {
  const data: T[] = [];
  for (let after: string | undefined; ; ) {
    const { data: read, has_more } = await page({
      limit: Math.min(PAGE, limit - data.length),
      ...(after === undefined ? {} : { after }),
    });
    data.push(...read);
    after = read.at(-1)?.id;
    if (!has_more || after === undefined) return { data, hasMore: false };
    if (data.length >= limit) return { data, hasMore: true };
  }
}

/** A list that ends before all of them says so; on standard error, so that a pipe gets the table alone. */
export function tellMore({ data, hasMore }: Listed<unknown>, things: string): void {
  if (hasMore) process.stderr.write(`there are more ${things} than these ${data.length}: --limit\n`);
}

/** What came of a run; of one that has not completed, why comes first. */
export function runText(run: EvalRun): string {
  const { passed, failed, errored, total } = run.result_counts;
  const lines = [
    run.error === null ? `${run.id} ${run.status}` : `${run.id} ${run.status}: ${run.error.message}`,
    ...(run.error?.param == null ? [] : [`  at fault: ${run.error.param}`]),
  ];
  if (total > 0) lines.push(`  ${passed} of ${total} passed, ${failed} failed, ${errored} errored`);
  if (passed + failed > 0)
    for (const one of run.per_testing_criteria_results)
      lines.push(`  ${one.testing_criteria}: ${one.passed} passed, ${one.failed} failed`);
  // Opens in a browser, without a key.
  if (run.status === 'completed') lines.push(`  ${run.report_url}`);
  return `${lines.join('\n')}\n`;
}

/** So many criteria have room in a line. */
const MOST_CRITERIA = 3;
const ANSWER_CHARS = 80;

export function itemCells(one: EvalOutputItem): string[] {
  return [
    String(one.datasource_item_id + 1),
    one.status,
    scores(one),
    answerOf(one).replaceAll(/\s+/g, ' ').slice(0, ANSWER_CHARS),
  ];
}

/** Scores of a few criteria; of many those that were not met. */
function scores({ results }: EvalOutputItem): string {
  const written = (one: (typeof results)[number]): string =>
    `${one.name} ${one.error === undefined ? short(one.score) : '!'}`;
  if (results.length <= MOST_CRITERIA) return results.map(written).join(', ');
  const missed = results.filter(({ passed }) => !passed);
  const shown = missed.slice(0, MOST_CRITERIA - 1).map(written);
  const more = missed.length - shown.length;
  return [
    `${results.length - missed.length} of ${results.length}`,
    ...shown,
    ...(more > 0 ? [`${more} more`] : []),
  ].join(', ');
}

export function answerOf({ sample }: EvalOutputItem): string {
  return sample.error?.message ?? sample.output[0]?.content ?? '';
}

/** Comma-separated values with one column a criterion (RFC 4180). */
export function itemsCsv(items: readonly EvalOutputItem[]): string {
  const names = [...new Set(items.flatMap(({ results }) => results.map(({ name }) => name)))];
  const head = ['item', 'status', ...names, 'answer', 'error'];
  const rows = items.map((one) => [
    String(one.datasource_item_id + 1),
    one.status,
    ...names.map((name) => {
      const result = one.results.find((candidate) => candidate.name === name);
      return result === undefined || result.error !== undefined ? '' : String(result.score);
    }),
    one.sample.output[0]?.content ?? '',
    one.sample.error?.message ?? '',
  ]);
  return [head, ...rows].map((cells) => `${cells.map(csvCell).join(',')}\n`).join('');
}

const short = (score: number): string => String(Math.round(score * 1000) / 1000);

export function print(value: unknown): void {
  process.stdout.write(`${JSON.stringify(value, null, 2)}\n`);
}
