import { Command } from 'commander';
import type { MantisClient } from '../../shared/client/client.ts';
import type { FineTuningJob, JobEvent } from '../../shared/contract/jobs.ts';
import { type ApiOptions, apiOptions, withApi } from './api.ts';
import { followJob } from './follow.ts';
import { fixed } from './job-view.ts';
import { wholeNumber } from './parse.ts';
import { age, printTable } from './table.ts';

type ListOptions = ApiOptions & { readonly limit: number; readonly json?: boolean };

/** `mantis jobs`: fine-tuning jobs, from a list to following one. */
export function jobsCommand(): Command {
  const jobs = new Command('jobs').description('look at fine-tuning jobs, and pause, resume, cancel or follow them');
  const add = (command: Command) => {
    for (const option of apiOptions()) command.addOption(option);
    jobs.addCommand(command);
    return command;
  };
  add(new Command('list').description('newest first'))
    .option('--limit <n>', 'how many', wholeNumber, 20)
    .option('--json', 'a line of JSON each')
    .action((options: ListOptions) => withApi(options, (api) => list(api, options)));
  add(new Command('get').description('everything about one, as JSON'))
    .argument('<id>')
    .action((id: string, options: ApiOptions) => withApi(options, async (api) => print(await api.jobs.retrieve(id))));
  add(new Command('pause').description('save a checkpoint and stop until it is resumed'))
    .argument('<id>')
    .action((id: string, options: ApiOptions) => withApi(options, async (api) => say(await api.jobs.pause(id))));
  add(new Command('resume').description('go on where it was paused'))
    .argument('<id>')
    .action((id: string, options: ApiOptions) => withApi(options, async (api) => say(await api.jobs.resume(id))));
  add(new Command('cancel').description('end it; its checkpoints stay'))
    .argument('<id>')
    .action((id: string, options: ApiOptions) => withApi(options, async (api) => say(await api.jobs.cancel(id))));
  add(new Command('events').description('what it has said, oldest first'))
    .argument('<id>')
    .option('--limit <n>', 'the newest so many', wholeNumber, 20)
    .option('--json', 'a line of JSON each')
    .action((id: string, options: ListOptions) => withApi(options, (api) => events(api, id, options)));
  add(new Command('checkpoints').description('its checkpoints, each of which can be asked as a model'))
    .argument('<id>')
    .option('--limit <n>', 'how many', wholeNumber, 20)
    .option('--json', 'a line of JSON each')
    .action((id: string, options: ListOptions) => withApi(options, (api) => checkpoints(api, id, options)));
  add(new Command('follow').description('show events, bar and curve until it has ended'))
    .argument('<id>')
    .action((id: string, options: ApiOptions) =>
      withApi(options, async (api) => void process.stdout.write(`${await followJob(api, id)}\n`)),
    );
  return jobs;
}

function print(value: unknown): void {
  process.stdout.write(`${JSON.stringify(value, null, 2)}\n`);
}

function say({ id, status }: FineTuningJob): void {
  process.stdout.write(`${id} ${status}\n`);
}

/** Pages until there are so many. */
async function collectPages<T extends { id: string }>(
  limit: number,
  fetchPage: (query: { limit: number; after?: string }) => Promise<{ data: T[]; has_more: boolean }>,
): Promise<T[]> {
  const all: T[] = [];
  for (;;) {
    const after = all.at(-1)?.id;
    const { data, has_more } = await fetchPage({
      limit: Math.min(100, limit - all.length),
      ...(after === undefined ? {} : { after }),
    });
    all.push(...data);
    if (!has_more || data.length === 0 || all.length >= limit) return all;
  }
}

function printLines(values: readonly unknown[]): void {
  for (const value of values) process.stdout.write(`${JSON.stringify(value)}\n`);
}

async function list(api: MantisClient, { limit, json }: ListOptions): Promise<void> {
  const jobs = await collectPages(limit, (query) => api.jobs.list(query));
  if (json === true) return printLines(jobs);
  printTable(
    ['id', 'status', 'model', 'stages', 'created', 'result'],
    jobs.map((job) => {
      const { stage, stages, preset } = job.method.supervised.mantis;
      const kinds = stages?.map(({ train }) => train).join('+') ?? preset ?? stage ?? '';
      const result = job.fine_tuned_model ?? job.error?.message ?? '';
      return [job.id, job.status, job.model, kinds, age(job.created_at), result];
    }),
  );
}

async function events(api: MantisClient, id: string, { limit, json }: ListOptions): Promise<void> {
  const newest = await collectPages(limit, (query) => api.jobs.events(id, query));
  const ordered: JobEvent[] = newest.reverse();
  if (json === true) return printLines(ordered);
  for (const { created_at, level, message } of ordered)
    process.stdout.write(
      `${new Date(created_at * 1000).toISOString().slice(0, 19)}Z ${level === 'info' ? '' : `${level}: `}${message}\n`,
    );
}

async function checkpoints(api: MantisClient, id: string, { limit, json }: ListOptions): Promise<void> {
  const found = await collectPages(limit, (query) => api.jobs.checkpoints(id, query));
  if (json === true) return printLines(found);
  const percent = (share: number) => `${(100 * share).toFixed(1)} %`;
  const shown = (value: number | undefined) => (value === undefined ? '' : fixed(value));
  printTable(
    ['step', 'training loss', 'validation loss', 'held out', 'interval', 'model'],
    found.map(({ step_number, metrics, fine_tuned_model_checkpoint }) => [
      String(step_number),
      shown(metrics.train_loss),
      shown(metrics.full_valid_loss ?? metrics.valid_loss),
      metrics.eval_accuracy === undefined ? '' : percent(metrics.eval_accuracy),
      metrics.eval_interval?.map(percent).join(' … ') ?? '',
      fine_tuned_model_checkpoint,
    ]),
  );
}
