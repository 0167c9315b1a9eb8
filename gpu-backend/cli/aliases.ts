import { Command } from 'commander';
import type { MantisClient } from '../../shared/client/client.ts';
import { ClientError } from '../../shared/client/http.ts';
import type { Alias } from '../../shared/contract/aliases.ts';
import { type ApiOptions, withApi } from './api.ts';
import { api } from './keys.ts';
import { age, printTable } from './table.ts';

interface Json extends ApiOptions {
  readonly json?: boolean;
}

/** `mantis alias …`: names for models. */
export function aliasCommand(): Command {
  const alias = new Command('alias').description('give models names that stay while the model behind them changes');

  api(alias, 'list', 'list aliases, newest first').action(async (options: Json) => {
    const { data } = await withApi(options, (client) => client.aliases.list({ limit: 100 }));
    if (options.json === true) return print(data);
    printTable(
      ['name', 'model', 'version', 'changed', 'before'],
      data.map((one) => [one.id, one.model, String(one.version), age(one.updated_at), one.previous_model ?? '']),
    );
  });

  api(alias, 'set <name> <model>', 'make a name, or give it another model')
    .option('--reason <text>', 'for the history')
    .action(async (name: string, model: string, options: Json & { readonly reason?: string }) => {
      say(await withApi(options, (client) => set(client, name, model, options.reason)), options);
    });

  api(alias, 'promote <name> <model>', 'give a name that exists another model')
    .option('--reason <text>', 'for the history')
    .action(async (name: string, model: string, options: Json & { readonly reason?: string }) =>
      say(await withApi(options, (client) => client.aliases.promote(name, model, options.reason)), options),
    );

  api(alias, 'rollback <name>', 'go back to the model before the current one')
    .option('--reason <text>', 'for the history')
    .action(async (name: string, options: Json & { readonly reason?: string }) =>
      say(await withApi(options, (client) => client.aliases.rollback(name, options.reason)), options),
    );

  api(alias, 'history <name>', 'what it stood for, since when, by whom and why').action(
    async (name: string, options: Json) => {
      const { data } = await withApi(options, (client) => client.aliases.history(name, { limit: 100 }));
      if (options.json === true) return print(data);
      printTable(
        ['version', 'what', 'model', 'when', 'by', 'why'],
        data.map((one) => [
          String(one.version),
          one.kind,
          one.model,
          age(one.created_at),
          one.schedule_run ?? one.by,
          one.reason ?? '',
        ]),
      );
    },
  );

  api(alias, 'delete <name>', 'delete a name and its history; the models stay').action(
    async (name: string, options: Json) => {
      const gone = await withApi(options, (client) => client.aliases.delete(name));
      if (options.json === true) print(gone);
      else process.stdout.write(`${name} deleted\n`);
    },
  );
  return alias;
}

/** A name that exists gets another model; one that does not is made. */
async function set(client: MantisClient, name: string, model: string, reason: string | undefined): Promise<Alias> {
  try {
    return await client.aliases.promote(name, model, reason);
  } catch (error) {
    if (!(error instanceof ClientError) || error.code !== 'alias_not_found') throw error;
    return await client.aliases.create({ name, model });
  }
}

function say(alias: Alias, { json }: Json): void {
  if (json === true) print(alias);
  else process.stdout.write(`${alias.id} → ${alias.model} (version ${alias.version})\n`);
}

function print(value: unknown): void {
  process.stdout.write(`${JSON.stringify(value, null, 2)}\n`);
}
