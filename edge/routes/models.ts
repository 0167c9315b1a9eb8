import type { Context } from 'hono';
import { ApiError } from '../../shared/contract/errors.ts';
import type { Model, ModelCard } from '../../shared/contract/models.ts';
import type { AppEnv } from '../env.ts';
import { servedModels } from '../fleet/pick.ts';
import { liveBackends } from '../fleet/registry.ts';
import { getModel, listModels, type ModelRow } from '../store/models.ts';

export async function listAllModels(c: Context<AppEnv>): Promise<Response> {
  const cards = servedModels(await liveBackends(c.env));
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

export async function retrieveModel(c: Context<AppEnv>): Promise<Response> {
  const id = c.req.param('id') ?? '';
  const cards = servedModels(await liveBackends(c.env));
  const card = cards.get(id);
  if (card !== undefined) return c.json(showBase(card));
  const row = await getModel(c.env.DB, c.get('tenant'), id);
  if (row !== null) return c.json(showTuned(row, cards.get(row.base)));
  const names = [...cards.keys()].join(', ') || 'none right now';
  throw new ApiError(
    'model_not_found',
    `model: expected a served or tuned model (served: ${names}), received ${JSON.stringify(id.slice(0, 128))}.`,
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

/** Null while no backend is there to say. */
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
    capabilities: { chat: card.capabilities.chat, fine_tune: card.capabilities.fineTune },
  };
}
