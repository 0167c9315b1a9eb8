import { existsSync, readFileSync, statSync } from 'node:fs';
import { join } from 'node:path';
import { LIMITS } from '../../shared/contract/limits.ts';
import type { ModelCard } from '../../shared/contract/models.ts';
import { sha256File } from '../io/digest.ts';
import { readConfig } from '../models/load.ts';
import { hasPastWindow } from '../models/vlm.ts';
import { bindTemplate, type ChatTemplate, templateByName, templateForLanguageModel } from '../text/templates.ts';
import { loadTokenizer, type Tokenizer } from '../text/tokenizer.ts';
import { type ImageRecipe, parseRecipe } from '../vision/recipes.ts';

/** Everything about a model that the server's thread needs: words and pictures in and out, no weights. */
export interface ModelFront {
  readonly card: ModelCard;
  readonly tokenizer: Tokenizer;
  readonly template: ChatTemplate;
  readonly recipe: ImageRecipe;
  readonly imageTokenId: number;
  readonly tokensPerImage: number;
  /** Tokens that end an answer. */
  readonly stopIds: readonly number[];
  /** Names the weights that image features depend on. */
  readonly visionDigest: string;
}

/** Longest answer where generation_config.json does not say. */
const DEFAULT_MAX_NEW_TOKENS = 512;

/**
 * Reads the small files of a checkpoint folder: config.json, tokenizer.json, preprocessor_config.json, generation_config.json.
 * @param id name under which the model is served
 * @throws Error naming the file and field at fault
 */
export async function loadFront(id: string, dir: string): Promise<ModelFront> {
  const config = readConfig(dir);
  if (config.family !== 'llava' || hasPastWindow(config))
    throw new Error(
      `config.json: serving supports LLaVA-type models without a sliding window; this one is ${config.family}` +
        `${config.text.slidingWindow === undefined ? '' : ` with a window of ${config.text.slidingWindow}`}`,
    );
  const tokenizer = loadTokenizer(dir, { reserved: ['<image>'] });
  const template = bindTemplate(readTemplate(dir), tokenizer);
  const generation = readJson(join(dir, 'generation_config.json')) ?? {};
  const asked = generation.max_new_tokens;
  const contextTokens = config.text.maxPositions;
  const { tokensPerImage } = config;
  const digest = await digestWeights(dir);
  return {
    tokenizer,
    template,
    recipe: parseRecipe(readJson(join(dir, 'preprocessor_config.json')) ?? {}),
    imageTokenId: config.imageToken,
    tokensPerImage,
    stopIds: [
      ...new Set([
        ...config.text.eosTokens,
        ...[generation.eos_token_id].flat().filter((id) => typeof id === 'number'),
        ...template.stop.map((token) => tokenizer.requireId(token)),
      ]),
    ],
    visionDigest: digest,
    card: {
      id,
      family: `mantis-${config.vision.kind}`,
      created: Math.floor(statSync(join(dir, 'config.json')).mtimeMs / 1000),
      contextTokens,
      tokensPerImage,
      imageWidth: config.vision.imageSize,
      imageHeight: config.vision.imageSize,
      maxImages: Math.min(LIMITS.images.maxPerRequest, Math.floor(contextTokens / (tokensPerImage + 1))),
      maxNewTokens: Math.min(typeof asked === 'number' ? asked : DEFAULT_MAX_NEW_TOKENS, contextTokens),
      capabilities: { chat: true, fineTune: ['projector', 'lora', 'full'] },
      digest: `sha256:${digest}`,
    },
  };
}

/** tokenizer_config.json may name the template; else the language model's name decides, as in the original code. */
function readTemplate(dir: string): ChatTemplate {
  const named = readJson(join(dir, 'tokenizer_config.json'))?.mantis_template;
  if (typeof named === 'string') return templateByName(named);
  const text = readJson(join(dir, 'config.json'))?.text_config as { _name_or_path?: unknown } | undefined;
  return templateForLanguageModel(typeof text?._name_or_path === 'string' ? text._name_or_path : '');
}

function readJson(path: string): Record<string, unknown> | null {
  if (!existsSync(path)) return null;
  try {
    return JSON.parse(readFileSync(path, 'utf8')) as Record<string, unknown>;
  } catch (cause) {
    throw new Error(`${path}: expected JSON`, { cause });
  }
}

/** Hex digest over the weight file, or over the index of shards. */
async function digestWeights(dir: string): Promise<string> {
  const [file] = ['model.safetensors', 'model.safetensors.index.json'].filter((name) => existsSync(join(dir, name)));
  if (file === undefined)
    throw new Error(`expected model.safetensors or model.safetensors.index.json in ${dir}, found neither`);
  return await sha256File(join(dir, file));
}
