/** Evaluations: what is asked and how it is judged, in OpenAI's form. */
import type { Context } from 'hono';
import * as z from 'zod/mini';
import { ApiError, describe, errorMessage, type Violation, violation } from '../../shared/contract/errors.ts';
import { CreateEvalRequest, type DeletedEval, UpdateEvalRequest } from '../../shared/contract/evals.ts';
import { LIMITS } from '../../shared/contract/limits.ts';
import { nowMs as clockMs } from '../clock.ts';
import { type AppEnv, actorOf } from '../env.ts';
import { checkEval, judgesOf } from '../evals/check.ts';
import { deleteRuns } from '../evals/remove.ts';
import { resolveModel } from '../fleet/models.ts';
import { readJson } from '../middleware/body.ts';
import { runIds } from '../store/evalRuns.ts';
import { deleteEval, type EvalRow, getEval, insertEval, listEvals, showEval, updateEval } from '../store/evals.ts';
import { keyed } from '../store/keyed.ts';
import { listQuery } from './query.ts';

/** `POST /v1/evals`. */
export async function createEval(c: Context<AppEnv>): Promise<Response> {
  const asked = await readJson(c, CreateEvalRequest);
  const wrong = checkEval(asked);
  if (wrong.length > 0) throw ApiError.from(wrong);
  const tenant = c.get('tenant');
  for (const { model, param } of judgesOf(asked.testing_criteria)) await mustExist(c, model, param);
  const nowMs = clockMs();
  const find = (id: string) => getEval(c.env.DB, tenant, id);
  const { id, made: earlier } = await keyed('eval_', tenant, c.req.header('idempotency-key'), nowMs, find);
  if (earlier !== null) return c.json(showEval(earlier));
  const row = await insertEval(c.env.DB, actorOf(c), {
    id,
    name: asked.name ?? '',
    metadata: asked.metadata == null ? null : JSON.stringify(asked.metadata),
    source: JSON.stringify(asked.data_source_config),
    criteria: JSON.stringify(asked.testing_criteria),
    created_at: nowMs,
  });
  if (row === null)
    throw new ApiError(
      'rate_limit_exceeded',
      `Evaluations: you have ${LIMITS.evals.maxPerTenant}, which is the most there may be. Delete one.`,
      { retryAfterMs: 60_000, shouldRetry: false },
    );
  return c.json(showEval(row));
}

/** A judge that nobody serves at the moment may be there when a run begins. */
async function mustExist(c: Context<AppEnv>, model: string, param: string): Promise<void> {
  try {
    await resolveModel(c.env, c.get('tenant'), model);
  } catch (error) {
    if (!(error instanceof ApiError) || error.code !== 'model_not_found') return;
    throw new ApiError('model_not_found', error.message.replace(/^model/, param), { param });
  }
}

const Order = z.enum(['asc', 'desc']);

/** `order` of a list request. */
export function orderQuery(c: Context<AppEnv>, fallback: 'asc' | 'desc'): 'asc' | 'desc' {
  return oneOf(c, 'order', Order.options, fallback);
}

/** A query parameter that is one of several words. */
export function oneOf<Word extends string, Fallback extends Word | null>(
  c: Context<AppEnv>,
  name: string,
  words: readonly Word[],
  fallback: Fallback,
): Word | Fallback {
  const asked = c.req.query(name);
  if (asked === undefined) return fallback;
  const found = words.find((word) => word === asked);
  if (found !== undefined) return found;
  const wrong: Violation[] = [
    violation('invalid_value', name, { expected: `one of ${words.join(', ')}`, received: describe(asked) }),
  ];
  throw ApiError.from(wrong);
}

/** `GET /v1/evals`; oldest first where nothing is said, as OpenAI has it. */
export async function listAllEvals(c: Context<AppEnv>): Promise<Response> {
  const orderBy = oneOf(c, 'order_by', ['created_at', 'updated_at'] as const, 'created_at');
  const query = { ...listQuery(c), order: orderQuery(c, 'asc'), orderBy };
  return c.json(await listEvals(c.env.DB, c.get('tenant'), query));
}

export async function retrieveEval(c: Context<AppEnv>): Promise<Response> {
  return c.json(showEval(await existingEval(c)));
}

/** `POST /v1/evals/{id}`: its name and metadata; what is judged never changes under its runs. */
export async function changeEval(c: Context<AppEnv>): Promise<Response> {
  const asked = await readJson(c, UpdateEvalRequest);
  const row = await existingEval(c);
  const name = asked.name === undefined ? row.name : (asked.name ?? '');
  const metadata =
    asked.metadata === undefined ? row.metadata : asked.metadata === null ? null : JSON.stringify(asked.metadata);
  const updated = await updateEval(c.env.DB, actorOf(c), row.id, { name, metadata }, clockMs());
  if (updated === null) throw evalNotFound(row.id);
  return c.json(showEval(updated));
}

/** `DELETE /v1/evals/{id}`: with its runs, which stop at once, and all that came of them. */
export async function removeEval(c: Context<AppEnv>): Promise<Response> {
  const { id } = await existingEval(c);
  const actor = actorOf(c);
  await deleteRuns(c.env, actor, await runIds(c.env.DB, actor.tenant, id));
  // A run that was made in between refuses to be without its evaluation, or goes with it.
  await c.env.DB.batch(deleteEval(c.env.DB, actor, id));
  await deleteRuns(c.env, actor, await runIds(c.env.DB, actor.tenant, id));
  const answer: DeletedEval = { object: 'eval.deleted', deleted: true, eval_id: id };
  return c.json(answer);
}

export async function existingEval(c: Context<AppEnv>): Promise<EvalRow> {
  const id = c.req.param('id') ?? '';
  const row = await getEval(c.env.DB, c.get('tenant'), id);
  if (row === null) throw evalNotFound(id);
  return row;
}

function evalNotFound(id: string): ApiError {
  return new ApiError(
    'eval_not_found',
    errorMessage('id', {
      expected: 'the id of an evaluation',
      received: describe(id),
      remedy: 'GET /v1/evals lists yours.',
    }),
    { param: 'id' },
  );
}
