import { Command, InvalidArgumentError, Option } from 'commander';
import type { MantisClient } from '../../shared/client/client.ts';
import type {
  CreateScheduleRequest,
  Gate,
  Schedule,
  ScheduleRun,
  SkipReason,
} from '../../shared/contract/schedules.ts';
import { MisfirePolicy, OverlapPolicy } from '../../shared/contract/schedules.ts';
import { type ApiOptions, withApi } from './api.ts';
import { CliError } from './error.ts';
import { addJobFlags, type JobFlags, jobRequest } from './finetune.ts';
import { dataId } from './finetune-data.ts';
import { api } from './keys.ts';
import { collect, wholeNumber, within } from './parse.ts';
import { printTable } from './table.ts';

interface Json extends ApiOptions {
  readonly json?: boolean;
}

interface CreateOptions extends Json, JobFlags {
  readonly cron?: string;
  readonly timeZone: string;
  readonly at?: number;
  readonly newExamples?: number;
  readonly ifChanged?: boolean;
  readonly overlap: OverlapPolicy;
  readonly misfire: MisfirePolicy;
  readonly keepModels?: number;
  readonly alias?: string;
  readonly fromAlias?: boolean;
  readonly gate?: string;
  readonly margin?: number;
  readonly minDifference?: number;
  readonly confidence?: number;
  readonly maxExamples?: number;
  readonly gateOption?: readonly string[];
  readonly gateOrders?: number;
}

const ENDED: ReadonlySet<ScheduleRun['status']> = new Set(['succeeded', 'promoted', 'kept', 'skipped', 'failed']);

/** What says something about a gate, and nothing without one. */
const GATE_FLAGS = [
  { flag: '--margin', key: 'margin' },
  { flag: '--min-difference', key: 'minDifference' },
  { flag: '--confidence', key: 'confidence' },
  { flag: '--max-examples', key: 'maxExamples' },
  { flag: '--gate-option', key: 'gateOption' },
  { flag: '--gate-orders', key: 'gateOrders' },
] as const;

