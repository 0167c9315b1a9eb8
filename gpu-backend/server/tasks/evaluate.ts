import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { StagedObject } from '../../../shared/contract/backend.ts';
import type { EvalItemReport, EvalItemsPage, EvaluateResult, EvaluateTask } from '../../../shared/contract/evalTask.ts';
import { LIMITS } from '../../../shared/contract/limits.ts';
import type { ModelService } from '../../engine/service.ts';
import { buildReport, reportJson } from '../../eval/report/build.ts';
import { renderHtml } from '../../eval/report/html/report.ts';
import { type ReportRecord, recordsOf } from '../../eval/report/items.ts';
import { nameOf, OwnItems, ownRecord } from '../../eval/report/own-items.ts';
import type { EvalReport } from '../../eval/report/schema.ts';
import { makeThumbnails, picturesOf, type Thumbnails } from '../../eval/report/thumbnails.ts';
import type { EvalItem, EvalSpec, Json } from '../../eval/task.ts';
import type { TaskContext, TaskHandler } from '../task-runner.ts';
import { Asker } from './evaluate-ask.ts';
import { Benchmark, itemOf } from './evaluate-benchmark.ts';
import { ItemJudge } from './evaluate-items.ts';
import { countLines, readLines } from './evaluate-lines.ts';
import { Results } from './evaluate-results.ts';

type Written = EvalItemsPage['items'][number];

/** Of an answer, for a report, which shows no more. */
const MAX_SHOWN_CHARS = 2_000;

/** One question of a run: its number, and how its result comes to be. */
interface Work {
  readonly index: number;
  readonly work: () => Promise<EvalItemReport>;
}

/**
 * Answers and judges the items of a run, many at once, behind everything that somebody waits for. What was judged is brought to the edge as it comes: another
 * process goes on behind it.
 */
export function evaluateHandler(service: ModelService): TaskHandler<EvaluateTask> {
  return async ({ id, tenant, spec, leaseToken }, context) => {
    const { edge, workDir, signal, log } = context;
    const asker = new Asker({ service, edge, taskId: id, tenant, models: spec.models, signal });
    const results = new Results({ edge, taskId: id, leaseToken, signal });
    try {
      if (spec.source.type === 'benchmark') {
        const { source } = spec;
        const benchmark = await Benchmark.open(source, edge, workDir);
        try {
          results.count(await benchmark.count());
          const model = spec.model ?? '';
          await answerAll(questionsOf(benchmark, model, id, asker), results, signal);
          const items = await collect(results, itemOf);
          const report = await buildReport({
            spec: benchmark.spec(),
            title: benchmark.task.title,
            model: { name: model, identity: spec.models[model] ?? model },
            items,
            records: recordsOf(benchmark.records, benchmark.spec().data.records),
          });
          const pictures = await makeThumbnails(
            picturesOf(report),
            recordsOf(benchmark.records, benchmark.spec().data.records),
          );
          return await stageReports(id, context, report, pictures);
        } finally {
          await benchmark.close();
        }
      }
      const { source } = spec;
      const path = join(workDir, 'lines.jsonl');
      await edge.download(`/internal/tasks/${encodeURIComponent(id)}/lines`, path, source.lines.file);
      const total = await countLines(path, source.lines, signal);
      results.count(total);
      log.info({ items: total, model: spec.model }, 'evaluation begins');
      const judge = new ItemJudge(spec, source, asker, signal);
      await answerAll(linesOf(path, judge, id, signal), results, signal);
      const model = spec.model ?? '';
      const own = new OwnItems(spec.criteria);
      const items = await collect(results, (one) => own.add(one));
      const report = await buildReport({
        spec: plainSpec(spec, source, total),
        title: spec.evalName === '' ? spec.evalId : spec.evalName,
        model: { name: model === '' ? 'given answers' : model, identity: spec.models[model] ?? model },
        run: { name: spec.runName, createdAt: null, metadata: {} },
        items,
        records: plainRecords(results),
        own: own.facts(),
      });
      const shown = new Set(report.wrong.shown.map(({ record }) => record));
      const pictures = await makeThumbnails(picturesOf(report), picturesIn(path, judge, shown, signal));
      return await stageReports(id, context, report, pictures);
    } finally {
      await results.close();
    }
  };
}

async function* linesOf(path: string, judge: ItemJudge, id: string, signal: AbortSignal): AsyncGenerator<Work> {
  for await (const line of readLines(path, signal))
    yield { index: line.index, work: () => judge.judge(line, `${id}-${line.index}`) };
}

async function* questionsOf(benchmark: Benchmark, model: string, id: string, asker: Asker): AsyncGenerator<Work> {
  for await (const question of benchmark.questions())
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
}

/** So many at once; those that are written already are passed over. The first failure ends it. */
async function answerAll(questions: AsyncGenerator<Work>, results: Results, signal: AbortSignal): Promise<void> {
  const isDone = await results.done();
  let failure: { readonly error: unknown } | null = null;
  const lane = async (): Promise<void> => {
    while (failure === null) {
      const { done, value } = await questions.next();
      if (done === true) return;
      if (isDone(value.index)) continue;
      signal.throwIfAborted();
      results.add(await value.work());
    }
  };
  const lanes = Array.from({ length: LIMITS.evals.itemsInFlight }, () =>
    lane().catch((error: unknown) => {
      failure ??= { error };
    }),
  );
  await Promise.all(lanes);
  await questions.return(undefined);
  if (failure !== null) throw (failure as { readonly error: unknown }).error;
  await results.flush();
}

/** Items of the report, in order. What is long stays at the edge: a report shows the beginning of an answer, and of few questions. */
async function collect(results: Results, itemOf: (one: Written) => EvalItem): Promise<EvalItem[]> {
  const items: EvalItem[] = [];
  for await (const one of results.all()) {
    const item = itemOf(one);
    items.push({
      ...item,
      answer: item.answer.slice(0, MAX_SHOWN_CHARS),
      parsed: item.parsed?.slice(0, MAX_SHOWN_CHARS) ?? null,
    });
  }
  return items;
}

async function* plainRecords(results: Results): AsyncGenerator<ReportRecord> {
  for await (const one of results.all()) yield ownRecord(one);
}

/** What the run did, as far as two runs must agree in it to be compared. */
function plainSpec(
  spec: EvaluateTask,
  source: Extract<EvaluateTask['source'], { type: 'lines' }>,
  total: number,
): EvalSpec {
  const { prompt, sampling, lines } = source;
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
async function* picturesIn(path: string, judge: ItemJudge, wanted: ReadonlySet<string>, signal: AbortSignal) {
  if (wanted.size === 0) return;
  for await (const line of readLines(path, signal))
    if (wanted.has(nameOf(line.index))) yield { images: await judge.pictures(line) };
}

async function stageReports(
  taskId: string,
  { edge, workDir }: Pick<TaskContext, 'edge' | 'workDir'>,
  report: EvalReport,
  pictures: Thumbnails,
): Promise<EvaluateResult> {
  const stage = async (name: string, text: string) => {
    if (Buffer.byteLength(text) > LIMITS.evals.maxReportBytes) return null;
    const path = join(workDir, name);
    await writeFile(path, text);
    return StagedObject.parse(await edge.putFile(`/internal/tasks/${encodeURIComponent(taskId)}/problems`, path));
  };
  return {
    reportJson: await stage('report.json', reportJson(report)),
    reportHtml: await stage('report.html', renderHtml(report, pictures)),
  };
}
