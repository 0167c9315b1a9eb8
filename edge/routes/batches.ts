/** Batches: a file of requests, worked off when there is room, at the latest within a day. */
import type { Context } from 'hono';
import { CreateBatchRequest } from '../../shared/contract/batches.ts';
import { ApiError, describe, errorMessage, violation } from '../../shared/contract/errors.ts';
import { LIMITS } from '../../shared/contract/limits.ts';
import { streamBatch } from '../batches/follow.ts';
import { nowMs as clockMs } from '../clock.ts';
import { type AppEnv, actorOf, batchRunner, scheduler } from '../env.ts';
import { readJson } from '../middleware/body.ts';
import { auditEntry } from '../store/audit.ts';
import { type BatchRow, getBatch, insertBatch, listBatches, moveBatch, showBatch } from '../store/batches.ts';
import { keyed } from '../store/keyed.ts';
import { existingFile } from './files.ts';
import { listQuery } from './query.ts';

const B = LIMITS.batches;

/** `POST /v1/batches`. The lines are checked afterwards, in the state `validating`. */
export async function createBatch(c: Context<AppEnv>): Promise<Response> {
  const asked = await readJson(c, CreateBatchRequest);
  const file = await existingFile(c, asked.input_file_id, 'input_file_id');
  const wrong = [];
  if (file.purpose !== 'batch')
    wrong.push(
      violation('invalid_value', 'input_file_id', {
        expected: 'a file that was uploaded with the purpose "batch"',
        received: `one for ${describe(file.purpose)}`,
      }),
    );
  if (file.bytes > B.maxBytes)
    wrong.push(
      violation('request_too_large', 'input_file_id', {
        expected: `a file of at most ${B.maxBytes} bytes`,
        received: file.bytes,
        remedy: 'Divide it into several batches.',
      }),
    );
  if (wrong.length > 0) throw ApiError.from(wrong);
  const nowMs = clockMs();
  const tenant = c.get('tenant');
  const find = (id: string) => getBatch(c.env.DB, tenant, id);
  const { id, made: earlier } = await keyed('batch_', tenant, c.req.header('idempotency-key'), nowMs, find);
  if (earlier !== null) {
    await batchRunner(c.env, id).wake(id);
    return c.json(showBatch(earlier));
  }
  const made = await insertBatch(c.env.DB, actorOf(c), {
    id,
    endpoint: asked.endpoint,
    input_file_id: file.id,
    metadata: asked.metadata == null ? null : JSON.stringify(asked.metadata),
    expires_after_s: asked.output_expires_after?.seconds ?? null,
    created_at: nowMs,
    expires_at: nowMs + windowS(c.env.BATCH_WINDOW_S) * 1000,
  });
  if (!made) {
    throw new ApiError(
      'rate_limit_exceeded',
      `Batches: ${B.maxPending} of yours have not ended, which is the most there may be. Wait for one, or cancel one.`,
      {
        retryAfterMs: 60_000,
        shouldRetry: false,
      },
    );
  }
  await batchRunner(c.env, id).wake(id);
  c.executionCtx.waitUntil(scheduler(c.env).ensure());
  return c.json(showBatch(await existingBatch(c, id)));
}

function windowS(setting: string | undefined): number {
  const seconds = Number(setting);
  return seconds >= 1 ? Math.min(seconds, B.windowS) : B.windowS;
}

export async function listAllBatches(c: Context<AppEnv>): Promise<Response> {
  return c.json(await listBatches(c.env.DB, c.get('tenant'), listQuery(c)));
}

/** `GET /v1/batches/{id}`; with `Accept: text/event-stream` as it goes on. */
export async function retrieveBatch(c: Context<AppEnv>): Promise<Response> {
  const batch = await existingBatch(c);
  if ((c.req.header('accept') ?? '').includes('text/event-stream')) return streamBatch(c.env.DB, batch);
  return c.json(showBatch(batch));
}

/** `POST /v1/batches/{id}/cancel`. What is done stays; what is under way is given up. */
export async function cancelBatch(c: Context<AppEnv>): Promise<Response> {
  const { id, tenant } = await existingBatch(c);
  const row = await moveBatch(c.env.DB, id, ['validating', 'in_progress'], 'cancelling', clockMs(), {
    tenant,
    along: (guard) => [auditEntry(c.env.DB, actorOf(c), { action: 'batch.cancelling', object: id }, guard)],
  });
  if (row === null) {
    const now = await existingBatch(c, id);
    // Asking twice is no mistake.
    if (now.status === 'cancelling' || now.status === 'cancelled') return c.json(showBatch(now));
    throw new ApiError('invalid_state', `Batch ${id} cannot be cancelled: it is ${now.status}.`, { param: 'id' });
  }
  await batchRunner(c.env, id).cancel(id);
  return c.json(showBatch(row));
}

async function existingBatch(c: Context<AppEnv>, id: string = c.req.param('id') ?? ''): Promise<BatchRow> {
  const batch = await getBatch(c.env.DB, c.get('tenant'), id);
  if (batch !== null) return batch;
  throw new ApiError(
    'batch_not_found',
    errorMessage('id', {
      expected: 'the id of a batch',
      received: describe(id),
      remedy: 'GET /v1/batches lists yours.',
    }),
    { param: 'id' },
  );
}
