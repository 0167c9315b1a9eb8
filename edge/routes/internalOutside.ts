/** Checkpoint files that a backend keeps in a store of its own: announced before their bytes are there, deleted when no checkpoint needs them. */
import type { Context } from 'hono';
import { AnnounceFileRequest, OutsideDueRequest, OutsideGoneRequest } from '../../shared/contract/backend.ts';
import { ApiError } from '../../shared/contract/errors.ts';
import { nowMs } from '../clock.ts';
import type { AppEnv } from '../env.ts';
import { readSignedJson } from '../middleware/signed.ts';
import { recordCheckpointFile } from '../store/checkpoints.ts';
import { dueOutside, strikeOutside } from '../store/outside.ts';

/** `POST /internal/jobs/{id}/checkpoints/{step}/files`: a file will lie at `location`. Under the lease; whatever becomes of it, it is known by then. */
export async function announceCheckpointFile(c: Context<AppEnv>): Promise<Response> {
  const { token, step, name, bytes, sha256, location } = await readSignedJson(c, AnnounceFileRequest);
  const jobId = c.req.param('id') ?? '';
  const { meta } = await recordCheckpointFile(c.env.DB, { jobId, step, token, name, bytes, sha256, location }).run();
  if (meta.changes === 0)
    throw new ApiError('stale_lease', `Job ${jobId}: the lease is not the newest one. Stop working on it.`);
  return c.json({ name, location });
}

/** `POST /internal/outside/due`: what may be deleted in a store. Asked twice, it says the same until it has been told. */
export async function outsideDue(c: Context<AppEnv>): Promise<Response> {
  const { store } = await readSignedJson(c, OutsideDueRequest);
  return c.json({ locations: await dueOutside(c.env.DB, store, nowMs()) });
}

/** `POST /internal/outside/gone`: these are deleted. */
export async function outsideGone(c: Context<AppEnv>): Promise<Response> {
  const { locations } = await readSignedJson(c, OutsideGoneRequest);
  await strikeOutside(c.env.DB, locations);
  return c.json({});
}
