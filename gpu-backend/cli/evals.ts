import { openAsBlob } from 'node:fs';
import { basename } from 'node:path';
import { Command } from 'commander';
import type { MantisClient } from '../../shared/client/client.ts';
import { violationsOf } from '../../shared/contract/errors.ts';
import {
  CreateEvalRequest,
  CreateEvalRunRequest,
  type EvalOutputItem,
  type EvalRun,
} from '../../shared/contract/evals.ts';
import { type ApiOptions, readUserFile, withApi } from './api.ts';
import { CliError } from './error.ts';
import { api } from './keys.ts';
import { wholeNumber } from './parse.ts';
import { ProgressBar } from './progress.ts';
import { age, printTable } from './table.ts';

interface Json extends ApiOptions {
  readonly json?: boolean;
}

interface RunOptions extends Json {
  readonly model?: string;
  readonly name?: string;
  readonly data?: string;
  readonly follow?: boolean;
}

/** `mantis evals …`: evaluations of an installation, in OpenAI's form. */
export function evalsCommand(): Command {
  const evals = new Command('evals').description('evaluate models of an installation: items, graders, runs');

  api(evals, 'create <file>', 'make an evaluation of a JSON file: data_source_config and testing_criteria').action(
    async (file: string, options: Json) => {
      const request = await readRequest(file, CreateEvalRequest);
      const made = await withApi(options, (client) => client.evals.create(request));
      if (options.json === true) print(made);
      else process.stdout.write(`${made.id}\n`);
    },
  );

  api(evals, 'list', 'list evaluations, newest first').action(async (options: Json) => {
    const { data } = await withApi(options, (client) => client.evals.list({ limit: 100, order: 'desc' }));
    if (options.json === true) return print(data);
    printTable(
      ['id', 'name', 'data', 'criteria', 'made'],
      data.map((one) => [
        one.id,
        one.name,
        one.data_source_config.type === 'custom' ? 'items' : one.data_source_config.benchmark,
        one.testing_criteria.map(({ name }) => name).join(', '),
        age(one.created_at),
      ]),
    );
  });

  api(evals, 'get <eval>', 'print an evaluation as JSON').action(async (id: string, options: Json) =>
    print(await withApi(options, (client) => client.evals.retrieve(id))),
  );

  api(evals, 'delete <eval>', 'delete an evaluation with its runs and their results').action(
    async (id: string, options: Json) => {
      await withApi(options, (client) => client.evals.delete(id));
      if (options.json !== true) process.stdout.write(`deleted ${id}\n`);
    },
  );

  api(evals, 'run <eval> <file>', 'start a run of a JSON file: its data_source, or the whole request')
    .option('--data <file>', 'JSON Lines of {"item": …} in place of its source; uploaded')
    .option('--model <id>', 'in place of the model in it')
    .option('--name <text>', 'of the run')
    .option('--follow', 'wait until it has ended; exit code 1 unless it has completed')
    .action(async (id: string, file: string, options: RunOptions) => {
      const written = await readJsonFile(file);
      const run = await withApi(options, async (client) => {
        const request = await runRequest(client, written, options);
        const made = await client.evals.runs.create(id, request);
        return options.follow === true ? await follow(client, id, made.id) : made;
      });
      show(run, options);
      if (options.follow === true && run.status !== 'completed') process.exitCode = 1;
    });

  api(evals, 'runs <eval>', 'list its runs, newest first').action(async (id: string, options: Json) => {
    const { data } = await withApi(options, (client) => client.evals.runs.list(id, { limit: 100, order: 'desc' }));
    if (options.json === true) return print(data);
    printTable(
      ['id', 'status', 'model', 'passed', 'failed', 'errored', 'of', 'made'],
      data.map(({ id: run, status, model, result_counts: counts, created_at }) => [
        run,
        status,
        model,
        ...[counts.passed, counts.failed, counts.errored, counts.total].map(String),
        age(created_at),
      ]),
    );
  });

  api(evals, 'follow <eval> <run>', 'show a run as it goes on, until it has ended').action(
    async (id: string, run: string, options: Json) => {
      const last = await withApi(options, (client) => follow(client, id, run));
      show(last, options);
      if (last.status !== 'completed') process.exitCode = 1;
    },
  );

  api(evals, 'items <eval> <run>', 'what came of each item')
    .option('--status <status>', 'only pass, fail or error')
    .option('--limit <n>', 'so many', wholeNumber, 20)
    .action(async (id: string, run: string, options: Json & { readonly status?: string; readonly limit: number }) => {
      const { status } = options;
      if (status !== undefined && status !== 'pass' && status !== 'fail' && status !== 'error')
        throw new CliError(`--status: expected pass, fail or error, received "${status}"`, 2);
      const items = await withApi(options, (client) =>
        itemsOf(client, id, run, options.limit, status === undefined ? {} : { status }),
      );
      if (options.json === true) return print(items);
      printTable(
        ['item', 'status', 'scores', 'answer'],
        items.map((one) => [
          String(one.datasource_item_id + 1),
          one.status,
          one.results.map(({ name, score, error }) => `${name} ${error === undefined ? short(score) : '!'}`).join(', '),
          (one.sample.error?.message ?? one.sample.output[0]?.content ?? '').replaceAll(/\s+/g, ' ').slice(0, 80),
        ]),
      );
    });

  api(evals, 'report <eval> <run>', 'print the report of a run that has completed')
    .option('--html', 'the page, in place of JSON')
    .action(async (id: string, run: string, options: Json & { readonly html?: boolean }) => {
      const format = options.html === true ? 'html' : 'json';
      process.stdout.write(await withApi(options, (client) => client.evals.runs.report(id, run, format)));
    });

  api(evals, 'cancel <eval> <run>', 'end a run; what was judged stays').action(
    async (id: string, run: string, options: Json) =>
      show(await withApi(options, (client) => client.evals.runs.cancel(id, run)), options),
  );

  return evals;
}

