import { existsSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { LIMITS } from '../../shared/contract/limits.ts';
import { type ImageGrid, imageTokens } from '../../shared/contract/models.ts';
import { modelSize } from '../vision/preprocess.ts';
import { type ImageRecipe, parseRecipe } from '../vision/recipes.ts';
import type { VlmConfig } from './config.ts';
import { familyOf, type PictureSize } from './family.ts';

function readJson(path: string): unknown {
  try {
    return JSON.parse(readFileSync(path, 'utf8'));
  } catch (cause) {
    throw new Error(`${path}: expected JSON`, { cause });
  }
}

/**
 * How a checkpoint folder wants its pictures: preprocessor_config.json, or `image_processor` in the processor_config.json that
 * transformers 5 writes in its place.
 * @throws Error where neither is there (nothing else says how the pictures that the model learned from were prepared), or where
 * they say what is not supported
 */
export function readRecipe(dir: string): ImageRecipe {
  const path = join(dir, 'preprocessor_config.json');
  if (existsSync(path)) return parseRecipe(readJson(path));
  const joint = join(dir, 'processor_config.json');
  const own = existsSync(joint)
    ? (readJson(joint) as { image_processor?: unknown } | null)?.image_processor
    : undefined;
  if (own === undefined) throw new Error(`expected ${path}: it says how pictures are prepared for the model`);
  return parseRecipe(own);
}

/** How many decoder positions pictures take in a model, and of which ids their slots are. */
export interface PictureSlots {
  /** Ids of the slot of a picture of this size, pixels, as the recipe left it; as many as it has feature rows. */
  readonly idsOf: (size: PictureSize) => readonly number[];
  /** The slot where it is the same for all pictures; `null`: a picture's size must be known before its prompt is laid out. */
  readonly fixed: readonly number[] | null;
  /** The rule by which `idsOf` counts, over the picture as it is sent; absent where `fixed` is not `null`. */
  readonly grid?: ImageGrid;
  readonly leastTokens: number;
  readonly mostTokens: number;
  /** Bounds of what the model sees, pixels. */
  readonly largest: PictureSize;
}

/** Upright, wide, high, tiny and huge: enough to tell a rule from another. */
const SAMPLES: readonly PictureSize[] = [
  { width: 1000, height: 1000 },
  { width: 3000, height: 411 },
  { width: 97, height: 1203 },
  { width: 33, height: 45 },
  { width: 2, height: 1 },
];

/** @throws Error where the recipe gives pictures that the model cannot take, or slots that no rule describes */
export function pictureSlots(config: VlmConfig, recipe: ImageRecipe): PictureSlots {
  const family = familyOf(config);
  const seen = SAMPLES.map(({ width, height }) => modelSize(width, height, recipe));
  // Refuses here, with the numbers, what would fail at the first request.
  for (const { width, height } of seen.slice(3, 4))
    family.pictureFeeds(config, [{ width, height, pixels_CHW: new Float32Array(3 * width * height) }]);
  const slots = seen.map((size) => family.slotIds(config, size));
  const idsOf = (size: PictureSize): readonly number[] => family.slotIds(config, size);
  const largest = largestOf(recipe);
  const [first = []] = slots;
  if (slots.every((slot) => slot.length === first.length))
    return { idsOf, fixed: first, leastTokens: first.length, mostTokens: first.length, largest };

  const patch = recipe.padTo?.multiple;
  const { kind } = recipe.resize;
  if (patch === undefined || recipe.centerCrop !== null || (kind !== 'fit' && kind !== 'none'))
    throw new Error(
      `preprocessor_config.json: this model's slots depend on the picture, which is supported for pictures that are made to fit and padded to whole patches; the recipe resizes by ${kind}`,
    );
  const rowEnd = idsOf({ width: patch, height: patch }).length - 1;
  const grid = { ...largest, patch, rowEnd };
  const count = (size: PictureSize): number => imageTokens({ tokensPerImage: 0, imageGrid: grid }, size);
  for (const [i, size] of SAMPLES.entries())
    if (count(size) !== slots[i]?.length)
      throw new Error(
        `internal: a picture of ${size.width}x${size.height} takes ${slots[i]?.length} tokens, the rule says ${count(size)}`,
      );
  return { idsOf, fixed: null, grid, leastTokens: 1 + rowEnd, mostTokens: count(largest), largest };
}

function largestOf(recipe: ImageRecipe): PictureSize {
  const { resize } = recipe;
  const { maxSide } = LIMITS.images;
  switch (resize.kind) {
    case 'fit':
      return { width: resize.width, height: resize.height };
    case 'bounds': {
      const side = Math.max(resize.longest, resize.shortest);
      return { width: side, height: side };
    }
    default:
      if (recipe.centerCrop !== null) return recipe.centerCrop;
      return resize.kind === 'exact'
        ? { width: resize.width, height: resize.height }
        : { width: maxSide, height: maxSide };
  }
}
