import type { AlphaRule } from './decode.ts';
import type { ResampleFilter } from './resample.ts';

/** How the size of the picture is found before cropping. */
export type ResizeRule =
  | { readonly kind: 'none' }
  /** To this size, whatever the shape. */
  | { readonly kind: 'exact'; readonly width: number; readonly height: number }
  /** Shortest side to `shortest`, shape kept. */
  | { readonly kind: 'shortest'; readonly shortest: number }
  /** Longest side at most `longest`, shape kept; then each side at least `shortest`, which may change it (Idefics2). */
  | { readonly kind: 'bounds'; readonly longest: number; readonly shortest: number }
  /** Into this size, shape kept; smaller pictures stay as they are (Fuyu). */
  | { readonly kind: 'fit'; readonly width: number; readonly height: number };

/** What a model wants done to a picture, as data; the fields are those of Hugging Face's preprocessor_config.json. */
export interface ImageRecipe {
  readonly resize: ResizeRule;
  readonly filter: ResampleFilter;
  readonly centerCrop: { readonly width: number; readonly height: number } | null;
  /** Factor from 8-bit values, usually 1/255. */
  readonly rescale: number;
  readonly mean: readonly [number, number, number];
  readonly std: readonly [number, number, number];
  readonly alpha: AlphaRule;
  /** True when pictures of one batch keep their own sizes and are padded to the largest with a pixel mask. */
  readonly padsBatch: boolean;
  /** Filled up at the right and bottom until both sides are multiples, with an 8-bit grey value (Fuyu's patches). Default: not. */
  readonly padTo?: { readonly multiple: number; readonly value: number };
}

const HALF = [0.5, 0.5, 0.5] as const;
const CLIP_MEAN = [0.48145466, 0.4578275, 0.40821073] as const;
const CLIP_STD = [0.26862954, 0.26130258, 0.27577711] as const;

/** SigLIP: to a square by bicubic, then to −1…1. */
export function siglipRecipe(side: number): ImageRecipe {
  return {
    resize: { kind: 'exact', width: side, height: side },
    filter: 'bicubic',
    centerCrop: null,
    rescale: 1 / 255,
    mean: HALF,
    std: HALF,
    alpha: 'drop',
    padsBatch: false,
  };
}

/** CLIP: shortest side by bicubic, centre crop, CLIP's mean and deviation. */
export function clipRecipe(side: number): ImageRecipe {
  return {
    ...siglipRecipe(side),
    resize: { kind: 'shortest', shortest: side },
    centerCrop: { width: side, height: side },
    mean: CLIP_MEAN,
    std: CLIP_STD,
  };
}

/** Idefics2: native shape within bounds, bilinear, padded in the batch. */
export function idefics2Recipe(longest = 980, shortest = 378): ImageRecipe {
  return { ...siglipRecipe(1), resize: { kind: 'bounds', longest, shortest }, filter: 'bilinear', padsBatch: true };
}

/** The models trained here: a fixed square; pictures that already fit are not resampled; transparency is laid on white. */
export function nanoRecipe(side: number): ImageRecipe {
  return { ...siglipRecipe(side), filter: 'bilinear', alpha: 'white' };
}

/** Side of Fuyu's patches, pixels. */
const FUYU_PATCH = 30;

/**
 * Fuyu: made to fit, bilinear, filled up to whole patches. The value 1 is what the reference fills with before it divides by
 * 255, so padding is almost black. Mantis-Fuyu was tuned with 1290x720 at most.
 */
export function fuyuRecipe(width = 1920, height = 1080): ImageRecipe {
  return {
    ...siglipRecipe(1),
    resize: { kind: 'fit', width, height },
    filter: 'bilinear',
    padTo: { multiple: FUYU_PATCH, value: 1 },
  };
}

/** PIL's numbers for its filters, as they stand in `resample`. */
const FILTER_OF_NUMBER: readonly (ResampleFilter | null)[] = [null, 'lanczos', 'bilinear', 'bicubic', 'box', 'hamming'];

/** What each processor assumes for fields its file leaves out. */
const DEFAULTS: readonly (readonly [RegExp, () => ImageRecipe])[] = [
  [/^Siglip/, () => siglipRecipe(224)],
  [/^(CLIP|Llava|MLlava)/, () => clipRecipe(224)],
  [/^Idefics2/, () => idefics2Recipe()],
  [/^Fuyu/, () => fuyuRecipe()],
];

