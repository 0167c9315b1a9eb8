/** What an alias stands for, kept in the isolate so that the hot path touches no database. */
import { LIMITS } from '../../shared/contract/limits.ts';
import { nowMs } from '../clock.ts';
import { getAlias } from '../store/aliases.ts';

const A = LIMITS.aliases;
const MAX_CACHED = 10_000;

type Known = { model: string; readAtMs: number; refreshedAtMs: number };
/** Names that exist only: whoever makes up names pushes out none that works. */
const known = new Map<string, Known>();

/**
 * The model behind an alias: from the isolate while it is young, read again beside the request when it is older, before the request when it is too old;
 * so a promotion is everywhere after `LIMITS.aliases.staleAfterMs`.
 * @returns null where the tenant has no such alias
 */
export async function aliasTarget(db: D1Database, tenant: string, name: string): Promise<string | null> {
  if (name.length > A.maxNameChars) return null;
  const key = `${tenant} ${name}`;
  const atMs = nowMs();
  const entry = known.get(key);
  const ageMs = entry === undefined ? Number.POSITIVE_INFINITY : atMs - entry.readAtMs;
  if (entry !== undefined && ageMs >= 0 && ageMs <= A.staleAfterMs) {
    if (ageMs > A.refreshAfterMs && atMs - entry.refreshedAtMs > A.refreshAfterMs) {
      entry.refreshedAtMs = atMs;
      // Fails or is cut off with its request: then the next one that finds the entry too old reads.
      void read(db, tenant, name, key).catch(() => {});
    }
    return entry.model;
  }
  return await read(db, tenant, name, key);
}

async function read(db: D1Database, tenant: string, name: string, key: string): Promise<string | null> {
  // What is read is at least as new as this moment.
  const atMs = nowMs();
  const row = await getAlias(db, tenant, name);
  known.delete(key);
  if (row === null) return null;
  for (const oldest of known.keys()) {
    if (known.size < MAX_CACHED) break;
    known.delete(oldest);
  }
  known.set(key, { model: row.model, readAtMs: atMs, refreshedAtMs: atMs });
  return row.model;
}

/** It has been changed here; other isolates learn it when they look again. */
export function forgetAlias(tenant: string, name: string): void {
  known.delete(`${tenant} ${name}`);
}