/** `mantis schedules …`: fine-tuning jobs that start by themselves. */
export function schedulesCommand(): Command {
  const schedules = new Command('schedules').description(
    'start fine-tuning jobs by the clock, on a condition, and let a gate decide which model is used',
  );

  addJobFlags(
    api(schedules, 'create <name> <data>', 'make a schedule; <data> is a file, or the id of one or of a dataset'),
  )
    .option('--cron <expression>', 'minute hour day month weekday, or @daily and the like')
    .option('--time-zone <name>', 'in which the expression is read', 'UTC')
    .addOption(new Option('--at <time>', 'instead: once, such as 2026-12-01T02:30+01:00').argParser(parseTime))
    .option('--new-examples <n>', 'train only when so many examples have come', wholeNumber)
    .option('--if-changed', 'train only when the data have changed')
    .addOption(
      new Option('--overlap <policy>', 'a slot while a run goes on').choices(OverlapPolicy.options).default('skip'),
    )
    .addOption(
      new Option('--misfire <policy>', 'slots that were missed').choices(MisfirePolicy.options).default('run_once'),
    )
    .option('--keep-models <n>', 'newest models that are kept', wholeNumber)
    .option('--alias <name>', 'name that the new model gets')
    .option('--from-alias', 'tune the alias’s current model further instead of the base')
    .option('--gate <data>', 'held-out file, or id: the alias changes only if the new model stands the comparison')
    .option('--margin <share>', 'by how much it may be worse at the lower bound of the interval', within(0, 1))
    .option('--min-difference <share>', 'least difference in accuracy', within(-1, 1))
    .option('--confidence <share>', 'of the interval', within(0.5, 0.999))
    .option('--max-examples <n>', 'held-out examples that are asked', wholeNumber)
    .option(
      '--gate-option <text>',
      'an answer to choose from, repeated for each; without, answers are generated',
      (value: string, previous?: readonly string[]) => collect(value, previous ?? []),
    )
    .option('--gate-orders <n>', 'orders of its pictures in which each question is asked', wholeNumber)
    .action(async (name: string, data: string, options: CreateOptions) => {
      if ((options.cron === undefined) === (options.at === undefined))
        throw new CliError('give --cron or --at, one of them', 2);
      if (options.newExamples !== undefined && options.ifChanged === true)
        throw new CliError('give --new-examples or --if-changed, not both', 2);
      if (options.gate !== undefined && options.alias === undefined)
        throw new CliError('--gate needs --alias: the name that it promotes to', 2);
      const alone = GATE_FLAGS.filter(({ key }) => options.gate === undefined && options[key] !== undefined);
      if (alone.length > 0)
        throw new CliError(`${alone.map(({ flag }) => flag).join(', ')}: expected --gate beside it, received none`, 2);
      const schedule = await withApi(options, async (client) =>
        client.schedules.create(await request(client, name, data, options)),
      );
      show(schedule, options);
    });

  api(schedules, 'list', 'list schedules, newest first').action(async (options: Json) => {
    const { data } = await withApi(options, (client) => client.schedules.list({ limit: 100 }));
    if (options.json === true) return print(data);
    printTable(
      ['id', 'status', 'when', 'next', 'alias', 'name'],
      data.map((one) => [one.id, one.status, when(one), moment(one.next_runs[0] ?? null), one.alias ?? '', one.name]),
    );
  });

  api(schedules, 'get <id>', 'print a schedule as JSON').action(async (id: string, options: Json) =>
    print(await withApi(options, (client) => client.schedules.retrieve(id))),
  );

  api(schedules, 'next <id>', 'when it is due next')
    .option('--count <n>', 'how many times', wholeNumber, 10)
    .action(async (id: string, options: Json & { readonly count: number }) => {
      const next = await withApi(options, (client) => client.schedules.next(id, options.count));
      if (options.json === true) return print(next);
      printTable(
        ['UTC', next.time_zone],
        next.next_runs.map(({ at, local }) => [moment(at), local]),
      );
    });

  for (const [verb, words] of [
    ['pause', 'let slots pass without effect'],
    ['resume', 'let slots have their effect again, from now on'],
  ] as const)
    api(schedules, `${verb} <id>`, words).action(async (id: string, options: Json) =>
      show(await withApi(options, (client) => client.schedules[verb](id)), options),
    );

  api(schedules, 'run <id>', 'start a run now, whatever the condition says')
    .option('--follow', 'wait until it has ended; exit code 1 if it failed')
    .action(async (id: string, options: Json & { readonly follow?: boolean }) => {
      const run = await withApi(options, (client) => startAndFollow(client, id, options.follow === true));
      if (options.json === true) print(run);
      else process.stdout.write(`${sentence(run)}\n`);
      if (run.status === 'failed') process.exitCode = 1;
    });

  api(schedules, 'runs <id>', 'what became of each slot, newest first')
    .option('--limit <n>', 'the newest so many', wholeNumber, 20)
    .action(async (id: string, options: Json & { readonly limit: number }) => {
      const { data } = await withApi(options, (client) => client.schedules.runs(id, { limit: options.limit }));
      if (options.json === true) return print(data);
      printTable(
        ['slot', 'trigger', 'status', 'examples', 'model', 'note'],
        data.map((run) => [
          moment(run.slot),
          run.trigger,
          run.status,
          run.new_examples === null ? '' : `+${run.new_examples}`,
          run.fine_tuned_model ?? '',
          words(run),
        ]),
      );
    });

  api(schedules, 'delete <id>', 'delete a schedule; jobs and models stay').action(async (id: string, options: Json) => {
    const gone = await withApi(options, (client) => client.schedules.delete(id));
    if (options.json === true) print(gone);
    else process.stdout.write(`${id} deleted\n`);
  });
  return schedules;
}

