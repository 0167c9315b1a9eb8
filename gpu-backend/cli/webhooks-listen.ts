import { setTimeout } from 'node:timers/promises';
import { Command, Option } from 'commander';
import { ClientError } from '../../shared/client/http.ts';
import { LIMITS } from '../../shared/contract/limits.ts';
import type { WebhookEvent, WebhookEventFilter } from '../../shared/contract/webhooks.ts';
import { newWebhookSecret, webhookHeaders } from '../../shared/wire/webhookSignature.ts';
import { type ApiOptions, apiOptions, withApi } from './api.ts';
import { CliError } from './error.ts';
import { eventsOption } from './webhooks-events.ts';

interface ListenOptions extends ApiOptions {
  readonly forward?: string;
  readonly events?: WebhookEventFilter[];
  readonly secret?: string;
  readonly after?: string;
  readonly json?: boolean;
}

const RECONNECT_MS = 1_000;

/**
 * `mantis webhooks listen`: events as they happen, forwarded to a server on this machine. Nothing needs to be reachable from outside: the events come over
 * a stream that this command opens, and it is this command that signs and sends them on.
 */
export function listenCommand(): Command {
  const command = new Command('listen')
    .description('print events as they happen, and forward them, signed, to a server on this machine')
    .option('--forward <url>', 'where to send them, such as http://localhost:3000/hook')
    .addOption(eventsOption())
    .addOption(
      new Option('--secret <whsec>', 'sign with this one (default: a new one, printed at the start)').env(
        'MANTIS_WEBHOOK_SECRET',
      ),
    )
    .option('--after <event>', 'begin with what happened after this event')
    .option('--json', 'print each event as a line of JSON');
  for (const option of apiOptions()) command.addOption(option);
  return command.action(listen);
}

async function listen(options: ListenOptions): Promise<void> {
  const { forward, events, after } = options;
  if (forward !== undefined && !/^https?:\/\//.test(forward))
    throw new CliError(`--forward: expected an address such as http://localhost:3000/hook, received "${forward}"`, 2);
  const secret = options.secret ?? newWebhookSecret();
  const abort = new AbortController();
  const stop = () => abort.abort();
  process.once('SIGINT', stop);
  process.once('SIGTERM', stop);
  const counts = { events: 0, forwarded: 0 };
  let isReady = false;
  let isLost = false;
  const onOpen = () => {
    isLost = false;
    if (isReady) return note('connected again');
    isReady = true;
    note(
      forward === undefined
        ? 'ready: events are printed as they happen (--forward http://localhost:3000/hook sends them on); Ctrl-C ends it'
        : `ready: events are forwarded to ${forward}; Ctrl-C ends it`,
    );
    if (forward !== undefined && options.secret === undefined) note(`they are signed with ${secret}`);
  };
  try {
    await withApi(options, async (api) => {
      const take = async (event: WebhookEvent): Promise<void> => {
        counts.events++;
        process.stdout.write(options.json === true ? `${JSON.stringify(event)}\n` : `${clock()}  ${summary(event)}\n`);
        if (forward === undefined) return;
        const result = await forwardOne(forward, secret, event);
        if (result.ok) counts.forwarded++;
        note(`${clock()}  ${result.ok ? '→' : '✗'} ${result.text}`);
      };
      let lastEventId = after;
      for (;;) {
        try {
          const query = {
            signal: abort.signal,
            onOpen,
            ...(events === undefined ? {} : { events }),
            ...(lastEventId === undefined ? {} : { lastEventId }),
          };
          for await (const event of api.webhookEvents.follow(query)) {
            await take(event);
            lastEventId = event.id;
          }
        } catch (error) {
          // Before it has ever stood, the address or the key is wrong; afterwards the product is being started again.
          if (!isReady || !mayPass(error)) throw error;
          if (!isLost) note(`connection lost: trying again until ${options.url} answers`);
          isLost = true;
          await setTimeout(RECONNECT_MS, undefined, { signal: abort.signal });
        }
      }
    });
  } catch (error) {
    if (!abort.signal.aborted) throw error;
  }
  const more = forward === undefined ? '' : `, ${counts.forwarded} of them taken by ${forward}`;
  note(`${counts.events} event${counts.events === 1 ? '' : 's'}${more}`);
}

/** No answer, a cut one, or one that says "later". */
function mayPass(error: unknown): boolean {
  return error instanceof TypeError || (error instanceof ClientError && error.status >= 500);
}

function summary({ type, id, data }: WebhookEvent): string {
  const further = Object.entries(data)
    .filter(([name, value]) => name !== 'id' && name !== 'sequence' && value !== null)
    .map(([name, value]) => ` ${name}=${String(value)}`);
  return `${type}  ${data.id} #${data.sequence}${further.join('')}  ${id}`;
}

async function forwardOne(url: string, secret: string, event: WebhookEvent): Promise<{ ok: boolean; text: string }> {
  const body = JSON.stringify(event);
  const signed = await webhookHeaders(event.id, Math.floor(Date.now() / 1000), body, secret);
  const startedMs = performance.now();
  try {
    const response = await fetch(url, {
      method: 'POST',
      body,
      redirect: 'manual',
      headers: { ...signed, 'content-type': 'application/json', 'user-agent': 'mantis-cli-webhooks/1' },
      signal: AbortSignal.timeout(LIMITS.webhooks.timeoutMs),
    });
    const said = response.ok ? '' : ` ${JSON.stringify((await response.text()).slice(0, 200))}`;
    await response.body?.cancel().catch(() => {});
    return { ok: response.ok, text: `${response.status} in ${Math.round(performance.now() - startedMs)} ms${said}` };
  } catch (error) {
    const cause = error instanceof Error && error.cause instanceof Error ? error.cause : error;
    return {
      ok: false,
      text: `${url} did not answer: ${cause instanceof Error ? cause.message || cause.name : String(cause)}`,
    };
  }
}

const clock = (): string => new Date().toTimeString().slice(0, 8);

function note(text: string): void {
  process.stderr.write(`${text}\n`);
}
