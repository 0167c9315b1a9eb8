/** `mantis evals …`: runs of an evaluation, and what came of them. */
import { type Command, Option } from 'commander';
import type { MantisClient } from '../../shared/client/client.ts';
import type { EvalItemStatus, EvalRun } from '../../shared/contract/evals.ts';
import { withApi } from './api.ts';
import { CliError } from './error.ts';
import { type RunFlags, runRequest } from './evals-request.ts';
import {
  itemCells,
  itemsCsv,
  type JsonOption,
  type Paged,
  paged,
  print,
  readPages,
  runText,
  tellMore,
} from './evals-view.ts';
import { api } from './keys.ts';
import { ProgressBar } from './progress.ts';
import { age, printTable } from './table.ts';

interface ItemOptions extends JsonOption, Paged {
  readonly status?: EvalItemStatus;
  readonly format?: 'table' | 'jsonl' | 'csv';
}

export function addRunCommands(evals: Command): void {
  api(evals, 'run <eval> <file>', 'start a run of a JSON file: its data_source, or the whole request')
    .option('--data <file>', 'JSON Lines of {"item": …} in place of its source; uploaded')
    .option('--model <id>', 'in place of the model in it')
    .option('--name <text>', 'of the run')
    .option('--follow', 'wait until it has ended; exit code 1 unless it has completed. Ctrl-C leaves it running')
    .action(async (id: string, file: string, options: JsonOption & RunFlags & { readonly follow?: boolean }) => {
      const run = await withApi(options, async (client) => {
        const made = await client.evals.runs.create(id, await runRequest(client, file, options));
        return options.follow === true ? await follow(client, id, made.id) : made;
      });
      show(run, options);
      if (options.follow === true && run.status !== 'completed') process.exitCode = 1;
    });

  api(
    evals,
    'retry <eval> <run>',
    'ask what an ended run has no answer for, or an error, in a new run with its answers',
  )
    .option('--follow', 'wait until it has ended; exit code 1 unless it has completed. Ctrl-C leaves it running')
    .action(async (id: string, run: string, options: JsonOption & { readonly follow?: boolean }) => {
      const last = await withApi(options, async (client) => {
        const made = await client.evals.runs.retry(id, run);
        return options.follow === true ? await follow(client, id, made.id) : made;
      });
      show(last, options);
      if (options.follow === true && last.status !== 'completed') process.exitCode = 1;
    });

  paged(api(evals, 'runs <eval>', 'list its runs, newest first'), 100).action(
    async (id: string, options: JsonOption & Paged) => {
      const list = await withApi(options, (client) =>
        readPages(options, (query) => client.evals.runs.list(id, { ...query, order: 'desc' })),
      );
      if (options.json === true) return print(list.data);
      printTable(
        ['id', 'name', 'status', 'model', 'passed', 'failed', 'errored', 'of', 'made'],
        list.data.map(({ id: run, name, status, model, result_counts: counts, created_at }) => [
          run,
          name,
          status,
          model,
          ...[counts.passed, counts.failed, counts.errored, counts.total].map(String),
          age(created_at),
        ]),
      );
      tellMore(list, 'runs');
    },
  );

  api(evals, 'get-run <eval> <run>', 'print a run as JSON').action(
    async (id: string, run: string, options: JsonOption) =>
      print(await withApi(options, (client) => client.evals.runs.retrieve(id, run))),
  );

  api(evals, 'delete-run <eval> <run>', 'delete a run with its results; one that goes on is stopped').action(
    async (id: string, run: string, options: JsonOption) => {
      const gone = await withApi(options, (client) => client.evals.runs.delete(id, run));
      if (options.json === true) print(gone);
      else process.stdout.write(`deleted ${run}\n`);
    },
  );

  api(evals, 'follow <eval> <run>', 'show a run as it goes on, until it has ended. Ctrl-C leaves it running').action(
    async (id: string, run: string, options: JsonOption) => {
      const last = await withApi(options, (client) => follow(client, id, run));
      show(last, options);
      if (last.status !== 'completed') process.exitCode = 1;
    },
  );

  paged(api(evals, 'items <eval> <run>', 'what came of each item'), 20)
    .addOption(new Option('--status <status>', 'only these').choices(['pass', 'fail', 'error']))
    .addOption(
      new Option('--format <format>', 'a table, or everything for a program').choices(['table', 'jsonl', 'csv']),
    )
    .action(async (id: string, run: string, options: ItemOptions, command: Command) => {
      const { status, format = 'table' } = options;
      if (options.json === true && format !== 'table')
        throw new CliError('--json and --format are two ways to write the items: name one', 2);
      // Who exports wants all of them, unless they say how many.
      const isAll = format !== 'table' && command.getOptionValueSource('limit') === 'default';
      const list = await withApi(options, (client) =>
        readPages({ limit: isAll ? Number.MAX_SAFE_INTEGER : options.limit }, (query) =>
          client.evals.runs.items(id, run, { ...query, ...(status === undefined ? {} : { status }) }),
        ),
      );
      if (options.json === true) print(list.data);
      else if (format === 'jsonl') process.stdout.write(list.data.map((item) => `${JSON.stringify(item)}\n`).join(''));
      else if (format === 'csv') process.stdout.write(itemsCsv(list.data));
      else printTable(['item', 'status', 'scores', 'answer'], list.data.map(itemCells));
      tellMore(list, 'items');
    });

  api(evals, 'report <eval> <run>', 'print the report of a run that has completed')
    .option('--html', 'the page, in place of JSON')
    .action(async (id: string, run: string, options: JsonOption & { readonly html?: boolean }) => {
      const format = options.html === true ? 'html' : 'json';
      process.stdout.write(await withApi(options, (client) => client.evals.runs.report(id, run, format)));
    });

  api(evals, 'cancel <eval> <run>', 'end a run; what was judged stays').action(
    async (id: string, run: string, options: JsonOption) =>
      show(await withApi(options, (client) => client.evals.runs.cancel(id, run)), options),
  );
}

/** Until the run has ended. @throws CliError (130) at Ctrl-C, which leaves the run alone and says how to look at it again */
async function follow(client: MantisClient, id: string, run: string): Promise<EvalRun> {
  const bar = new ProgressBar(run);
  const leave = new AbortController();
  const onSignal = (): void => leave.abort();
  process.once('SIGINT', onSignal);
  let last: EvalRun | null = null;
  try {
    for await (const now of client.evals.runs.follow(id, run, { signal: leave.signal })) {
      last = now;
      const { passed, failed, errored, total } = now.result_counts;
      if (total > 0)
        bar.update(passed + failed + errored, total, `${passed} passed${errored > 0 ? `, ${errored} errored` : ''}`);
    }
  } catch (error) {
    if (!leave.signal.aborted) throw error;
    bar.end();
    throw new CliError(
      `stopped looking; the run goes on. Again: mantis evals follow ${id} ${run}; to end it: mantis evals cancel ${id} ${run}`,
      130,
    );
  } finally {
    process.off('SIGINT', onSignal);
    bar.end();
  }
  return last ?? (await client.evals.runs.retrieve(id, run));
}

function show(run: EvalRun, options: JsonOption): void {
  if (options.json === true) print(run);
  else process.stdout.write(runText(run));
}