async function request(
  client: MantisClient,
  name: string,
  data: string,
  options: CreateOptions,
): Promise<CreateScheduleRequest> {
  const job = await jobRequest(client, data, options);
  return {
    name,
    job,
    ...(options.cron === undefined ? {} : { cron: options.cron, time_zone: options.timeZone }),
    ...(options.at === undefined ? {} : { at: options.at, time_zone: options.timeZone }),
    ...(options.newExamples === undefined
      ? {}
      : { condition: { type: 'new_examples' as const, at_least: options.newExamples } }),
    ...(options.ifChanged === true ? { condition: { type: 'dataset_changed' as const } } : {}),
    overlap: options.overlap,
    misfire: options.misfire,
    ...(options.keepModels === undefined ? {} : { keep_models: options.keepModels }),
    ...(options.alias === undefined ? {} : { alias: options.alias }),
    ...(options.fromAlias === true ? { starts_from: 'alias' as const } : {}),
    ...(options.gate === undefined ? {} : { gate: await gateOf(client, options.gate, options) }),
  };
}

async function gateOf(client: MantisClient, heldOut: string, options: CreateOptions): Promise<Gate> {
  return {
    held_out_file: await dataId(client, heldOut),
    ...(options.margin === undefined ? {} : { margin: options.margin }),
    ...(options.minDifference === undefined ? {} : { min_difference: options.minDifference }),
    ...(options.confidence === undefined ? {} : { confidence: options.confidence }),
    ...(options.maxExamples === undefined ? {} : { max_examples: options.maxExamples }),
    ...(options.gateOption === undefined ? {} : { options: [...options.gateOption] }),
    ...(options.gateOrders === undefined ? {} : { image_orders: options.gateOrders }),
  };
}

const FOLLOW_EVERY_MS = 1_000;

async function startAndFollow(client: MantisClient, id: string, isFollowed: boolean): Promise<ScheduleRun> {
  let run = await client.schedules.run(id);
  let said = '';
  while (isFollowed && !ENDED.has(run.status)) {
    if (run.status !== said) process.stderr.write(`${sentence(run)}\n`);
    said = run.status;
    await new Promise((resolve) => setTimeout(resolve, FOLLOW_EVERY_MS));
    run = await client.schedules.retrieveRun(id, run.id);
  }
  return run;
}

function sentence(run: ScheduleRun): string {
  const parts = [run.id, run.status, run.fine_tuning_job ?? '', run.fine_tuned_model ?? '', words(run)];
  return parts.filter((part) => part !== '').join('  ');
}

const SKIPPED: Readonly<Record<SkipReason, string>> = {
  condition: 'its condition was not met',
  overlap: 'an earlier run had not ended',
  misfire: 'its time passed while nothing ran',
  deleted: 'the schedule was deleted',
};

/** Why it is as it is. */
function words(run: ScheduleRun): string {
  const missed = run.missed > 0 ? `for ${run.missed} missed slot${run.missed === 1 ? '' : 's'} too` : '';
  const reason = run.skip_reason === null ? '' : SKIPPED[run.skip_reason];
  return [run.error?.message ?? run.note ?? reason, missed].filter((part) => part !== '').join('; ');
}

function show(schedule: Schedule, { json }: Json): void {
  if (json === true) {
    print(schedule);
    return;
  }
  const next = schedule.next_runs[0];
  const due = next === undefined ? '' : `, next ${moment(next)} UTC`;
  process.stdout.write(`${schedule.id} ${schedule.status}: ${when(schedule)}${due}\n`);
}

function when({ cron, time_zone: zone, at }: Schedule): string {
  return cron === null ? `once, ${moment(at)}` : `${cron} ${zone}`;
}

/** @param atS Unix seconds */
function moment(atS: number | null): string {
  return atS === null ? '' : new Date(atS * 1000).toISOString().slice(0, 16).replace('T', ' ');
}

function parseTime(text: string): number {
  const atMs = Date.parse(text);
  if (Number.isNaN(atMs)) throw new InvalidArgumentError('Expected a time such as 2026-12-01T02:30+01:00.');
  return Math.floor(atMs / 1000);
}

function print(value: unknown): void {
  process.stdout.write(`${JSON.stringify(value, null, 2)}\n`);
}
