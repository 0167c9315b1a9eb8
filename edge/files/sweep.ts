/** What time alone changes about files: some delete themselves, uploads are not open for ever, and what broke off is cleared away. */
import { batchRunner, type Env } from '../env.ts';
import { sweepRuns } from '../evals/remove.ts';
import { runningBatches } from '../store/batches.ts';
import { deleteFile, expiredFiles } from '../store/files.ts';
import { sweepLoose } from '../store/loose.ts';
import { sweepPins } from '../store/pins.ts';
import { endUpload, expiredUploads } from '../store/uploads.ts';

const PAGE = 100;

/** @returns whether there is more to do at once */
export async function sweepFiles(env: Env, nowMs: number): Promise<boolean> {
  const store = { db: env.DB, blobs: env.BLOBS };
  const actorFor = (tenant: string) => ({ tenant, keyId: 'system', requestId: null });
  const files = await expiredFiles(env.DB, nowMs, PAGE);
  for (const file of files) await deleteFile(store, actorFor(file.tenant), file);
  const uploads = await expiredUploads(env.DB, nowMs, PAGE);
  for (const { id, tenant } of uploads) await endUpload(env.DB, actorFor(tenant), id, 'expired', nowMs);
  const moreRuns = await sweepRuns(env, nowMs);
  const morePins = await sweepPins(env.DB, nowMs);
  const more = await sweepLoose(store, nowMs);
  return more || morePins || moreRuns || files.length === PAGE || uploads.length === PAGE;
}

/** Batches go on by their own alarms; whoever has lost theirs is woken here. */
export async function wakeBatches(env: Env): Promise<void> {
  for (const id of await runningBatches(env.DB)) await batchRunner(env, id).wake(id);
}
