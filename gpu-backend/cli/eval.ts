import { join } from 'node:path';
import { Command, Option } from 'commander';
import type { EvalReport } from '../eval/report/schema.ts';
import { AnswerCache } from '../eval/run/answer-cache.ts';
import type { EvalModel } from '../eval/task.ts';
import { CliError } from './error.ts';
import { requireFlagsOfUse, requireOutBesideData } from './eval-check.ts';
import { dryRun } from './eval-dry-run.ts';
import { listTasks } from './eval-list.ts';
import { evalModel, judgeModel, judgePlace, modelPlace } from './eval-model.ts';
import { addEvalOptions, type EvalFlags, givenFlags } from './eval-options.ts';
import { requireWritable } from './eval-output.ts';
import { type Asking, type ReadyRun, readyRun, runTask } from './eval-run.ts';
import { type ShowFlags, showRuns } from './eval-show.ts';
import { formatTable, leaderboard, tableFormats } from './eval-table.ts';
import { dataOf, namedTasks, type OpenedTask, openTask, promptForm, taskOf } from './eval-task.ts';
import { ProgressBar } from './progress.ts';

/** `mantis eval`: how good a model is on a benchmark, and what its answers rest on. */
export function evalCommand(): Command {
  const command = new Command('eval')
    .description('measure a model on benchmarks, with the controls that show whether it looks at the pictures')
    .argument('<task...>', 'names of benchmarks, also with commas; `mantis eval list` prints them')
    .action((words: string[], flags: EvalFlags, self: Command) => runTasks(words, flags, self));
  addEvalOptions(command);
  command.addHelpText(
    'after',
    `
The report goes to standard output, progress to standard error.

Examples:
  mantis eval skills --control text-only
  mantis eval blink --data BLINK/ --dry-run
  mantis eval own --data held-out.jsonl --choices true,false --control text-only --out runs/mine
  mantis eval blink --data BLINK/ --model DIR --out runs/blink --cache runs/cache
  mantis eval nlvr,blink,skills --data data/ --out runs/all
  mantis eval nlvr2 --data nlvr2.parquet --model gpt-4o --base-url https://api.openai.com/v1 --limit 200
  mantis eval mantis-eval --data test.parquet --model cogvlm --base-url http://127.0.0.1:8000/v1 --mode merge
  mantis eval blink --data BLINK/ --model OTHER --out runs/other --compare runs/blink
  mantis eval show runs/blink runs/other --format markdown

Exit codes:
  0 done, 1 failed (the model, the endpoint), 2 wrong use (an option, a name, a file), 130 stopped by Ctrl-C`,
  );
  command.addCommand(
    new Command('list')
      .description('all benchmarks: split, number of questions, pictures, files')
      .option('--json', 'as one line of JSON')
      .action((flags: { readonly json?: boolean }) => listTasks(flags)),
  );
  command.addCommand(
    new Command('show')
      .description('the report of a run again, what changed from another run to it, or several runs in one table')
      .argument('<folder...>', 'what --out named')
      .option('--compare <report>', 'another run of the same questions: its folder or report.json')
      .option('--force', 'compare runs that did different things')
      .option('--html <file>', 'as one HTML file')
      .addOption(new Option('--format <format>', 'as a table').choices(tableFormats))
      .option('--json', 'as one line of JSON')
      .action((folders: string[], flags: ShowFlags) => showRuns(folders, flags)),
  );
  return command;
}

async function runTasks(words: readonly string[], written: EvalFlags, command: Command): Promise<void> {
  const names = namedTasks(words);
  if (names.length === 0) throw new CliError('expected a task; `mantis eval list` prints them', 2);
  const place = modelPlace(written);
  // An endpoint writes its answers, also where a task by itself would compare.
  const flags: EvalFlags =
    place === 'endpoint' && written.answerBy === undefined ? { ...written, answerBy: 'generation' } : written;
  requireFlagsOfUse({
    flags,
    given: givenFlags(command),
    tasks: names.map((name) => taskOf(name, flags)),
    place,
    judgePlace: judgePlace(flags),
  });
  requireOutBesideData(flags);
  const form = await promptForm(flags);
  const opened: OpenedTask[] = [];
  try {
    if (flags.dryRun !== true) await requireWritable(flags);
    for (const name of names) opened.push(await openTask(name, flags, dataOf(name, names, flags.data)));
    if (flags.dryRun === true) for (const one of opened) await tryOut(one, flags, form);
    else await askAll(opened, flags, form);
  } finally {
    for (const { records } of opened) await records.close();
  }
}

async function tryOut(opened: OpenedTask, flags: EvalFlags, form: Asking['form']): Promise<void> {
  const bar = new ProgressBar(`${opened.task.name}, looking`);
  const asked = { orders: flags.orders, rotate: flags.rotate === true, controls: flags.control };
  await dryRun(opened, asked, form, (done, total) => bar.update(done, total)).finally(() => bar.end());
}

/** Every run is looked at before the first question of any. */
async function askAll(opened: readonly OpenedTask[], flags: EvalFlags, form: Asking['form']): Promise<void> {
  const models: EvalModel[] = [];
  const cache = flags.cache === undefined ? undefined : await AnswerCache.open(flags.cache);
  const stop = stopSignal();
  try {
    const model = named(await evalModel(flags), flags.name);
    models.push(model);
    const judge = await judgeModel(flags);
    if (judge !== undefined) models.push(judge);
    const asking: Asking = { model, judge, form, cache, signal: stop.signal };
    const ready: ReadyRun[] = [];
    for (const one of opened) ready.push(await readyRun(one, ownFlags(flags, one, opened), asking));
    const reports: EvalReport[] = [];
    for (const run of ready) reports.push(await runTask(run));
    if (reports.length > 1 && flags.json !== true) process.stdout.write(formatTable(leaderboard(reports), 'text'));
  } finally {
    stop.close();
    for (const model of models) await model.close();
    await cache?.close();
  }
}

/** Of several tasks each has a folder of its name in --out and in --compare. */
function ownFlags(flags: EvalFlags, { task }: OpenedTask, all: readonly OpenedTask[]): EvalFlags {
  if (all.length === 1) return flags;
  return {
    ...flags,
    ...(flags.out === undefined ? {} : { out: join(flags.out, task.name) }),
    ...(flags.compare === undefined ? {} : { compare: join(flags.compare, task.name) }),
  };
}

/** The model under the name of the run; what it is stays its identity. */
function named(model: EvalModel, name: string | undefined): EvalModel {
  if (name === undefined) return model;
  return {
    name,
    identity: model.identity,
    comparesChoices: model.comparesChoices,
    atOnce: model.atOnce,
    answer: (prompt, signal) => model.answer(prompt, signal),
    close: () => model.close(),
  };
}

/** Aborts at the first Ctrl-C or TERM; the second one ends the process. */
function stopSignal(): { readonly signal: AbortSignal; close(): void } {
  const controller = new AbortController();
  const codes = { SIGINT: 130, SIGTERM: 143 } as const;
  const onSignal = (signal: 'SIGINT' | 'SIGTERM'): void => {
    if (controller.signal.aborted) process.exit(codes[signal]);
    controller.abort(new CliError('stopped', codes[signal]));
  };
  for (const signal of ['SIGINT', 'SIGTERM'] as const) process.on(signal, onSignal);
  return {
    signal: controller.signal,
    close: () => {
      for (const signal of ['SIGINT', 'SIGTERM'] as const) process.off(signal, onSignal);
    },
  };
}
