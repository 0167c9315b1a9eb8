import type { Context } from 'hono';
import { ApiError, describe, errorMessage } from '../../shared/contract/errors.ts';
import { LIMITS } from '../../shared/contract/limits.ts';
import { CreateWebhookEndpointRequest, WebhookEventType } from '../../shared/contract/webhooks.ts';
import { newId } from '../../shared/wire/ids.ts';
import { checkTarget, parseAllowList } from '../egress/target.ts';
import { type AppEnv, actorOf } from '../env.ts';
import { readJson } from '../middleware/body.ts';
import { auditEntry } from '../store/audit.ts';
import {
  countEndpoints,
  deleteEndpoint,
  getEndpoint,
  insertEndpoint,
  listEndpoints,
  showEndpoint,
} from '../store/webhooks.ts';
import { newWebhookSecret } from '../webhooks/sign.ts';
import { listQuery } from './query.ts';

/** `POST /v1/webhook_endpoints`. The secret is shown in this answer and nowhere else. */
export async function createWebhookEndpoint(c: Context<AppEnv>): Promise<Response> {
  const body = await readJson(c, CreateWebhookEndpointRequest);
  const target = checkTarget(body.url, parseAllowList(c.env.EGRESS_ALLOW));
  if ('problem' in target) throw new ApiError('invalid_value', target.problem, { param: 'url' });
  const count = await countEndpoints(c.env.DB, c.get('tenant'));
  if (count >= LIMITS.webhooks.maxEndpoints) {
    throw new ApiError(
      'invalid_value',
      errorMessage('webhook endpoints', {
        expected: `at most ${LIMITS.webhooks.maxEndpoints}`,
        received: count + 1,
        remedy: 'Delete one first.',
      }),
      { param: 'url' },
    );
  }
  const row = {
    id: newId('whe_'),
    tenant: c.get('tenant'),
    url: target.url.href,
    events: JSON.stringify([...new Set(body.events ?? WebhookEventType.options)]),
    secret: newWebhookSecret(),
    created_at: Date.now(),
  };
  await c.env.DB.batch([
    insertEndpoint(c.env.DB, row),
    auditEntry(c.env.DB, actorOf(c), {
      action: 'webhook_endpoint.created',
      object: row.id,
      data: { host: target.url.host },
    }),
  ]);
  return c.json({ ...showEndpoint({ ...row, disabled_at: null, seq: 0 }), secret: row.secret });
}

export async function listWebhookEndpoints(c: Context<AppEnv>): Promise<Response> {
  return c.json(await listEndpoints(c.env.DB, c.get('tenant'), listQuery(c)));
}

export async function retrieveWebhookEndpoint(c: Context<AppEnv>): Promise<Response> {
  const id = c.req.param('id') ?? '';
  const row = await getEndpoint(c.env.DB, c.get('tenant'), id);
  if (row === null) throw endpointNotFound(id);
  return c.json(showEndpoint(row));
}

export async function removeWebhookEndpoint(c: Context<AppEnv>): Promise<Response> {
  const id = c.req.param('id') ?? '';
  if (!(await deleteEndpoint(c.env.DB, actorOf(c), id))) throw endpointNotFound(id);
  return c.json({ id, object: 'webhook_endpoint', deleted: true });
}

function endpointNotFound(id: string): ApiError {
  return new ApiError(
    'webhook_endpoint_not_found',
    errorMessage('id', { expected: 'the id of a webhook endpoint', received: describe(id) }),
    { param: 'id' },
  );
}
