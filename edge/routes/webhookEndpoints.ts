import type { Context } from 'hono';
import { ApiError, describe, errorMessage } from '../../shared/contract/errors.ts';
import { LIMITS } from '../../shared/contract/limits.ts';
import {
  CreateWebhookEndpointRequest,
  RedeliverWebhooksRequest,
  RotateWebhookSecretRequest,
  UpdateWebhookEndpointRequest,
  WEBHOOK_TEST,
  type WebhookEvent,
  type WebhookRedelivery,
  type WebhookTest,
} from '../../shared/contract/webhooks.ts';
import { newId } from '../../shared/wire/ids.ts';
import { newWebhookSecret } from '../../shared/wire/webhookSignature.ts';
import { nowMs } from '../clock.ts';
import { egressOf } from '../egress/fetch.ts';
import { checkTarget, parseAllowList } from '../egress/target.ts';
import { type AppEnv, actorOf, scheduler } from '../env.ts';
import { readJson } from '../middleware/body.ts';
import { auditEntry } from '../store/audit.ts';
import { redeliverRange } from '../store/webhookDeliveries.ts';
import {
  countEndpoints,
  deleteEndpoint,
  type EndpointRow,
  getEndpoint,
  insertEndpoint,
  listEndpoints,
  liveOld,
  liveSecrets,
  rotateSecret,
  showEndpoint,
  updateEndpoint,
} from '../store/webhookEndpoints.ts';
import { send } from '../webhooks/send.ts';
import { listQuery } from './query.ts';

const W = LIMITS.webhooks;

/** `POST /v1/webhook_endpoints`. The secret is shown in this answer and nowhere else. */
export async function createWebhookEndpoint(c: Context<AppEnv>): Promise<Response> {
  const body = await readJson(c, CreateWebhookEndpointRequest);
  const url = checkedUrl(c, body.url);
  const count = await countEndpoints(c.env.DB, c.get('tenant'));
  if (count >= W.maxEndpoints) {
    throw new ApiError(
      'invalid_value',
      errorMessage('webhook endpoints', {
        expected: `at most ${W.maxEndpoints}`,
        received: count + 1,
        remedy: 'Delete one first.',
      }),
      { param: 'url' },
    );
  }
  const row = {
    id: newId('whe_'),
    tenant: c.get('tenant'),
    url: url.href,
    events: filters(body.events ?? ['*']),
    description: body.description ?? null,
    secret: newWebhookSecret(),
    created_at: nowMs(),
  };
  await c.env.DB.batch([
    insertEndpoint(c.env.DB, row),
    auditEntry(c.env.DB, actorOf(c), {
      action: 'webhook_endpoint.created',
      object: row.id,
      data: { host: url.host },
    }),
  ]);
  const rest = { disabled_at: null, disabled_reason: null, failing_since: null, old_secrets: '[]', seq: 0 };
  return c.json({ ...showEndpoint({ ...row, ...rest }, nowMs()), secret: row.secret });
}

export async function listWebhookEndpoints(c: Context<AppEnv>): Promise<Response> {
  return c.json(await listEndpoints(c.env.DB, c.get('tenant'), listQuery(c), nowMs()));
}

export async function retrieveWebhookEndpoint(c: Context<AppEnv>): Promise<Response> {
  return c.json(showEndpoint(await existing(c), nowMs()));
}

/** `POST /v1/webhook_endpoints/{id}`: what is left out stays. */
export async function updateWebhookEndpoint(c: Context<AppEnv>): Promise<Response> {
  const body = await readJson(c, UpdateWebhookEndpointRequest);
  const { id } = await existing(c);
  const change = {
    ...(body.url === undefined ? {} : { url: checkedUrl(c, body.url).href }),
    ...(body.events === undefined ? {} : { events: filters(body.events) }),
    ...(body.description === undefined ? {} : { description: body.description }),
    ...(body.status === undefined ? {} : { status: body.status }),
  };
  const row = await updateEndpoint(c.env.DB, actorOf(c), id, change, nowMs());
  if (row === null) throw endpointNotFound(id);
  return c.json(showEndpoint(row, nowMs()));
}

export async function removeWebhookEndpoint(c: Context<AppEnv>): Promise<Response> {
  const id = c.req.param('id') ?? '';
  if (!(await deleteEndpoint(c.env.DB, actorOf(c), id))) throw endpointNotFound(id);
  return c.json({ id, object: 'webhook_endpoint', deleted: true });
}

