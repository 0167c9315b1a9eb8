import type { BlockFormat } from '../io/quantize.ts';

/** How values of a weight are stored. int8 and int4 are weight-only and block-wise; computation is f32 (see accuracy level). */
export const PRECISIONS = ['f32', 'f16', 'int8', 'int4'] as const;
export type Precision = (typeof PRECISIONS)[number];

/** Parts of a model that may differ in precision. `head` is the output head; token embeddings belong to the decoder. */
export const PARTS = ['vision', 'projector', 'decoder', 'head'] as const;
export type Part = (typeof PARTS)[number];

/** Block sizes that the kernels take. */
export const BLOCK_SIZES = [16, 32, 64, 128, 256] as const;

/**
 * How the weights of an imported model are stored. With int8 and int4 the linear layers are quantised; their other matrices
 * (embeddings, patch kernel) are f16, and norms and biases stay f32 always.
 */
export interface Storage {
  readonly precision: Readonly<Record<Part, Precision>>;
  /** Values that share one scale in int8 and int4. */
  readonly blockSize: number;
  /**
   * Linear layers of int8 parts have one scale a column and take activations rounded to int8 row by row (W8A8), instead of blocks
   * of `blockSize`: a little less exact, and from four rows up twice as fast. `smooth`: all but the last layer of a decoder's MLP,
   * which keeps its blocks. Made in memory only (`serving-weights.ts`).
   */
  readonly w8a8?: 'all' | 'smooth';
}

/** Part that a weight or module belongs to, by canonical name. */
export function partOf(name: string): Part {
  if (name.startsWith('vision_tower.')) return 'vision';
  if (name.startsWith('multi_modal_projector.')) return 'projector';
  return name.startsWith('language_model.lm_head') ? 'head' : 'decoder';
}

/**
 * Layers that read products or squares of activations: a few of a row's values are many times the others, and one scale for the whole
 * row leaves the others few steps (activation spikes of gated MLPs: Yang et al., 2024). On nano their blocks keep 0.8 % of answers.
 */
const SPIKY_INPUTS = ['down_proj', 'dense_4h_to_h'];

/** Whether a linear layer of a part is W8A8. */
export function isW8A8({ precision, w8a8 }: Storage, part: Part, module: string): boolean {
  if (w8a8 === undefined || precision[part] !== 'int8') return false;
  return w8a8 === 'all' || part !== 'decoder' || !SPIKY_INPUTS.some((name) => module.endsWith(name));
}

/** Block format of a part's linear layers that are not W8A8, undefined where they are not quantised in blocks. */
export function blockFormat(storage: Storage, part: Part): BlockFormat | undefined {
  const { precision, blockSize } = storage;
  const chosen = precision[part];
  return chosen === 'int8' || chosen === 'int4' ? { bits: chosen === 'int8' ? 8 : 4, blockSize } : undefined;
}

export interface PrecisionChoice extends Partial<Readonly<Record<Part, Precision>>> {
  /** Parts that are not named. Default f16. */
  readonly precision?: Precision;
  /** Default 32. */
  readonly blockSize?: number;
}

/**
 * Precision of each part from what a user chose. Where int4 is asked for as a whole, the decoder gets it and the others int8: the
 * encoder and the projector are a twentieth of the bytes and run over hundreds of rows at once, where the 8-bit kernel is the
 * faster one; and every token is chosen by the head. A part that is named gets what it is given.
 */
export function chooseStorage(choice: PrecisionChoice): Storage {
  const all = choice.precision ?? 'f16';
  const decoder = choice.decoder ?? all;
  const beside = (precision: Precision): Precision => (precision === 'int4' ? 'int8' : precision);
  return {
    precision: {
      vision: choice.vision ?? beside(all),
      projector: choice.projector ?? beside(all),
      decoder,
      head: choice.head ?? beside(decoder),
    },
    blockSize: choice.blockSize ?? 32,
  };
}

export const PACKED_SUFFIX = '.weight_packed';
export const INT8_SUFFIX = '.weight_int8';
export const SCALE_SUFFIX = '.weight_scale';
/** Between the names of layers whose weights are one. */
export const JOINED = '+';
