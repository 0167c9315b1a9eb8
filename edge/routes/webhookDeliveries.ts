/** What happened, and what was told of it to whom. */
import type { Context } from 'hono';
import { ApiError, describe, errorMessage, violation } from '../../shared/contract/errors.ts';
import { type WebhookDelivery, WebhookDeliveryStatus, WebhookEventFilter } from '../../shared/contract/webhooks.ts';
import { nowMs } from '../clock.ts';
import { type AppEnv, actorOf, scheduler } from '../env.ts';
import {
  type DeliveryRow,
  getDelivery,
  listAttempts,
  listDeliveries,
  redeliver,
  showDelivery,
} from '../store/webhookDeliveries.ts';
import { getEndpoint } from '../store/webhookEndpoints.ts';
import { getWebhookEvent, listWebhookEvents, showWebhookEvent } from '../store/webhooks.ts';
import { streamWebhookEvents } from '../webhooks/follow.ts';
import { listQuery } from './query.ts';
import { endpointDisabled } from './webhookEndpoints.ts';

/** `GET /v1/webhook_events`: the list, newest first, or with `Accept: text/event-stream` what happens from now on. */
export async function listAllWebhookEvents(c: Context<AppEnv>): Promise<Response> {
  const { DB: db } = c.env;
  const filters = eventFilters(c);
  if ((c.req.header('accept') ?? '').includes('text/event-stream'))
    return streamWebhookEvents(db, c.get('tenant'), c.req.header('last-event-id') ?? null, filters);
  const query = { ...listQuery(c), filters, objectId: c.req.query('object_id') ?? null };
  return c.json(await listWebhookEvents(db, c.get('tenant'), query));
}

export async function retrieveWebhookEvent(c: Context<AppEnv>): Promise<Response> {
  const id = c.req.param('id') ?? '';
  const row = await getWebhookEvent(c.env.DB, c.get('tenant'), id);
  if (row !== null) return c.json(showWebhookEvent(row));
  const remedy = 'GET /v1/webhook_events lists those of the last 30 days.';
  throw new ApiError(
    'webhook_event_not_found',
    errorMessage('id', { expected: 'the id of an event', received: describe(id), remedy }),
    { param: 'id' },
  );
}

/** `GET /v1/webhook_deliveries`: newest first; `status=failed` are the dead letters. */
export async function listWebhookDeliveries(c: Context<AppEnv>): Promise<Response> {
  const status = c.req.query('status') ?? null;
  if (status !== null && !WebhookDeliveryStatus.safeParse(status).success) {
    const expected = `one of ${WebhookDeliveryStatus.options.join(', ')}`;
    throw ApiError.from([violation('invalid_value', 'status', { expected, received: describe(status) })]);
  }
  const query = {
    ...listQuery(c),
    endpointId: c.req.query('endpoint_id') ?? null,
    eventId: c.req.query('event_id') ?? null,
    status,
    type: c.req.query('type') ?? null,
  };
  return c.json(await listDeliveries(c.env.DB, c.get('tenant'), query));
}

/** With the log of its attempts. */
export async function retrieveWebhookDelivery(c: Context<AppEnv>): Promise<Response> {
  return c.json(await shown(c, await existing(c)));
}

/** `POST /v1/webhook_deliveries/{id}/redeliver`: begins it anew with all attempts, however it ended; one that waits for its next attempt is made now. */
export async function redeliverWebhook(c: Context<AppEnv>): Promise<Response> {
  const row = await existing(c);
  if (!(await redeliver(c.env.DB, actorOf(c), row, nowMs()))) {
    const endpoint = await getEndpoint(c.env.DB, c.get('tenant'), row.endpoint_id);
    if (endpoint === null || endpoint.disabled_at !== null) throw endpointDisabled(row.endpoint_id);
    throw new ApiError('invalid_state', 'The delivery is being made at this moment. Look at how it ends first.', {
      param: 'id',
    });
  }
  c.executionCtx.waitUntil(scheduler(c.env).wake());
  return c.json(await shown(c, await existing(c)));
}

async function shown(c: Context<AppEnv>, row: DeliveryRow): Promise<WebhookDelivery> {
  return { ...showDelivery(row), attempt_log: await listAttempts(c.env.DB, row) };
}

async function existing(c: Context<AppEnv>): Promise<DeliveryRow> {
  const id = c.req.param('id') ?? '';
  const row = await getDelivery(c.env.DB, c.get('tenant'), id);
  if (row !== null) return row;
  const remedy = 'GET /v1/webhook_deliveries lists yours.';
  throw new ApiError(
    'webhook_delivery_not_found',
    errorMessage('id', { expected: 'the id of a webhook delivery', received: describe(id), remedy }),
    { param: 'id' },
  );
}

/** `events=`: types and patterns, comma-separated. @returns them as JSON, null for all */
function eventFilters(c: Context<AppEnv>): string | null {
  const text = c.req.query('events');
  if (text === undefined) return null;
  const names = text.split(',').map((name) => name.trim());
  const unknown = names.find((name) => !WebhookEventFilter.safeParse(name).success);
  if (unknown !== undefined) {
    const expected = `some of ${WebhookEventFilter.options.join(', ')}`;
    throw ApiError.from([violation('invalid_value', 'events', { expected, received: describe(unknown) })]);
  }
  return JSON.stringify(names);
}