export class RecipeError extends Error {
  override readonly name = 'RecipeError';
}

/**
 * Reads preprocessor_config.json of a SigLIP-, CLIP-, Idefics2- or Fuyu-type checkpoint; fields left out take the processor's
 * defaults. `alpha_rule` is our own field ("white" or "drop").
 *
 * @throws RecipeError that names the field
 */
export function parseRecipe(config: unknown): ImageRecipe {
  if (!isObject(config)) throw new RecipeError('expected preprocessor_config.json to hold an object');
  const type = config.image_processor_type ?? config.feature_extractor_type ?? 'CLIPImageProcessor';
  const base = DEFAULTS.find(([pattern]) => typeof type === 'string' && pattern.test(type))?.[1]();
  if (!base)
    throw new RecipeError(
      `image_processor_type: expected a Siglip, CLIP, Llava, Idefics2 or Fuyu processor, got ${JSON.stringify(type)}`,
    );
  const doNormalize = config.do_normalize !== false;
  const doesCrop = config.do_center_crop ?? base.centerCrop !== null;
  const resize: ResizeRule =
    config.do_resize === false
      ? { kind: 'none' }
      : config.size === undefined
        ? base.resize
        : parseSize(config.size, base.resize);
  const padTo = base.padTo === undefined ? undefined : parsePadding(config, base.padTo, resize);
  return {
    resize,
    filter: config.resample === undefined ? base.filter : parseFilter(config.resample),
    centerCrop: doesCrop ? (config.crop_size === undefined ? base.centerCrop : parseCrop(config.crop_size)) : null,
    rescale: config.do_rescale === false ? 1 : parseNumber(config.rescale_factor ?? base.rescale, 'rescale_factor'),
    mean: doNormalize ? parseTriple(config.image_mean ?? base.mean, 'image_mean') : [0, 0, 0],
    std: doNormalize ? parseTriple(config.image_std ?? base.std, 'image_std') : [1, 1, 1],
    alpha: config.alpha_rule === 'white' || config.alpha_rule === 'drop' ? config.alpha_rule : base.alpha,
    padsBatch: base.padsBatch,
    ...(padTo === undefined ? {} : { padTo }),
  };
}

function parsePadding(
  config: Record<string, unknown>,
  base: NonNullable<ImageRecipe['padTo']>,
  resize: ResizeRule,
): NonNullable<ImageRecipe['padTo']> {
  if (config.do_pad === false) throw new RecipeError('do_pad: expected true, pictures are cut into whole patches');
  if ((config.padding_mode ?? 'constant') !== 'constant')
    throw new RecipeError(`padding_mode: expected "constant", got ${JSON.stringify(config.padding_mode)}`);
  const patch = config.patch_size ?? { height: base.multiple, width: base.multiple };
  const multiple = parseSide(isObject(patch) ? patch.height : patch, 'patch_size.height');
  if (isObject(patch) && patch.width !== multiple)
    throw new RecipeError(`patch_size: expected a square, got ${JSON.stringify(patch)}`);
  if (resize.kind === 'fit' && (resize.width % multiple !== 0 || resize.height % multiple !== 0))
    throw new RecipeError(
      `size: expected multiples of the patch size ${multiple}, got ${resize.width}x${resize.height}`,
    );
  const value = parseNumber(config.padding_value ?? base.value, 'padding_value');
  if (!(Number.isInteger(value) && value >= 0 && value <= 255))
    throw new RecipeError(`padding_value: expected an 8-bit value, 0 to 255, got ${value}`);
  return { multiple, value };
}

