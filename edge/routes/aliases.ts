/** Names for models: `/v1/aliases`. */
import type { Context } from 'hono';
import {
  CreateAliasRequest,
  PromoteAliasRequest,
  RollbackAliasRequest,
  UpdateAliasRequest,
} from '../../shared/contract/aliases.ts';
import { ApiError, describe, errorMessage, violation } from '../../shared/contract/errors.ts';
import { LIMITS } from '../../shared/contract/limits.ts';
import { forgetAlias } from '../aliases/target.ts';
import { nowMs } from '../clock.ts';
import { type AppEnv, actorOf, scheduler } from '../env.ts';
import { knownModels } from '../fleet/registry.ts';
import { readJson } from '../middleware/body.ts';
import {
  type AliasMove,
  type AliasRow,
  changeToReturnTo,
  deleteAlias,
  describeAlias,
  findChange,
  getAlias,
  isConflict,
  listAliases,
  listChanges,
  moveAlias,
  showAlias,
} from '../store/aliases.ts';
import { getModel } from '../store/models.ts';
import { scheduleOfAlias } from '../store/schedules.ts';
import { listQuery } from './query.ts';

/** Others that change the same alias at the same moment. */
const MAX_ROUNDS = 5;

/** `POST /v1/aliases`. */
export async function createAlias(c: Context<AppEnv>): Promise<Response> {
  const asked = await readJson(c, CreateAliasRequest);
  const cards = await knownModels(c.env);
  if (cards.has(asked.name))
    throw ApiError.from([
      violation('invalid_value', 'name', {
        expected: 'a name that no served model has',
        received: describe(asked.name),
      }),
    ]);
  await checkModel(c, asked.model);
  const { name, model, description = null } = asked;
  const made = await move(c, name, (was) => {
    if (was !== null) throw taken(name);
    return { name, model, was, kind: 'created', back: null, reason: null, description };
  });
  return c.json(made);
}

export async function listAllAliases(c: Context<AppEnv>): Promise<Response> {
  return c.json(await listAliases(c.env.DB, c.get('tenant'), listQuery(c)));
}

export async function retrieveAlias(c: Context<AppEnv>): Promise<Response> {
  return c.json(await shown(c, await existingAlias(c)));
}

/** `POST /v1/aliases/{name}`. */
export async function updateAlias(c: Context<AppEnv>): Promise<Response> {
  const { description } = await readJson(c, UpdateAliasRequest);
  const { name } = await existingAlias(c);
  await describeAlias(c.env.DB, actorOf(c), name, description, nowMs());
  return c.json(await shown(c, await existingAlias(c)));
}

/**
 * `DELETE /v1/aliases/{name}`, with its history.
 * @throws ApiError `invalid_state` where a schedule promotes to it or starts from it
 */
export async function removeAlias(c: Context<AppEnv>): Promise<Response> {
  const { name, tenant } = await existingAlias(c);
  const user = await scheduleOfAlias(c.env.DB, tenant, name);
  if (user !== null)
    throw new ApiError(
      'invalid_state',
      `Alias ${JSON.stringify(name)} is what the schedule ${user.id} promotes to. Change or delete that first.`,
      { param: 'id' },
    );
  await deleteAlias(c.env.DB, actorOf(c), name);
  forgetAlias(tenant, name);
  return c.json({ id: name, object: 'alias', deleted: true });
}

/** `POST /v1/aliases/{name}/promote`. The same model again changes nothing. */
export async function promoteAlias(c: Context<AppEnv>): Promise<Response> {
  const { model, reason = null } = await readJson(c, PromoteAliasRequest);
  await existingAlias(c);
  await checkModel(c, model);
  const name = c.req.param('id') ?? '';
  const made = await move(c, name, (was) => {
    if (was === null) throw aliasNotFound(name);
    return was.model === model ? null : { name, model, was, kind: 'promoted', back: was.version, reason };
  });
  return c.json(made);
}

