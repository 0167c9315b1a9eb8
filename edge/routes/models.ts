import type { Context } from 'hono';
import { ApiError } from '../../shared/contract/errors.ts';
import type { Deleted } from '../../shared/contract/files.ts';
import { LIMITS } from '../../shared/contract/limits.ts';
import type { Model, ModelCard } from '../../shared/contract/models.ts';
import { type AppEnv, actorOf } from '../env.ts';
import { forgetTuned } from '../fleet/models.ts';
import { knownModels } from '../fleet/registry.ts';
import { deleteModel, getModel, listModels, type ModelRow } from '../store/models.ts';

export async function listAllModels(c: Context<AppEnv>): Promise<Response> {
  const cards = await knownModels(c.env);
  const tuned = (await listModels(c.env.DB, c.get('tenant'))).map((row) => showTuned(row, cards.get(row.base)));
  const data = [...[...cards.values()].map(showBase), ...tuned];
  return c.json({
    object: 'list',
    data,
    first_id: data[0]?.id ?? null,
    last_id: data.at(-1)?.id ?? null,
    has_more: false,
  });
}

/** `GET /v1/models/{id}`. */
export async function retrieveModel(c: Context<AppEnv>): Promise<Response> {
  const id = c.req.param('id') ?? '';
  const cards = await knownModels(c.env);
  const card = cards.get(id);
  if (card !== undefined) return c.json(showBase(card));
  const row = await getModel(c.env.DB, c.get('tenant'), id);
  if (row !== null) return c.json(showTuned(row, cards.get(row.base)));
  throw modelNotFound(id, [...cards.keys()]);
}

/**
 * `DELETE /v1/models/{id}`: the caller's own fine-tune, with its checkpoints and their weights. Answers that use it now come to their end.
 * @throws ApiError `invalid_state` while a job tunes it further, and for what is not the caller's to delete
 */
export async function removeModel(c: Context<AppEnv>): Promise<Response> {
  const id = c.req.param('id') ?? '';
  const row = await getModel(c.env.DB, c.get('tenant'), id);
  if (row === null) {
    const cards = await knownModels(c.env);
    if (!cards.has(id)) throw modelNotFound(id, [...cards.keys()]);
    throw refusal(id, 'is served by the installation; only fine-tuned models can be deleted');
  }
  if (row.listed !== 1) throw refusal(id, 'is a checkpoint of a job: delete the model, its checkpoints go with it');
  const { isDeleted, usedBy, alias } = await deleteModel(c.env.DB, actorOf(c), row);
  if (!isDeleted && usedBy === null && alias !== null)
    throw refusal(
      id,
      `is what the alias ${JSON.stringify(alias)} stands for; promote another model, roll back or delete the alias first`,
    );
  if (!isDeleted) throw refusal(id, `is what the job ${usedBy} tunes; cancel that or wait for its end`);
  forgetTuned(c.get('tenant'), id);
  // Rows are gone, so nobody can ask for these any more; what a crash leaves here is only space.
  c.executionCtx.waitUntil(removeBlobs(c.env.BLOBS, `jobs/${row.job_id}/checkpoints/`));
  const body: Deleted = { id, object: 'model', deleted: true };
  return c.json(body);
}

async function removeBlobs(blobs: R2Bucket, prefix: string): Promise<void> {
  for (;;) {
    const { objects, truncated } = await blobs.list({ prefix, limit: 1_000 });
    if (objects.length > 0) await blobs.delete(objects.map(({ key }) => key));
    if (!truncated) return;
  }
}

function refusal(id: string, why: string): ApiError {
  return new ApiError('invalid_state', `model: ${JSON.stringify(id.slice(0, 128))} ${why}.`, { param: 'model' });
}

function modelNotFound(id: string, served: readonly string[]): ApiError {
  return new ApiError(
    'model_not_found',
    `model: expected a served or tuned model (served: ${served.join(', ') || 'none right now'}), received ${JSON.stringify(id.slice(0, 128))}.`,
    { param: 'model' },
  );
}

function showBase(card: ModelCard): Model {
  return { id: card.id, object: 'model', created: card.created, owned_by: 'system', parent: null, ...abilities(card) };
}

function showTuned(row: ModelRow, base: ModelCard | undefined): Model {
  const created = Math.floor(row.created_at / 1000);
  return { id: row.id, object: 'model', created, owned_by: 'organization', parent: row.base, ...abilities(base) };
}

/** What engine and door do for every model. */
const OF_ALL = {
  input_modalities: ['text', 'image'],
  output_modalities: ['text'],
  image_formats: [...LIMITS.images.mimes],
  image_sources: ['data_url', 'https_url', 'file_id', 'sha256'],
  streaming: true,
  logprobs: true,
  max_top_logprobs: LIMITS.request.maxTopLogprobs,
  max_choices: LIMITS.request.maxChoices,
  seed: true,
  penalties: true,
  response_formats: ['text', 'json_object', 'json_schema'],
  structured_outputs: ['json', 'json_object', 'regex', 'choice'],
  tools: false,
  score: true,
  batch: true,
} satisfies Omit<NonNullable<Model['capabilities']>, 'chat' | 'fine_tune'>;

/** Null where no backend has ever said. */
function abilities(card: ModelCard | undefined): Pick<Model, 'limits' | 'capabilities'> {
  if (card === undefined) return { limits: null, capabilities: null };
  const { imageGrid } = card;
  return {
    limits: {
      context_tokens: card.contextTokens,
      max_images: card.maxImages,
      max_new_tokens: card.maxNewTokens,
      tokens_per_image: card.tokensPerImage,
      image_grid:
        imageGrid === undefined
          ? null
          : {
              width: imageGrid.width,
              height: imageGrid.height,
              patch: imageGrid.patch,
              row_end: imageGrid.rowEnd,
            },
      image_width: card.imageWidth,
      image_height: card.imageHeight,
    },
    capabilities: { ...OF_ALL, chat: card.capabilities.chat, fine_tune: card.capabilities.fineTune },
  };
}
