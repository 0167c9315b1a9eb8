import { Command } from 'commander';
import type { KeyLimitsInput, Tenant } from '../../shared/contract/keys.ts';
import { type ApiOptions, withApi } from './api.ts';
import { CliError } from './error.ts';
import { api, limitOption } from './keys.ts';
import { age, printTable } from './table.ts';

/** `mantis tenants …`: who owns things. */
export function tenantsCommand(): Command {
  const tenants = new Command('tenants').description('create, list, disable and enable tenants');

  api(tenants, 'create <name>', 'make a tenant; keys are made for it with mantis keys create --tenant')
    .addOption(limitOption())
    .action(
      async (name: string, options: ApiOptions & { readonly limit?: KeyLimitsInput; readonly json?: boolean }) => {
        const { limit } = options;
        const tenant = await withApi(options, ({ admin }) =>
          admin.tenants.create({ name, ...(limit === undefined ? {} : { limits: limit }) }),
        );
        process.stdout.write(options.json === true ? `${JSON.stringify(tenant, null, 2)}\n` : `${tenant.id}\n`);
      },
    );

  api(tenants, 'list', 'list tenants, newest first').action(
    async (options: ApiOptions & { readonly json?: boolean }) => {
      const all = await withApi(options, async ({ admin }) => {
        const found: Tenant[] = [];
        for (let after: string | undefined; ; after = found.at(-1)?.id) {
          const page = await admin.tenants.list({ limit: 100, ...(after === undefined ? {} : { after }) });
          found.push(...page.data);
          if (!page.has_more || page.data.length === 0) return found;
        }
      });
      if (options.json === true) process.stdout.write(`${JSON.stringify(all, null, 2)}\n`);
      else
        printTable(
          ['id', 'name', 'status', 'created'],
          all.map(({ id, name, status, created_at }) => [id, name, status, age(created_at)]),
        );
    },
  );

  for (const [verb, disabled, description] of [
    ['disable', true, 'refuse all keys of a tenant, within 5 s'],
    ['enable', false, 'let a tenant’s keys work again'],
  ] as const) {
    api(tenants, `${verb} <id>`, description).action(async (id: string, options: ApiOptions) => {
      const tenant = await withApi(options, ({ admin }) => admin.tenants.update(id, { disabled }));
      process.stdout.write(`${tenant.id} ${tenant.status}\n`);
    });
  }
  return tenants;
}

/** `mantis audit …`: who changed what, and whether the log is whole. */
export function auditCommand(): Command {
  const audit = new Command('audit').description('read the audit log, and check that it is whole');
  api(audit, 'list', 'the newest entries')
    .option('--limit <n>', 'how many, 100 at most', Number, 20)
    .option('--target <id>', 'only about this thing')
    .action(
      async (options: ApiOptions & { readonly limit: number; readonly target?: string; readonly json?: boolean }) => {
        const { limit, target } = options;
        const { data } = await withApi(options, ({ admin }) =>
          admin.audit.list({ limit, ...(target === undefined ? {} : { target }) }),
        );
        if (options.json === true) process.stdout.write(`${JSON.stringify(data, null, 2)}\n`);
        else
          printTable(
            ['seq', 'when', 'actor', 'action', 'target', 'data'],
            data.map((entry) => [
              String(entry.seq),
              new Date(entry.created_at * 1000).toISOString(),
              entry.actor,
              entry.action,
              entry.target,
              JSON.stringify(entry.data),
            ]),
          );
      },
    );
  api(audit, 'verify', 'compute the chain anew; ends with 1 where an entry was changed or taken out').action(
    async (options: ApiOptions & { readonly json?: boolean }) => {
      const verdict = await withApi(options, ({ admin }) => admin.audit.verify());
      if (options.json === true) process.stdout.write(`${JSON.stringify(verdict, null, 2)}\n`);
      if (verdict.problem !== null)
        throw new CliError(`the audit log is not whole: entry ${verdict.problem.seq}: ${verdict.problem.reason}`);
      if (options.json !== true) process.stdout.write(`whole: ${verdict.checked} entries\n`);
    },
  );
  return audit;
}
