import type { Context } from 'hono';
import type { StagedObject } from '../../shared/contract/backend.ts';
import { LIMITS } from '../../shared/contract/limits.ts';
import type { AppEnv } from '../env.ts';
import { filePrefix } from '../store/files.ts';
import { Stage } from './stage.ts';

/** The body of a call as an object of a tenant that belongs to no file yet; left alone, the sweeper deletes it. @param param name in errors */
export async function stageBody(c: Context<AppEnv>, tenant: string, param: string): Promise<StagedObject> {
  const body = c.req.raw.body;
  const stage = new Stage(
    { db: c.env.DB, blobs: c.env.BLOBS },
    { prefix: filePrefix(tenant), maxBytes: LIMITS.uploads.maxBytes, param },
  );
  try {
    if (body !== null) for await (const piece of body) await stage.write(piece);
    const { key, bytes, sha256 } = await stage.finish();
    return { key, bytes, sha256 };
  } catch (error) {
    await stage.discard();
    throw error;
  }
}
