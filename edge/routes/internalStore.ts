/** What backends read: training files and tuned weights. */
import type { Context } from 'hono';
import type { ModelManifest } from '../../shared/contract/backend.ts';
import { ApiError } from '../../shared/contract/errors.ts';
import type { AppEnv } from '../env.ts';
import { findFile } from '../store/files.ts';
import { findModel, findModelRow } from '../store/models.ts';
import { contentOf, fileNotFound } from './files.ts';
import { checkpointFile } from './internalCheckpoints.ts';

/** `GET /internal/files/{id}/content`. */
export async function internalFileContent(c: Context<AppEnv>): Promise<Response> {
  const id = c.req.param('id') ?? '';
  const file = await findFile(c.env.DB, id);
  if (file === null) throw fileNotFound(id);
  return contentOf(c.env, file);
}

/** `GET /internal/models/{id}`. */
export async function modelManifest(c: Context<AppEnv>): Promise<Response> {
  const id = c.req.param('id') ?? '';
  const model = await findModel(c.env.DB, null, id);
  if (model === null) throw modelNotFound(id);
  const files = model.files.map((file) => ({
    ...file,
    url: `/internal/models/${encodeURIComponent(id)}/files/${encodeURIComponent(file.name)}`,
  }));
  const manifest: ModelManifest = { id, base: model.base, kind: model.kind, files };
  return c.json(manifest);
}

/** `GET /internal/models/{id}/files/{name}`. */
export async function modelFile(c: Context<AppEnv>): Promise<Response> {
  const id = c.req.param('id') ?? '';
  const model = await findModelRow(c.env.DB, id);
  if (model === null) throw modelNotFound(id);
  return checkpointFile(c.env, model.job_id, model.step, c.req.param('name') ?? '');
}

function modelNotFound(id: string): ApiError {
  return new ApiError('model_not_found', `No tuned model ${JSON.stringify(id.slice(0, 128))}.`);
}
