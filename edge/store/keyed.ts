/**
 * What an `Idempotency-Key` stands for. What is kept of answers (`middleware/idempotency.ts`) knows nothing of a thing whose row was written while the
 * answer was lost on the way from the database: the request fails, the key is free again, and the next try would make a second one. So the id of a thing
 * that is created under a key follows from the key, and the next try finds it.
 */
import { LIMITS } from '../../shared/contract/limits.ts';
import { type IdPrefix, newId } from '../../shared/wire/ids.ts';
import { sha256Hex } from '../../shared/wire/signature.ts';

/** Keys stand for something for a day; whoever uses one again after that means another thing. */
const MAX_GENERATIONS = 100;

/**
 * @param key of the request; undefined: it has none, and the id is a new one
 * @param find the row with an id, of this tenant, whatever became of it
 * @returns the id for a thing under this key, and its row where an earlier try has made it
 */
export async function keyed<Row extends { created_at: number }>(
  prefix: IdPrefix,
  tenant: string,
  key: string | undefined,
  atMs: number,
  find: (id: string) => Promise<Row | null>,
): Promise<{ id: string; made: Row | null }> {
  if (key === undefined) return { id: newId(prefix), made: null };
  for (let generation = 0; generation < MAX_GENERATIONS; generation++) {
    const digest = await sha256Hex(JSON.stringify([prefix, tenant, key, generation]));
    const id = prefix + digest.slice(0, 32);
    const row = await find(id);
    if (row === null) return { id, made: null };
    if (row.created_at > atMs - LIMITS.idempotency.keepMs) return { id, made: row };
  }
  throw new Error(`Idempotency-Key: used for ${MAX_GENERATIONS} things; draw a new one`);
}