/** `POST …/rotate_secret`: a new secret, shown in this answer only; the old one signs beside it for a while. */
export async function rotateWebhookSecret(c: Context<AppEnv>): Promise<Response> {
  const { overlap_s = W.defaultOverlapS } = await readJson(c, RotateWebhookSecretRequest);
  const row = await existing(c);
  const at = nowMs();
  const secret = newWebhookSecret();
  const replaced = overlap_s === 0 ? [] : [{ secret: row.secret, until: at + overlap_s * 1000 }];
  // With an overlap of 0 the secret is in wrong hands: those before it go too.
  const old = overlap_s === 0 ? [] : [...replaced, ...liveOld(row, at)].slice(0, W.maxSecrets - 1);
  if (!(await rotateSecret(c.env.DB, actorOf(c), row, secret, old)))
    throw new ApiError(
      'invalid_state',
      `The secret of ${row.id} is being rotated by another request. Retrieve the endpoint and decide anew.`,
      {
        param: 'id',
      },
    );
  return c.json({ ...showEndpoint({ ...row, secret, old_secrets: JSON.stringify(old) }, at), secret });
}

/** `POST …/test`: one call with an event of its own type, and what the receiver said. It is not repeated and not kept. */
export async function testWebhookEndpoint(c: Context<AppEnv>): Promise<Response> {
  const row = await existing(c);
  const at = nowMs();
  const event: WebhookEvent = {
    id: newId('evt_'),
    object: 'event',
    type: WEBHOOK_TEST,
    created_at: Math.floor(at / 1000),
    data: { id: row.id, sequence: 0 },
  };
  const context = { egress: egressOf(c.env), nowMs };
  const secrets = liveSecrets(row, at);
  const result = await send(context, { id: event.id, url: row.url, body: JSON.stringify(event), secrets });
  const { status, error, response, durationMs } = result;
  return c.json({
    object: 'webhook_test',
    event_id: event.id,
    ok: status !== null && status >= 200 && status < 300,
    duration_ms: durationMs,
    status,
    error,
    response,
  } satisfies WebhookTest);
}

/** `POST …/redeliver`: begins the deliveries of a time range anew. */
export async function redeliverWebhooks(c: Context<AppEnv>): Promise<Response> {
  const body = await readJson(c, RedeliverWebhooksRequest);
  const { id, disabled_at } = await existing(c);
  if (disabled_at !== null) throw endpointDisabled(id);
  const at = nowMs();
  const range = {
    sinceMs: body.since * 1000,
    untilMs: ((body.until ?? Math.floor(at / 1000)) + 1) * 1000,
    statuses: body.status ?? ['failed', 'cancelled', 'missing'],
    filters: body.events === undefined ? null : filters(body.events),
  };
  const count = await redeliverRange(c.env.DB, actorOf(c), id, range, at);
  if (count > 0) c.executionCtx.waitUntil(scheduler(c.env).wake());
  return c.json({ object: 'webhook_redelivery', endpoint_id: id, count } satisfies WebhookRedelivery);
}

/** Nothing is sent to it. */
export function endpointDisabled(id: string): ApiError {
  const message = `Webhook endpoint ${id} is disabled. Enable it first: POST /v1/webhook_endpoints/${id} with {"status": "enabled"}.`;
  return new ApiError('invalid_state', message, { param: 'id' });
}

const filters = (events: readonly string[]): string => JSON.stringify([...new Set(events)]);

function checkedUrl(c: Context<AppEnv>, text: string): URL {
  const target = checkTarget(text, parseAllowList(c.env.EGRESS_ALLOW));
  if ('problem' in target) throw new ApiError('invalid_value', target.problem, { param: 'url' });
  return target.url;
}

async function existing(c: Context<AppEnv>): Promise<EndpointRow> {
  const id = c.req.param('id') ?? '';
  const row = await getEndpoint(c.env.DB, c.get('tenant'), id);
  if (row === null) throw endpointNotFound(id);
  return row;
}

function endpointNotFound(id: string): ApiError {
  return new ApiError(
    'webhook_endpoint_not_found',
    errorMessage('id', { expected: 'the id of a webhook endpoint', received: describe(id) }),
    { param: 'id' },
  );
}
