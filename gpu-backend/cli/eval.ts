import { Command } from 'commander';
import { AnswerCache } from '../eval/run/answer-cache.ts';
import { ModelUnusable } from '../eval/run/model-unusable.ts';
import { type EvalRunResult, runEval, TooManyErrors } from '../eval/run/run.ts';
import { RunFolderError } from '../eval/run/run-folder.ts';
import type { EvalModel } from '../eval/task.ts';
import { CliError } from './error.ts';
import { evalModel, judgeModel } from './eval-model.ts';
import { addEvalOptions, type EvalFlags } from './eval-options.ts';
import { finishRun, type ShowFlags, showRun } from './eval-report.ts';
import { byImages, summaryOf } from './eval-summary.ts';
import { openTask, promptForm, SKILLS, taskTitles } from './eval-task.ts';
import { ProgressBar } from './progress.ts';
import { printTable } from './table.ts';

/** `mantis eval`: how good a model is on a benchmark, and what its answers rest on. */
export function evalCommand(): Command {
  const command = new Command('eval')
    .description('measure a model on a benchmark, with the controls that show whether it looks at the pictures')
    .argument('<task>', 'name of a benchmark; `mantis eval list` prints them')
    .action(runTask);
  addEvalOptions(command);
  command.addHelpText(
    'after',
    `
Examples:
  mantis eval skills --control text-only
  mantis eval blink --data BLINK/ --model DIR --out runs/blink --cache runs/cache
  mantis eval nlvr2 --data nlvr2.parquet --model gpt-4o --base-url https://api.openai.com/v1 --limit 200
  mantis eval mantis-eval --data test.parquet --model cogvlm --base-url http://127.0.0.1:8000/v1 --mode merge
  mantis eval blink --data BLINK/ --model OTHER --out runs/other --compare runs/blink`,
  );
  command.addCommand(
    new Command('list').description('names of all benchmarks').action(() => {
      printTable(
        ['task', 'benchmark'],
        taskTitles().map(({ name, title }) => [name, title]),
      );
    }),
  );
  command.addCommand(
    new Command('show')
      .description('the report of a run again, or what changed from another run to it')
      .argument('<folder>', 'what --out named')
      .option('--compare <report>', 'another run of the same questions: its folder or report.json')
      .option('--force', 'compare runs that did different things')
      .option('--html <file>', 'as one HTML file')
      .option('--json', 'as one line of JSON')
      // The command above has options of the same names, and takes them first.
      .action((folder: string, _: ShowFlags, show: Command) => showRun(folder, show.optsWithGlobals<ShowFlags>())),
  );
  return command;
}

async function runTask(name: string, flags: EvalFlags): Promise<void> {
  const { task, records } = await openTask(name, flags);
  const models: EvalModel[] = [];
  const cache = flags.cache === undefined ? undefined : await AnswerCache.open(flags.cache);
  const leave = new AbortController();
  const onSignal = (): void => leave.abort(new CliError('stopped'));
  for (const signal of ['SIGINT', 'SIGTERM'] as const) process.once(signal, onSignal);
  try {
    const model = await evalModel(flags);
    models.push(model);
    const judge = await judgeModel(flags);
    if (judge !== undefined) models.push(judge);
    const bar = new ProgressBar(`${task.name}, ${model.name}`);
    const result = await runEval({
      task,
      records,
      model,
      asked: { orders: flags.orders, rotate: flags.rotate === true, controls: flags.control },
      form: await promptForm(flags),
      maxErrorShare: flags.maxErrors,
      signal: leave.signal,
      onProgress: ({ done, total, errors }) =>
        bar.update(done, total, errors === 0 ? '' : `${errors} without an answer`),
      ...(judge === undefined ? {} : { judge }),
      ...(flags.out === undefined ? {} : { out: flags.out }),
      ...(cache === undefined ? {} : { cache }),
    }).finally(() => bar.end());
    const { report, comparison } = await finishRun({ task, records, model, result }, flags);
    tellCounts(result);
    const summary = {
      ...summaryOf(report),
      ...(name === SKILLS ? { byImages: await byImages(result.items, records) } : {}),
      model: model.name,
      ...(comparison === null ? {} : { change: comparison.change, verdict: comparison.verdict }),
    };
    if (flags.json === true) process.stdout.write(`${JSON.stringify(summary)}\n`);
  } catch (error) {
    throw told(error, flags);
  } finally {
    for (const signal of ['SIGINT', 'SIGTERM'] as const) process.off(signal, onSignal);
    for (const model of models) await model.close();
    await cache?.close();
    await records.close();
  }
}

/** How the items came about, which is no part of the report. */
function tellCounts({ counts }: EvalRunResult): void {
  const from = [
    counts.resumed > 0 ? `${counts.resumed} answered before` : '',
    counts.fromCache > 0 ? `${counts.fromCache} from the cache` : '',
    counts.errors > 0 ? `${counts.errors} without an answer` : '',
  ].filter((part) => part !== '');
  process.stderr.write(`${counts.done} questions${from.length === 0 ? '' : `, ${from.join(', ')}`}\n`);
}

/** What is the user's to mend in one sentence, and how a run goes on. */
function told(error: unknown, { out }: EvalFlags): unknown {
  const goesOn = out === undefined ? '' : `\nWhat was answered is in ${out}; the same command goes on from there.`;
  if (error instanceof RunFolderError) return new CliError(error.message, 2);
  if (error instanceof TooManyErrors || error instanceof ModelUnusable)
    return new CliError(`${error.message}${goesOn}`, 1);
  if (error instanceof CliError && error.message === 'stopped') return new CliError(`stopped${goesOn}`, 1);
  return error;
}