/** `POST /v1/aliases/{name}/rollback`: to what was before the current model came; again, one step further back. */
export async function rollbackAlias(c: Context<AppEnv>): Promise<Response> {
  const { reason = null } = (await hasBody(c)) ? await readJson(c, RollbackAliasRequest) : {};
  await existingAlias(c);
  const name = c.req.param('id') ?? '';
  const made = await move(c, name, async (was) => {
    if (was === null) throw aliasNotFound(name);
    const target = await changeToReturnTo(c.env.DB, was);
    if (target === null)
      throw new ApiError(
        'invalid_state',
        `Alias ${JSON.stringify(name)} has no earlier model that still exists. GET /v1/aliases/${name}/history lists what it stood for.`,
        { param: 'id' },
      );
    return { name, model: target.model, was, kind: 'rolled_back', back: target.back, reason };
  });
  return c.json(made);
}

/** `GET /v1/aliases/{name}/history`, newest first. */
export async function aliasHistory(c: Context<AppEnv>): Promise<Response> {
  const { tenant, name } = await existingAlias(c);
  return c.json(await listChanges(c.env.DB, tenant, name, listQuery(c)));
}

/** Reads, decides, writes; again where somebody else wrote first. `decide` gives null where nothing is to change. */
async function move(
  c: Context<AppEnv>,
  name: string,
  decide: (was: AliasRow | null) => AliasMove | null | Promise<AliasMove | null>,
) {
  const actor = actorOf(c);
  for (let round = 0; round < MAX_ROUNDS; round++) {
    const was = await getAlias(c.env.DB, actor.tenant, name);
    const wanted = await decide(was);
    if (wanted === null) return shown(c, was as AliasRow);
    const { statements, changeId } = moveAlias(c.env.DB, actor, wanted, nowMs());
    try {
      await c.env.DB.batch(statements);
    } catch (error) {
      if (!isConflict(error)) throw error;
      continue;
    }
    if ((await findChange(c.env.DB, changeId)) === null) {
      await checkModel(c, wanted.model);
      if (was === null) await checkRoom(c, name);
      continue;
    }
    forgetAlias(actor.tenant, name);
    c.executionCtx.waitUntil(scheduler(c.env).wake());
    return shown(c, await existingAlias(c, name));
  }
  throw new ApiError('overloaded', `Alias ${JSON.stringify(name)}: others change it at the same time. Try again.`, {
    retryAfterMs: 1_000,
  });
}

async function checkRoom(c: Context<AppEnv>, name: string): Promise<void> {
  if ((await getAlias(c.env.DB, c.get('tenant'), name)) !== null) throw taken(name);
  throw new ApiError(
    'invalid_value',
    errorMessage('aliases', {
      expected: `at most ${LIMITS.aliases.maxPerTenant}`,
      received: 'one more',
      remedy: 'Delete one first.',
    }),
    { param: 'name' },
  );
}

/** @throws ApiError `model_not_found` for what is neither served nor a tuned model of this tenant; an alias is no target */
async function checkModel(c: Context<AppEnv>, model: string): Promise<void> {
  if ((await getModel(c.env.DB, c.get('tenant'), model)) !== null) return;
  const cards = await knownModels(c.env, true);
  if (cards.has(model)) return;
  throw new ApiError(
    'model_not_found',
    errorMessage('model', {
      expected: `a tuned model of yours or a served one (${[...cards.keys()].join(', ') || 'none right now'})`,
      received: describe(model),
      remedy: 'GET /v1/models lists them.',
    }),
    { param: 'model' },
  );
}

/** A rollback needs no body. */
async function hasBody(c: Context<AppEnv>): Promise<boolean> {
  return c.req.raw.body !== null && c.req.header('content-length') !== '0';
}

async function shown(c: Context<AppEnv>, row: AliasRow) {
  return showAlias(row, (await changeToReturnTo(c.env.DB, row))?.model ?? null);
}

async function existingAlias(c: Context<AppEnv>, name: string = c.req.param('id') ?? ''): Promise<AliasRow> {
  const row = await getAlias(c.env.DB, c.get('tenant'), name);
  if (row === null) throw aliasNotFound(name);
  return row;
}

function taken(name: string): ApiError {
  return new ApiError(
    'invalid_state',
    `Alias ${JSON.stringify(name)} exists already. POST /v1/aliases/${name}/promote gives it another model.`,
    { param: 'name' },
  );
}

function aliasNotFound(name: string): ApiError {
  return new ApiError(
    'alias_not_found',
    errorMessage('id', {
      expected: 'the name of an alias',
      received: describe(name),
      remedy: 'GET /v1/aliases lists yours.',
    }),
    { param: 'id' },
  );
}
