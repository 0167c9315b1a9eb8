import { existsSync, readFileSync, statSync } from 'node:fs';
import { join } from 'node:path';
import { LIMITS } from '../../shared/contract/limits.ts';
import type { ModelCard } from '../../shared/contract/models.ts';
import { sha256File, sha256Hex } from '../io/digest.ts';
import { familyOf } from '../models/family.ts';
import { contextTokens } from '../models/llama.ts';
import { readConfig } from '../models/load.ts';
import { type Manifest, readManifest, weightsDigest } from '../models/manifest.ts';
import { type PictureSlots, pictureSlots, readRecipe } from '../models/pictures.ts';
import { templateForCheckpoint } from '../text/checkpoint-template.ts';
import { bindTemplate, type ChatTemplate, reservedTokens } from '../text/templates.ts';
import { textBounds } from '../text/text-bounds.ts';
import { loadTokenizer, type Tokenizer } from '../text/tokenizer.ts';
import type { ImageRecipe } from '../vision/recipes.ts';
import { vocabularyOf } from './grammar/vocabulary.ts';

/** Everything about a model that the server's thread needs: words and pictures in and out, no weights. */
export interface ModelFront {
  readonly card: ModelCard;
  readonly tokenizer: Tokenizer;
  readonly template: ChatTemplate;
  readonly recipe: ImageRecipe;
  readonly imageTokenId: number;
  readonly slots: PictureSlots;
  /** Tokens that end an answer. */
  readonly stopIds: readonly number[];
  /** Names the checkpoint, configuration and all weights, whatever is laid over it. */
  readonly checkpointDigest: string;
  /** Names the weights that image features depend on, an adapter's included. */
  readonly visionDigest: string;
}

/** Longest answer where generation_config.json does not say. */
const DEFAULT_MAX_NEW_TOKENS = 512;

/**
 * Reads the small files of a checkpoint folder: config.json, tokenizer.json, preprocessor_config.json, generation_config.json.
 * @param id name under which the model is served
 * @param adapterDir PEFT adapter folder that is served with the checkpoint, or `null`
 * @throws Error naming the file and field at fault
 */
export async function loadFront(id: string, dir: string, adapterDir: string | null = null): Promise<ModelFront> {
  const config = readConfig(dir);
  const format = templateForCheckpoint(dir);
  const tokenizer = loadTokenizer(dir, { reserved: reservedTokens(format) });
  const template = bindTemplate(format, tokenizer);
  const recipe = readRecipe(dir);
  const slots = pictureSlots(config, recipe);
  const generation = readJson(join(dir, 'generation_config.json')) ?? {};
  const asked = generation.max_new_tokens;
  const context = contextTokens(config.text);
  const imported = readManifest(dir);
  const baseDigest = imported === null ? await digestWeights(dir) : weightsDigest(imported);
  const digest = adapterDir === null ? baseDigest : await digestWithAdapter(baseDigest, adapterDir);
  const stopIds = [
    ...new Set([
      ...config.text.eosTokens,
      ...[generation.eos_token_id].flat().filter((id) => typeof id === 'number'),
      ...template.stop.map((token) => tokenizer.requireId(token)),
    ]),
  ];
  const bounds = textBounds(template, tokenizer);
  vocabularyOf({ tokenizer, stopIds }); // now, rather than while the first constrained request holds up all others
  return {
    tokenizer,
    template,
    recipe,
    imageTokenId: config.imageToken,
    slots,
    stopIds,
    checkpointDigest: imported === null ? await digestCheckpoint(dir, baseDigest) : digestFiles(imported),
    visionDigest: digest,
    card: {
      id,
      family: familyOf(config).label(config),
      created: Math.floor(statSync(join(dir, 'config.json')).mtimeMs / 1000),
      contextTokens: context,
      tokensPerImage: slots.mostTokens,
      ...(slots.grid === undefined ? {} : { imageGrid: slots.grid }),
      imageWidth: slots.largest.width,
      imageHeight: slots.largest.height,
      maxImages: Math.min(LIMITS.images.maxPerRequest, Math.floor(context / (slots.leastTokens + 1))),
      maxNewTokens: Math.min(typeof asked === 'number' ? asked : DEFAULT_MAX_NEW_TOKENS, context),
      vocabTokens: tokenizer.vocabSize,
      ...(bounds === undefined ? {} : { textBounds: bounds }),
      systemFirst: template.jinja === undefined,
      // The weights of an imported model are part of its graphs, and mostly quantised; jobs start from a base's own weights.
      capabilities: {
        chat: true,
        fineTune: imported === null && adapterDir === null ? ['projector', 'lora', 'full'] : [],
      },
      digest: `sha256:${digest}`,
    },
  };
}

function readJson(path: string): Record<string, unknown> | null {
  if (!existsSync(path)) return null;
  try {
    return JSON.parse(readFileSync(path, 'utf8')) as Record<string, unknown>;
  } catch (cause) {
    throw new Error(`${path}: expected JSON`, { cause });
  }
}

/** Features are cached and models told apart by it: an adapter may change the projector. */
async function digestWithAdapter(base: string, dir: string): Promise<string> {
  const files = ['adapter_config.json', 'adapter_model.safetensors'].map((name) => join(dir, name));
  const missing = files.find((file) => !existsSync(file));
  if (missing !== undefined)
    throw new Error(
      `expected a PEFT adapter folder (adapter_config.json, adapter_model.safetensors), found no ${missing}`,
    );
  const digests = await Promise.all(files.map(sha256File));
  return sha256Hex([base, ...digests].join('\n'));
}

/** Equal weights under another configuration are another model. */
async function digestCheckpoint(dir: string, weights: string): Promise<string> {
  return sha256Hex(`${await sha256File(join(dir, 'config.json'))}\n${weights}`);
}

function digestFiles({ files }: Manifest): string {
  return sha256Hex(JSON.stringify(files.map(({ name, sha256 }) => [name, sha256]).sort()));
}

/** Hex digest over the weight file, or over the index of shards and every shard: tunes of one model have the same index. */
async function digestWeights(dir: string): Promise<string> {
  const [file] = ['model.safetensors', INDEX].filter((name) => existsSync(join(dir, name)));
  if (file === undefined) throw new Error(`expected model.safetensors or ${INDEX} in ${dir}, found neither`);
  const digest = await sha256File(join(dir, file));
  if (file !== INDEX) return digest;
  const { weight_map } = readJson(join(dir, INDEX)) ?? {};
  const shards = [...new Set(Object.values(weight_map as Readonly<Record<string, string>>))].sort();
  const digests: string[] = [];
  for (const shard of shards) digests.push(await sha256File(join(dir, shard)));
  return sha256Hex([digest, ...digests].join('\n'));
}

const INDEX = 'model.safetensors.index.json';
