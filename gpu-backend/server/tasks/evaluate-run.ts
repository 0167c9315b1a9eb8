/** What a run asks, one way for items of a client's own and for benchmarks: its questions, and the report over what came of them. */
import { join } from 'node:path';
import { referencesOf } from '../../../shared/contract/evalReferences.ts';
import type { EvalItemReport, EvaluateTask } from '../../../shared/contract/evalTask.ts';
import { buildReport } from '../../eval/report/build.ts';
import type { ReportRecord } from '../../eval/report/items.ts';
import { nameOf, OwnItems, ownRecord } from '../../eval/report/own-items.ts';
import type { EvalReport } from '../../eval/report/schema.ts';
import { makeThumbnails, picturesOf, type Thumbnails } from '../../eval/report/thumbnails.ts';
import type { EvalItem, EvalSpec, Json } from '../../eval/task.ts';
import type { TaskContext } from '../task-runner.ts';
import type { Asker } from './evaluate-ask.ts';
import { Benchmark, itemOf } from './evaluate-benchmark.ts';
import { ItemJudge } from './evaluate-items.ts';
import { countLines, readLines } from './evaluate-lines.ts';
import { collect } from './evaluate-report.ts';
import type { Results } from './evaluate-results.ts';

/** One question of a run: its number, and how its result comes to be. */
export interface Work {
  readonly index: number;
  readonly work: () => Promise<EvalItemReport>;
}

export interface Run {
  /** Questions that count: what a benchmark asks beside its own is none. */
  readonly counted: number;
  /** All that are asked. */
  readonly questions: number;
  work(): AsyncGenerator<Work, void, undefined>;
  /** Over what is written until now. @param note behind the title, for a run that did not come to its end */
  report(results: Results, note: string): Promise<Written>;
  close(): Promise<void>;
}

export interface Written {
  readonly items: readonly EvalItem[];
  readonly report: EvalReport;
  readonly pictures: Thumbnails;
}

type Context = Pick<TaskContext, 'edge' | 'workDir' | 'signal'>;
type Source<Type extends EvaluateTask['source']['type']> = Extract<EvaluateTask['source'], { type: Type }>;

/** @throws TaskFailure where the data, or what is asked of them, are at fault: nothing has been asked then */
export async function openRun(id: string, spec: EvaluateTask, asker: Asker, context: Context): Promise<Run> {
  const { source } = spec;
  return source.type === 'benchmark'
    ? await benchmarkRun(id, spec, source, asker, context)
    : await linesRun(id, spec, source, asker, context);
}

async function benchmarkRun(
  id: string,
  spec: EvaluateTask,
  source: Source<'benchmark'>,
  asker: Asker,
  context: Context,
): Promise<Run> {
  const benchmark = await Benchmark.open(source, context);
  const { laid, on } = benchmark;
  const model = spec.model ?? '';
  return {
    counted: laid.counted,
    questions: laid.questions,
    async *work() {
      for await (const question of on.questions())
        yield {
          index: question.index,
          work: () =>
            benchmark.answer(question, model, (messages, { maxTokens, choices }) =>
              asker.ask({
                requestId: `${id}-${question.index}`,
                model,
                messages,
                sampling: { temperature: 0, max_completion_tokens: maxTokens },
                ...(choices === undefined ? {} : { choices }),
              }),
            ),
        };
    },
    async report(results, note) {
      const items = await collect(results, itemOf);
      const report = await buildReport({
        spec: laid.spec,
        title: laid.title + note,
        model: { name: model, identity: spec.models[model] ?? model },
        run: runFacts(spec),
        items,
        records: on.records(),
      });
      return { items, report, pictures: await makeThumbnails(picturesOf(report), on.records()) };
    },
    close: () => benchmark.close(),
  };
}

async function linesRun(
  id: string,
  spec: EvaluateTask,
  source: Source<'lines'>,
  asker: Asker,
  { edge, workDir, signal }: Context,
): Promise<Run> {
  const path = join(workDir, 'lines.jsonl');
  await edge.download(`/internal/tasks/${encodeURIComponent(id)}/lines`, path, source.lines.file);
  const judge = new ItemJudge(spec, source, asker, signal);
  const checks = {
    references: referencesOf(spec.criteria, source.prompt),
    problemOf: ({ item }: { readonly item: unknown }) => judge.keyProblem(item),
  };
  const total = await countLines(path, source.lines, checks, signal);
  const model = spec.model ?? '';
  return {
    counted: total,
    questions: total,
    async *work() {
      for await (const line of readLines(path, signal))
        yield { index: line.index, work: () => judge.judge(line, `${id}-${line.index}`) };
    },
    async report(results, note) {
      const own = new OwnItems(spec.criteria);
      const items = await collect(results, (one) => own.add(one));
      const report = await buildReport({
        spec: specOf(spec, source, total),
        title: (spec.evalName === '' ? spec.evalId : spec.evalName) + note,
        model: { name: model === '' ? 'given answers' : model, identity: spec.models[model] ?? model },
        run: runFacts(spec),
        items,
        records: recordsOf(results),
        own: own.facts(),
      });
      const shown = new Set(report.wrong.shown.map(({ record }) => record));
      return { items, report, pictures: await makeThumbnails(picturesOf(report), picturesIn(path, judge, shown)) };
    },
    close: async () => {},
  };
}

function runFacts({ runName, createdAt, metadata }: EvaluateTask) {
  return { name: runName, createdAt: createdAt ?? null, metadata: metadata ?? {} };
}

async function* recordsOf(results: Results): AsyncGenerator<ReportRecord> {
  for await (const one of results.all()) yield ownRecord(one);
}

/** What the run did, as far as two runs must agree in it to be compared. */
function specOf(spec: EvaluateTask, { prompt, sampling, lines }: Source<'lines'>, total: number): EvalSpec {
  return {
    task: spec.evalId,
    version: 1,
    protocol: { prompt, sampling, criteria: spec.criteria } as unknown as { readonly [key: string]: Json },
    aggregate: 'records',
    data: { digest: lines.file.sha256, records: total },
    mode: 'sequence',
    variants: {},
  };
}

/** Pictures of some items, by name. The engine has read each of them: what it could not read is no picture of an answered item. */
async function* picturesIn(path: string, judge: ItemJudge, wanted: ReadonlySet<string>) {
  if (wanted.size === 0) return;
  // Also after the run was given up: its report is what somebody still wants.
  for await (const line of readLines(path, new AbortController().signal))
    if (wanted.has(nameOf(line.index))) yield { images: await judge.pictures(line) };
}
