import type { GenerateRequest } from '../../shared/contract/backend.ts';
import { ApiError } from '../../shared/contract/errors.ts';
import type { ModelCard } from '../../shared/contract/models.ts';
import type { Env } from '../env.ts';
import { findModel, listModels } from '../store/models.ts';
import { knownModels } from './registry.ts';

/** A model a request may name: the card of its base, and for a tuned one what lies over the base. */
export type KnownModel = { id: string; card: ModelCard; adapter: NonNullable<GenerateRequest['adapter']> | null };

/** Tuned models never change once named, so they may be kept, by owner and name; unknown ones are not. */
const tuned = new Map<string, NonNullable<GenerateRequest['adapter']>>();

/**
 * Looks up a model by its public id.
 * @throws ApiError `model_not_found` listing what exists; `no_backend` when nobody serves the base now, which may change.
 */
export async function resolveModel(env: Env, tenant: string, id: string): Promise<KnownModel> {
  let cards = await knownModels(env);
  if (!cards.has(id) && !id.startsWith('ft:')) cards = await knownModels(env, true);
  const card = cards.get(id);
  if (card !== undefined) return { id, card, adapter: null };
  if (id.startsWith('ft:')) {
    const adapter = tuned.get(`${tenant} ${id}`) ?? (await findModel(env.DB, tenant, id));
    if (adapter !== null) {
      tuned.set(`${tenant} ${id}`, adapter);
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
