import { Command, InvalidArgumentError, Option } from 'commander';
import { LIMITS } from '../../shared/contract/limits.ts';
import {
  type RedeliverWebhooksRequest,
  type WebhookAttempt,
  type WebhookDelivery,
  WebhookDeliveryStatus,
  type WebhookEndpoint,
  type WebhookEventFilter,
} from '../../shared/contract/webhooks.ts';
import { type ApiOptions, withApi } from './api.ts';
import { CliError } from './error.ts';
import { api } from './keys.ts';
import { wholeNumber } from './parse.ts';
import { age, printTable, until } from './table.ts';
import { eventsOption } from './webhooks-events.ts';
import { listenCommand } from './webhooks-listen.ts';

interface Json extends ApiOptions {
  readonly json?: boolean;
}

/** `mantis webhooks …`: who is called back, for what, and how that went. */
export function webhooksCommand(): Command {
  const webhooks = new Command('webhooks').description(
    'add and test webhook endpoints, look at deliveries, send again',
  );

  api(webhooks, 'create <url>', 'add an endpoint; its secret is printed once, to standard output')
    .addOption(eventsOption())
    .option('--description <text>', 'what it is for')
    .action(
      async (
        url: string,
        options: Json & { readonly events?: WebhookEventFilter[]; readonly description?: string },
      ) => {
        const { events, description } = options;
        printSecret(
          await withApi(options, (client) => client.webhookEndpoints.create(url, events, description)),
          options,
        );
      },
    );

  api(webhooks, 'list', 'list endpoints, newest first').action(async (options: Json) => {
    const { data } = await withApi(options, (client) => client.webhookEndpoints.list({ limit: 100 }));
    if (options.json === true) return print(data);
    printTable(
      ['id', 'status', 'events', 'created', 'url', 'description'],
      data.map((one) => [
        one.id,
        statusOf(one),
        one.events.join(','),
        age(one.created_at),
        one.url,
        one.description ?? '',
      ]),
    );
  });

  api(webhooks, 'update <id>', 'change an endpoint; what is not named stays')
    .option('--to <url>', 'another address')
    .addOption(eventsOption())
    .option('--description <text>', 'what it is for')
    .addOption(new Option('--enable', 'send to it again').conflicts('disable'))
    .option('--disable', 'send nothing more to it; what was still to be sent is cancelled')
    .action(
      async (
        id: string,
        options: Json & {
          readonly to?: string;
          readonly events?: WebhookEventFilter[];
          readonly description?: string;
          readonly enable?: boolean;
          readonly disable?: boolean;
        },
      ) => {
        const { to, events, description, enable, disable } = options;
        const change = {
          ...(to === undefined ? {} : { url: to }),
          ...(events === undefined ? {} : { events }),
          ...(description === undefined ? {} : { description }),
          ...(enable === true ? { status: 'enabled' as const } : {}),
          ...(disable === true ? { status: 'disabled' as const } : {}),
        };
        const row = await withApi(options, (client) => client.webhookEndpoints.update(id, change));
        if (options.json === true) print(row);
        else process.stdout.write(`${row.id} ${statusOf(row)}: ${row.events.join(', ')} to ${row.url}\n`);
      },
    );

  api(webhooks, 'delete <id>', 'remove an endpoint with its log').action(async (id: string, options: Json) => {
    await withApi(options, (client) => client.webhookEndpoints.delete(id));
    process.stdout.write(`${id} deleted\n`);
  });

  api(webhooks, 'rotate <id>', 'draw a new secret, printed once; the old one signs beside it for a while')
    .option('--overlap <seconds>', 'how long the old secret signs on', wholeNumber, LIMITS.webhooks.defaultOverlapS)
    .action(async (id: string, options: Json & { readonly overlap: number }) =>
      printSecret(
        await withApi(options, (client) => client.webhookEndpoints.rotateSecret(id, options.overlap)),
        options,
      ),
    );

  api(
    webhooks,
    'test <id>',
    'call an endpoint once and print what it says; ends with 1 where that is no success',
  ).action(async (id: string, options: Json) => {
    const result = await withApi(options, (client) => client.webhookEndpoints.test(id));
    if (options.json === true) print(result);
    else process.stdout.write(`${said(result)} after ${result.duration_ms} ms${shown(result.response)}\n`);
    if (!result.ok) process.exitCode = 1;
  });

  api(webhooks, 'deliveries', 'what was sent to whom, newest first')
    .option('--endpoint <id>', 'only to this endpoint')
    .option('--event <id>', 'only of this event')
    .addOption(new Option('--status <status>', 'failed: the dead letters').choices(WebhookDeliveryStatus.options))
    .option('--limit <n>', 'how many, 100 at most', wholeNumber, 20)
    .action(
      async (
        options: Json & {
          readonly endpoint?: string;
          readonly event?: string;
          readonly status?: WebhookDeliveryStatus;
          readonly limit: number;
        },
      ) => {
        const { endpoint, event, status, limit } = options;
        const query = {
          limit,
          ...(endpoint === undefined ? {} : { endpoint_id: endpoint }),
          ...(event === undefined ? {} : { event_id: event }),
          ...(status === undefined ? {} : { status }),
        };
        const { data } = await withApi(options, (client) => client.webhookDeliveries.list(query));
        if (options.json === true) return print(data);
        printTable(
          ['event', 'type', 'status', 'attempts', 'last', 'next', 'happened', 'id'],
          data.map((one) => [
            one.event_id,
            one.type,
            one.status,
            String(one.attempts),
            one.attempts === 0 ? '' : said({ status: one.last_status, error: one.last_error }),
            one.next_attempt_at === null ? '' : until(one.next_attempt_at),
            age(one.created_at),
            one.id,
          ]),
        );
      },
    );

  api(webhooks, 'delivery <id>', 'one delivery with each of its attempts').action(async (id: string, options: Json) =>
    printDelivery(await withApi(options, (client) => client.webhookDeliveries.retrieve(id)), options),
  );

  api(webhooks, 'redeliver <id>', 'send again: one delivery (whd_…), or events of a time range to an endpoint (whe_…)')
    .addOption(new Option('--since <when>', 'from then on: 90m, 12h or 3d ago, or a date').argParser(parseTime))
    .addOption(new Option('--until <when>', 'up to then (default: now)').argParser(parseTime))
    .addOption(
      new Option(
        '--status <list>',
        'comma-separated: failed, cancelled, delivered, missing = never sent there (default: all but delivered)',
      ).argParser((text) => text.split(',').map((name) => name.trim())),
    )
    .addOption(eventsOption())
    .action(
      async (
        id: string,
        options: Json & {
          readonly since?: number;
          readonly until?: number;
          readonly status?: NonNullable<RedeliverWebhooksRequest['status']>;
          readonly events?: WebhookEventFilter[];
        },
      ) => {
        if (id.startsWith('whd_')) {
          const row = await withApi(options, (client) => client.webhookDeliveries.redeliver(id));
          return options.json === true ? print(row) : void process.stdout.write(`${id} ${row.status}\n`);
        }
        const { since, until: end, status, events } = options;
        if (since === undefined)
          throw new CliError('--since: expected since when events are to be sent again, such as 12h', 2);
        const request: RedeliverWebhooksRequest = {
          since,
          ...(end === undefined ? {} : { until: end }),
          ...(status === undefined ? {} : { status }),
          ...(events === undefined ? {} : { events }),
        };
        const { count, ...rest } = await withApi(options, (client) => client.webhookEndpoints.redeliver(id, request));
        if (options.json === true) return print({ ...rest, count });
        process.stdout.write(`${count} deliver${count === 1 ? 'y' : 'ies'} begun anew\n`);
      },
    );

  webhooks.addCommand(listenCommand());
  return webhooks;
}