async function follow(client: MantisClient, id: string, run: string): Promise<EvalRun> {
  const bar = new ProgressBar(run);
  let last: EvalRun | null = null;
  try {
    for await (const now of client.evals.runs.follow(id, run)) {
      last = now;
      const { passed, failed, errored, total } = now.result_counts;
      if (total > 0)
        bar.update(passed + failed + errored, total, `${passed} passed${errored > 0 ? `, ${errored} errored` : ''}`);
    }
  } finally {
    bar.end();
  }
  return last ?? (await client.evals.runs.retrieve(id, run));
}

async function itemsOf(
  client: MantisClient,
  id: string,
  run: string,
  limit: number,
  query: { status?: 'pass' | 'fail' | 'error' },
): Promise<EvalOutputItem[]> {
  const items: EvalOutputItem[] = [];
  for (let after: string | undefined; items.length < limit; ) {
    const page = await client.evals.runs.items(id, run, {
      ...query,
      limit: Math.min(100, limit - items.length),
      ...(after === undefined ? {} : { after }),
    });
    items.push(...page.data);
    after = page.data.at(-1)?.id;
    if (!page.has_more || after === undefined) break;
  }
  return items;
}

/** The file may hold a data source alone. */
async function runRequest(client: MantisClient, written: unknown, options: RunOptions): Promise<CreateEvalRunRequest> {
  const whole = isRecord(written) && 'data_source' in written ? { ...written } : { data_source: written };
  const source = isRecord(whole.data_source) ? { ...whole.data_source } : whole.data_source;
  if (isRecord(source)) {
    if (options.model !== undefined) source.model = options.model;
    if (options.data !== undefined) {
      const uploaded = await client.files.create(await dataFile(options.data), basename(options.data), 'evals');
      source.source = { type: 'file_id', id: uploaded.id };
    }
  }
  return parsed(
    { ...whole, data_source: source, ...(options.name === undefined ? {} : { name: options.name }) },
    CreateEvalRunRequest,
    'the run',
  );
}

async function dataFile(path: string): Promise<Blob> {
  try {
    return await openAsBlob(path);
  } catch (error) {
    throw new CliError(`cannot read ${path}: ${error instanceof Error ? error.message : String(error)}`, 2);
  }
}

type Schema<T> = {
  safeParse(value: unknown): { success: true; data: T } | { success: false; error: { issues: readonly unknown[] } };
};

async function readRequest<T>(path: string, schema: Schema<T>): Promise<T> {
  return parsed(await readJsonFile(path), schema, path);
}

/** Checked here as the edge will: a mistake in a file is told without a server. */
function parsed<T>(value: unknown, schema: Schema<T>, name: string): T {
  const read = schema.safeParse(value);
  if (read.success) return read.data;
  const wrong = violationsOf(read.error.issues, value).map(({ message }) => message);
  throw new CliError(`${name}: ${wrong.join('\n')}`, 2);
}

async function readJsonFile(path: string): Promise<unknown> {
  const text = (await readUserFile(path)).toString('utf8');
  try {
    return JSON.parse(text);
  } catch (error) {
    throw new CliError(`${path}: expected JSON: ${error instanceof Error ? error.message : String(error)}`, 2);
  }
}

function isRecord(value: unknown): value is Record<string, unknown> {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}

function show(run: EvalRun, options: Json): void {
  if (options.json === true) {
    print(run);
    return;
  }
  const { passed, failed, errored, total } = run.result_counts;
  const said = [`${run.id} ${run.status}: ${passed} of ${total} passed, ${failed} failed, ${errored} errored`];
  for (const one of run.per_testing_criteria_results)
    said.push(`  ${one.testing_criteria}: ${one.passed} passed, ${one.failed} failed`);
  if (run.error !== null) said.push(`  ${run.error.message}`);
  process.stdout.write(`${said.join('\n')}\n`);
}

const short = (score: number): string => String(Math.round(score * 1000) / 1000);

function print(value: unknown): void {
  process.stdout.write(`${JSON.stringify(value, null, 2)}\n`);
}