/** A recipe in the form of preprocessor_config.json; `parseRecipe` gives it back. */
export function formatRecipe(recipe: ImageRecipe): Record<string, unknown> {
  const { resize, centerCrop } = recipe;
  const type = recipe.padTo
    ? 'FuyuImageProcessor'
    : resize.kind === 'bounds'
      ? 'Idefics2ImageProcessor'
      : resize.kind === 'shortest'
        ? 'CLIPImageProcessor'
        : 'SiglipImageProcessor';
  const sizes = {
    none: undefined,
    exact: resize.kind === 'exact' ? { height: resize.height, width: resize.width } : undefined,
    shortest: resize.kind === 'shortest' ? { shortest_edge: resize.shortest } : undefined,
    fit: resize.kind === 'fit' ? { height: resize.height, width: resize.width } : undefined,
    bounds: resize.kind === 'bounds' ? { longest_edge: resize.longest, shortest_edge: resize.shortest } : undefined,
  };
  return {
    image_processor_type: type,
    do_resize: resize.kind !== 'none',
    ...(sizes[resize.kind] ? { size: sizes[resize.kind] } : {}),
    resample: FILTER_OF_NUMBER.indexOf(recipe.filter),
    do_center_crop: centerCrop !== null,
    ...(centerCrop ? { crop_size: { height: centerCrop.height, width: centerCrop.width } } : {}),
    do_rescale: true,
    rescale_factor: recipe.rescale,
    do_normalize: true,
    image_mean: [...recipe.mean],
    image_std: [...recipe.std],
    do_image_splitting: false,
    ...(recipe.padTo
      ? {
          patch_size: { height: recipe.padTo.multiple, width: recipe.padTo.multiple },
          padding_value: recipe.padTo.value,
        }
      : {}),
    alpha_rule: recipe.alpha,
  };
}

function isObject(value: unknown): value is Record<string, unknown> {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}

function parseNumber(value: unknown, field: string): number {
  if (typeof value !== 'number' || !Number.isFinite(value))
    throw new RecipeError(`${field}: expected a number, got ${JSON.stringify(value)}`);
  return value;
}

function parseSide(value: unknown, field: string): number {
  const side = parseNumber(value, field);
  if (!Number.isInteger(side) || side < 1 || side > 16_384)
    throw new RecipeError(`${field}: expected 1 to 16384 pixels, got ${side}`);
  return side;
}

function parseTriple(value: unknown, field: string): readonly [number, number, number] {
  if (typeof value === 'number') return [value, value, value];
  if (!Array.isArray(value) || value.length !== 3)
    throw new RecipeError(`${field}: expected three numbers, got ${JSON.stringify(value)}`);
  const [red, green, blue] = value.map((item) => parseNumber(item, field)) as [number, number, number];
  return [red, green, blue];
}

function parseFilter(value: unknown): ResampleFilter {
  const filter = typeof value === 'number' ? FILTER_OF_NUMBER[value] : undefined;
  if (!filter)
    throw new RecipeError(
      `resample: expected 1 (lanczos), 2 (bilinear), 3 (bicubic), 4 (box) or 5 (hamming), got ${JSON.stringify(value)}`,
    );
  return filter;
}

/** `size` may be a number (older files) or an object; which rule it means for a number depends on the processor. */
function parseSize(size: unknown, base: ResizeRule): ResizeRule {
  if (typeof size === 'number') {
    const side = parseSide(size, 'size');
    return base.kind === 'shortest'
      ? { kind: 'shortest', shortest: side }
      : { kind: base.kind === 'fit' ? 'fit' : 'exact', width: side, height: side };
  }
  if (!isObject(size)) throw new RecipeError(`size: expected a number or an object, got ${JSON.stringify(size)}`);
  if (size.height !== undefined || size.width !== undefined) {
    return {
      kind: base.kind === 'fit' ? 'fit' : 'exact',
      width: parseSide(size.width, 'size.width'),
      height: parseSide(size.height, 'size.height'),
    };
  }
  const shortest = parseSide(size.shortest_edge, 'size.shortest_edge');
  if (size.longest_edge === undefined || size.longest_edge === null) return { kind: 'shortest', shortest };
  return { kind: 'bounds', longest: parseSide(size.longest_edge, 'size.longest_edge'), shortest };
}

function parseCrop(crop: unknown): { width: number; height: number } {
  if (typeof crop === 'number') return { width: parseSide(crop, 'crop_size'), height: parseSide(crop, 'crop_size') };
  if (!isObject(crop)) throw new RecipeError(`crop_size: expected a number or an object, got ${JSON.stringify(crop)}`);
  return { width: parseSide(crop.width, 'crop_size.width'), height: parseSide(crop.height, 'crop_size.height') };
}