/** `12h` → Unix seconds of 12 hours ago; or a date. */
export function parseTime(text: string): number {
  const [, number = '', unit = ''] = /^(\d+)([smhd])$/.exec(text) ?? [];
  const seconds = { s: 1, m: 60, h: 3_600, d: 86_400 }[unit];
  if (seconds !== undefined) return Math.floor(Date.now() / 1000) - Number(number) * seconds;
  const at = /^\d{4}-/.test(text) ? Date.parse(text) : Number.NaN;
  if (Number.isNaN(at))
    throw new InvalidArgumentError('Expected 90s, 15m, 12h, 3d or a date such as 2026-11-26T08:00Z.');
  return Math.floor(at / 1000);
}

function statusOf(one: WebhookEndpoint): string {
  if (one.status === 'disabled') return `disabled (${one.disabled_reason})`;
  return one.failing_since === null ? 'enabled' : `failing (first ${age(one.failing_since)})`;
}

function said({ status, error }: { status: number | null; error: string | null }): string {
  return status === null ? (error ?? 'no answer') : String(status);
}

function shown(response: string | null): string {
  return response === null
    ? ''
    : `: ${JSON.stringify(response.length > 200 ? `${response.slice(0, 199)}…` : response)}`;
}

function printDelivery(row: WebhookDelivery, options: Json): void {
  if (options.json === true) {
    print(row);
    return;
  }
  const next = row.next_attempt_at === null ? '' : `, next attempt ${until(row.next_attempt_at)}`;
  process.stdout.write(`${row.event_id} ${row.type} to ${row.endpoint_id}: ${row.status}${next}\n`);
  printTable(
    ['when', 'took', 'answer', ''],
    (row.attempt_log ?? []).map((one: WebhookAttempt) => [
      new Date(one.at * 1000).toISOString(),
      `${one.duration_ms} ms`,
      said(one),
      shown(one.response).replace(/^: /, ''),
    ]),
  );
}

function printSecret(endpoint: WebhookEndpoint & { secret: string }, options: Json): void {
  if (options.json === true) {
    print(endpoint);
    return;
  }
  const overlap =
    endpoint.old_secret_expires_at === null
      ? ''
      : `; the old secret stops signing ${until(endpoint.old_secret_expires_at)}`;
  process.stderr.write(`${endpoint.id}: ${endpoint.events.join(', ')} to ${endpoint.url}${overlap}\n`);
  process.stdout.write(`${endpoint.secret}\n`);
}

function print(value: unknown): void {
  process.stdout.write(`${JSON.stringify(value, null, 2)}\n`);
}
