import { Command } from 'commander';
import { CreateEvalRequest } from '../../shared/contract/evals.ts';
import { withApi } from './api.ts';
import { CliError } from './error.ts';
import { addCompareCommand } from './evals-compare.ts';
import { readRequest } from './evals-request.ts';
import { addRunCommands } from './evals-runs.ts';
import { type JsonOption, type Paged, paged, print, readPages, tellMore } from './evals-view.ts';
import { api } from './keys.ts';
import { collect } from './parse.ts';
import { age, printTable } from './table.ts';

interface UpdateOptions extends JsonOption {
  readonly name?: string;
  readonly metadata: readonly string[];
}

/** `mantis evals …`: evaluations of an installation, in OpenAI's form. */
export function evalsCommand(): Command {
  const evals = new Command('evals').description('evaluate models of an installation: items, graders, runs');

  api(evals, 'create <file>', 'make an evaluation of a JSON file: data_source_config and testing_criteria').action(
    async (file: string, options: JsonOption) => {
      const request = await readRequest(file, CreateEvalRequest);
      const made = await withApi(options, (client) => client.evals.create(request));
      if (options.json === true) print(made);
      else process.stdout.write(`${made.id}\n`);
    },
  );

  paged(api(evals, 'list', 'list evaluations, newest first'), 100).action(async (options: JsonOption & Paged) => {
    const list = await withApi(options, (client) =>
      readPages(options, (query) => client.evals.list({ ...query, order: 'desc' })),
    );
    if (options.json === true) return print(list.data);
    printTable(
      ['id', 'name', 'data', 'criteria', 'made'],
      list.data.map((one) => [
        one.id,
        one.name,
        one.data_source_config.type === 'custom' ? 'items' : one.data_source_config.benchmark,
        few(one.testing_criteria.map(({ name }) => name)),
        age(one.created_at),
      ]),
    );
    tellMore(list, 'evaluations');
  });

  api(evals, 'get <eval>', 'print an evaluation as JSON').action(async (id: string, options: JsonOption) =>
    print(await withApi(options, (client) => client.evals.retrieve(id))),
  );

  api(evals, 'update <eval>', 'change its name or its labels; what is not named stays')
    .option('--name <text>', 'of the evaluation')
    .option('--metadata <key=value>', 'a label, repeatable; all labels are set anew', collect, [])
    .action(async (id: string, options: UpdateOptions) => {
      const { name, metadata } = options;
      if (name === undefined && metadata.length === 0) throw new CliError('expected --name or --metadata', 2);
      const request = {
        ...(name === undefined ? {} : { name }),
        ...(metadata.length === 0 ? {} : { metadata: Object.fromEntries(metadata.map(label)) }),
      };
      const changed = await withApi(options, (client) => client.evals.update(id, request));
      if (options.json === true) print(changed);
      else process.stdout.write(`${changed.id} ${changed.name}\n`);
    });

  api(evals, 'delete <eval>', 'delete an evaluation with its runs and their results').action(
    async (id: string, options: JsonOption) => {
      const gone = await withApi(options, (client) => client.evals.delete(id));
      if (options.json === true) print(gone);
      else process.stdout.write(`deleted ${id}\n`);
    },
  );

  addRunCommands(evals);
  addCompareCommand(evals);
  return evals;
}

function label(text: string): [string, string] {
  const at = text.indexOf('=');
  if (at < 1) throw new CliError(`--metadata: expected KEY=VALUE, received ${JSON.stringify(text)}`, 2);
  return [text.slice(0, at), text.slice(at + 1)];
}

const MOST_NAMES = 4;

function few(names: readonly string[]): string {
  const more = names.length - MOST_NAMES;
  return more > 0 ? `${names.slice(0, MOST_NAMES).join(', ')} and ${more} more` : names.join(', ');
}
