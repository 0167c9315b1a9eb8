import type { GenerateRequest } from '../../shared/contract/backend.ts';
import { ApiError } from '../../shared/contract/errors.ts';
import type { ModelCard } from '../../shared/contract/models.ts';
import { aliasTarget } from '../aliases/target.ts';
import type { Env } from '../env.ts';
import { findModel, listModels } from '../store/models.ts';
import { knownModels } from './registry.ts';

/** A model a request may name: the card of its base, and for a tuned one what lies over the base. */
export type KnownModel = { id: string; card: ModelCard; adapter: NonNullable<GenerateRequest['adapter']> | null };

/** Tuned models never change once named, so they may be kept, by owner and name, for as long as a deleted one may still answer; unknown ones are not. */
const tuned = new Map<string, { adapter: NonNullable<GenerateRequest['adapter']>; untilMs: number }>();
const TUNED_CACHE_MS = 10_000;

/** A tuned model has been deleted; other isolates learn it when they look again. */
export function forgetTuned(tenant: string, id: string): void {
  tuned.delete(`${tenant} ${id}`);
}

/**
 * Looks up a model by its public id or by an alias of the tenant; what comes back is named by the model itself.
 * @throws ApiError `model_not_found` listing what exists; `no_backend` when nobody serves the base now, which may change.
 */
export async function resolveModel(env: Env, tenant: string, name: string): Promise<KnownModel> {
  let cards = await knownModels(env);
  let id = name;
  if (!cards.has(id) && !id.startsWith('ft:')) {
    // An alias stands for a model, never for another alias; what is served under the same name goes before it.
    id = (await aliasTarget(env.DB, tenant, name)) ?? name;
    if (!cards.has(id) && !id.startsWith('ft:')) cards = await knownModels(env, true);
  }
  const card = cards.get(id);
  if (card !== undefined) return { id, card, adapter: null };
  if (id.startsWith('ft:')) {
    const key = `${tenant} ${id}`;
    const kept = tuned.get(key);
    const isFresh = kept !== undefined && kept.untilMs > Date.now();
    const adapter = isFresh ? kept.adapter : await findModel(env.DB, tenant, id);
    if (adapter === null) tuned.delete(key);
    else {
      if (!isFresh) tuned.set(key, { adapter, untilMs: Date.now() + TUNED_CACHE_MS });
      const base = cards.get(adapter.base) ?? (await knownModels(env, true)).get(adapter.base);
      if (base === undefined) throw noBackend(id);
      return { id, card: base, adapter };
    }
  }
  if (cards.size === 0) throw noBackend(id);
  const names = [...cards.keys(), ...(await listModels(env.DB, tenant)).map((row) => row.id)];
  const shown = names.slice(0, 20).join(', ') + (names.length > 20 ? ', … (GET /v1/models lists all)' : '');
  throw new ApiError(
    'model_not_found',
    `model: expected one of ${shown}, received ${JSON.stringify(id.slice(0, 128))}.`,
    { param: 'model' },
  );
}

function noBackend(id: string): ApiError {
  return new ApiError(
    'no_backend',
    `No backend serves ${JSON.stringify(id.slice(0, 128))} right now. Try again shortly.`,
    {
      param: 'model',
      retryAfterMs: 2_000,
    },
  );
}
