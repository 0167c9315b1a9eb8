import { Command, InvalidArgumentError, Option } from 'commander';
import type { MantisClient } from '../../shared/client/client.ts';
import { type ApiKey, type KeyLimitsInput, Scope } from '../../shared/contract/keys.ts';
import { LIMITS } from '../../shared/contract/limits.ts';
import { type ApiOptions, apiOptions, withApi } from './api.ts';
import { wholeNumber } from './parse.ts';
import { age, printTable, until } from './table.ts';

interface Rights {
  readonly scopes?: readonly Scope[];
  readonly expires?: number | null;
  readonly limit?: KeyLimitsInput;
}

/** `mantis keys …`: who may call the API. Wants a key with the scope `admin`, such as the one of the first start. */
export function keysCommand(): Command {
  const keys = new Command('keys').description('create, list, rotate and revoke API keys');

  withRights(api(keys, 'create <name>', 'make a key; its secret is printed once, to standard output'))
    .option('--tenant <id>', 'whose key it is (default: the default tenant)')
    .action(
      async (name: string, options: ApiOptions & Rights & { readonly tenant?: string; readonly json?: boolean }) => {
        const key = await withApi(options, ({ admin }) =>
          admin.keys.create({
            name,
            ...rights(options),
            ...(options.tenant === undefined ? {} : { tenant: options.tenant }),
          }),
        );
        printSecret(key, options);
      },
    );

  api(keys, 'list', 'list keys, newest first')
    .option('--tenant <id>', 'only of this tenant')
    .action(async (options: ApiOptions & { readonly tenant?: string; readonly json?: boolean }) => {
      const all = await withApi(options, (client) => everyKey(client, options.tenant));
      if (options.json === true) {
        print(all);
        return;
      }
      printTable(
        ['id', 'name', 'key', 'status', 'scopes', 'last used', 'expires', 'tenant'],
        all.map((key) => [
          key.id,
          key.name,
          `…${key.last4}`,
          key.status,
          key.scopes.join(','),
          lastUsed(key.last_used_at),
          until(key.expires_at),
          key.tenant.slice(0, 8),
        ]),
      );
    });

  api(keys, 'show <id>', 'print one key with its limits').action(async (id: string, options: ApiOptions) =>
    print(await withApi(options, ({ admin }) => admin.keys.retrieve(id))),
  );

  withRights(api(keys, 'update <id>', 'change what a key may do; what is not named stays'))
    .option('--name <name>', 'another name')
    .action(async (id: string, options: ApiOptions & Rights & { readonly name?: string; readonly json?: boolean }) => {
      const change = { ...rights(options), ...(options.name === undefined ? {} : { name: options.name }) };
      const key = await withApi(options, ({ admin }) => admin.keys.update(id, change));
      if (options.json === true) print(key);
      else process.stdout.write(`${key.id} ${key.status}: ${key.scopes.join(', ')}\n`);
    });

  api(keys, 'rotate <id>', 'make a successor with the same rights; its secret is printed once')
    .option('--overlap <seconds>', 'how long the old secret works on', wholeNumber, LIMITS.keys.defaultOverlapS)
    .action(async (id: string, options: ApiOptions & { readonly overlap: number; readonly json?: boolean }) => {
      const key = await withApi(options, ({ admin }) => admin.keys.rotate(id, options.overlap));
      process.stderr.write(`${id} works for ${options.overlap} s more\n`);
      printSecret(key, options);
    });

  api(keys, 'revoke <id>', 'end a key for good, everywhere within 5 s').action(
    async (id: string, options: ApiOptions & { readonly json?: boolean }) => {
      const key = await withApi(options, ({ admin }) => admin.keys.revoke(id));
      if (options.json === true) print(key);
      else process.stdout.write(`${key.id} ${key.status}\n`);
    },
  );
  return keys;
}

/** A subcommand that calls the API. */
export function api(parent: Command, usage: string, description: string): Command {
  const command = parent.command(usage).description(description).option('--json', 'print JSON');
  for (const option of apiOptions()) command.addOption(option);
  return command;
}

function withRights(command: Command): Command {
  return command
    .addOption(
      new Option('--scopes <list>', `comma-separated: ${Scope.options.join(', ')}`).argParser((text) =>
        text.split(',').map((name) => {
          const scope = Scope.safeParse(name.trim());
          if (!scope.success) throw new InvalidArgumentError(`Expected some of ${Scope.options.join(', ')}.`);
          return scope.data;
        }),
      ),
    )
    .addOption(
      new Option('--expires <when>', 'days from now such as 90d, a date such as 2027-06-30, or never').argParser(
        parseExpiry,
      ),
    )
    .addOption(limitOption());
}

/** `--limit requestsPerMinute=60`, repeated. */
export function limitOption(): Option {
  const fields = ['requestsPerMinute', 'imagesPerMinute', 'imageTokensPerMinute', 'bytesPerMinute', 'concurrent'];
  return new Option('--limit <field=n>', `${fields.join(', ')}; n or none; may be repeated`).argParser(
    (text: string, previous: KeyLimitsInput | undefined): KeyLimitsInput => {
      const [, field = '', value = ''] = /^(\w+)=(\d+|none)$/.exec(text) ?? [];
      if (!fields.includes(field)) throw new InvalidArgumentError(`Expected ${fields.join('=n, ')}=n.`);
      return { ...previous, [field]: value === 'none' ? null : Number(value) };
    },
  );
}

function parseExpiry(text: string): number | null {
  if (text === 'never') return null;
  const days = /^(\d{1,4})d$/.exec(text)?.[1];
  const atMs = days === undefined ? Date.parse(text) : Date.now() + Number(days) * 86_400_000;
  if (Number.isNaN(atMs)) throw new InvalidArgumentError('Expected 90d, 2027-06-30 or never.');
  return Math.floor(atMs / 1000);
}

function rights({ scopes, expires, limit }: Rights) {
  return {
    ...(scopes === undefined ? {} : { scopes: [...scopes] }),
    ...(expires === undefined ? {} : { expires_at: expires }),
    ...(limit === undefined ? {} : { limits: limit }),
  };
}

async function everyKey({ admin }: MantisClient, tenant: string | undefined): Promise<ApiKey[]> {
  const all: ApiKey[] = [];
  for (let after: string | undefined; ; after = all.at(-1)?.id) {
    const { data, has_more } = await admin.keys.list({
      limit: 100,
      ...(tenant === undefined ? {} : { tenant }),
      ...(after === undefined ? {} : { after }),
    });
    all.push(...data);
    if (!has_more || data.length === 0) return all;
  }
}

/** The secret alone on standard output, so that a script can take it; what it is, on standard error. */
function printSecret(key: ApiKey & { secret: string }, { json }: { readonly json?: boolean }): void {
  if (json === true) {
    print(key);
    return;
  }
  process.stderr.write(
    `${key.id} "${key.name}": ${key.scopes.join(', ')}; expires ${until(key.expires_at)}. Shown this once:\n`,
  );
  process.stdout.write(`${key.secret}\n`);
}

function print(value: unknown): void {
  process.stdout.write(`${JSON.stringify(value, null, 2)}\n`);
}

/** The door notes the use of a key once an hour: a time within it would look truer than it is. */
function lastUsed(atS: number | null): string {
  const recentS = LIMITS.keys.lastUsedEveryMs / 1000;
  return atS !== null && Date.now() / 1000 - atS < recentS ? `within ${recentS / 60} min` : age(atS);
}
