/** Two runs of evaluations side by side, from what the edge has of their items. */
import type { EvalCompareRequest } from '../../shared/contract/evalCompare.ts';
import type { Grader } from '../../shared/contract/evals.ts';
import { EvalItemsPage } from '../../shared/contract/evalTask.ts';
import { type ComparedRun, compareReports } from '../eval/report/compare.ts';
import { picturesIn } from '../eval/report/html/page.ts';
import type { ReportRecord } from '../eval/report/items.ts';
import { OwnItems, ownRecord } from '../eval/report/own-items.ts';
import { type EvalComparison, evalSpecSchema } from '../eval/report/schema.ts';
import { picturesOf, type Thumbnails } from '../eval/report/thumbnails.ts';
import type { EvalItem, EvalSpec } from '../eval/task.ts';
import type { Thumbnail } from '../vision/encode.ts';
import type { EdgeClient } from './edge-client.ts';
import { itemOf } from './tasks/evaluate-benchmark.ts';

type Written = EvalItemsPage['items'][number];
type Side = EvalCompareRequest['first'];
type Edge = Pick<EdgeClient, 'get' | 'getBlob'>;

/** Of an answer, for a report, which shows no more. */
const MAX_SHOWN_CHARS = 2_000;
/** Of a run's page: thumbnails.ts bounds its pictures, the gallery its words. */
const MAX_PAGE_BYTES = 32 << 20;

/**
 * @throws NotComparable where they did different things and `force` is not asked for, or share no question
 */
export async function compareEvalRuns(
  edge: Edge,
  asked: EvalCompareRequest,
  signal: AbortSignal,
): Promise<EvalComparison> {
  const [first, second] = [await runOf(edge, asked.first, signal), await runOf(edge, asked.second, signal)];
  const { title, force } = asked;
  return await compareReports({ first, second, title, force, records: recordsOf(edge, asked.second, signal) });
}

/**
 * Pictures of the questions that a comparison shows, from the pages of both runs: one of the two was wrong there, so that its page shows it unless it has
 * more wrong answers than it lists.
 */
export async function comparedPictures(
  edge: Edge,
  { first, second }: EvalCompareRequest,
  comparison: EvalComparison,
  signal: AbortSignal,
): Promise<Thumbnails> {
  const wanted = picturesOf(comparison);
  const found = new Map<string, Thumbnail>();
  for (const { run } of first.run === second.run ? [first] : [first, second]) {
    if ([...wanted].every((sha256) => found.has(sha256))) break;
    // A comparison without a picture says more than none.
    const path = `/internal/tasks/${encodeURIComponent(run)}/report`;
    const page = await edge.getBlob(path, MAX_PAGE_BYTES, signal).catch(() => null);
    if (page === null) continue;
    for (const [sha256, picture] of picturesIn(new TextDecoder().decode(page)))
      if (wanted.has(sha256)) found.set(sha256, picture);
  }
  return found;
}

async function runOf(edge: Edge, side: Side, signal: AbortSignal): Promise<ComparedRun> {
  const spec = evalSpecSchema.parse(side.spec) as EvalSpec;
  const own = side.isOwn ? new OwnItems((spec.protocol.criteria ?? []) as unknown as Grader[]) : null;
  const items: EvalItem[] = [];
  for await (const one of written(edge, side.run, signal)) {
    const item = own === null ? itemOf(one) : own.add(one);
    items.push({
      ...item,
      answer: item.answer.slice(0, MAX_SHOWN_CHARS),
      parsed: item.parsed?.slice(0, MAX_SHOWN_CHARS) ?? null,
    });
  }
  const { model, name, isOwn } = side;
  return { spec, model, items, isOwn, ...(name === null ? {} : { label: name }) };
}

/** Questions as they were asked, each once. */
async function* recordsOf(edge: Edge, { run, isOwn }: Side, signal: AbortSignal): AsyncGenerator<ReportRecord> {
  for await (const one of written(edge, run, signal))
    if (isOwn) yield ownRecord(one);
    else if (itemOf(one).variant.control === 'none') yield publishedRecord(one);
}

function publishedRecord({ datasourceItem: item }: Written): ReportRecord {
  const strings = (value: unknown): string[] =>
    Array.isArray(value) ? value.filter((one): one is string => typeof one === 'string') : [];
  return {
    id: String(item.record),
    question: typeof item.question === 'string' ? item.question : '',
    options: strings(item.options),
    images: strings(item.images).map((image) => ({ sha256: image.replace(/^sha256:/, '') })),
  };
}

async function* written(edge: Edge, run: string, signal: AbortSignal): AsyncGenerator<Written> {
  for (let after = -1; ; ) {
    signal.throwIfAborted();
    const page = await edge.get(`/internal/tasks/${encodeURIComponent(run)}/items?after=${after}`);
    const { items } = EvalItemsPage.parse(page);
    yield* items;
    const last = items.at(-1);
    if (last === undefined) return;
    after = last.line;
  }
}
