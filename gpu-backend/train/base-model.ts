import { existsSync, readdirSync } from 'node:fs';
import { join } from 'node:path';
import { openSafetensors } from '../io/safetensors.ts';
import { toFloat32 } from '../io/tensor.ts';
import { loadAdapter, mergeAdapter } from '../models/adapter.ts';
import type { VlmConfig } from '../models/config.ts';
import { loadCheckpoint, type WeightMap } from '../models/load.ts';
import { canonicalName } from '../models/names.ts';
import { type PictureSlots, pictureSlots, readRecipe } from '../models/pictures.ts';
import { f32 } from '../runtime/session.ts';
import { templateForCheckpoint } from '../text/checkpoint-template.ts';
import type { LayoutOptions } from '../text/layout.ts';
import { bindTemplate, reservedTokens } from '../text/templates.ts';
import { loadTokenizer } from '../text/tokenizer.ts';
import type { ImageRecipe } from '../vision/recipes.ts';

/** A model to tune: weights, and how words and pictures go in. */
export interface BaseModel {
  readonly config: VlmConfig;
  /** All weights the model reads, an earlier fine-tune already laid over them. */
  readonly weights: WeightMap;
  /** Names of weights that the earlier fine-tune changed; the new one must carry them along. */
  readonly carried: readonly string[];
  readonly layout: Omit<LayoutOptions, 'tokensPerImage'>;
  readonly recipe: ImageRecipe;
  readonly slots: PictureSlots;
}

/**
 * @param dir checkpoint folder
 * @param tunedDir folder of an earlier fine-tune to start from: a PEFT adapter, changed tensors, or both
 * @param isOnDisk weights that are read from the file each time they are looked at (see loadCheckpoint)
 * @throws Error naming the file and tensor that do not fit
 */
export function loadBaseModel(dir: string, tunedDir?: string, isOnDisk?: (name: string) => boolean): BaseModel {
  const { config, weights: base } = loadCheckpoint(dir, isOnDisk);
  const weights = tunedDir === undefined ? base : overlay(base, config, tunedDir);
  const template = templateForCheckpoint(dir);
  const tokenizer = loadTokenizer(dir, { reserved: reservedTokens(template) });
  const recipe = readRecipe(dir);
  return {
    config,
    weights,
    carried: [...weights].flatMap(([name, tensor]) => (base.get(name) === tensor ? [] : [name])),
    layout: {
      tokenizer,
      template: bindTemplate(template, tokenizer),
      imageTokenId: config.imageToken,
    },
    recipe,
    slots: pictureSlots(config, recipe),
  };
}

function overlay(base: WeightMap, config: VlmConfig, dir: string): WeightMap {
  const tuned: WeightMap = new Map(base);
  const files = readdirSync(dir).filter((n) => n.endsWith('.safetensors') && n !== 'adapter_model.safetensors');
  for (const file of files) {
    const store = openSafetensors(join(dir, file));
    try {
      for (const [stored, tensor] of store.tensors) {
        const name = canonicalName(stored);
        const known = base.get(name);
        if (known === undefined) continue;
        if (known.shape.join() !== tensor.shape.join())
          throw new Error(`${file}: ${stored} is [${tensor.shape}], the base model has [${known.shape}]`);
        tuned.set(name, f32(toFloat32(tensor.read()), tensor.shape));
      }
    } finally {
      store.close();
    }
  }
  return existsSync(join(dir, 'adapter_config.json')) ? mergeAdapter(tuned, loadAdapter(dir, config)) : tuned;
}
