import type { Value } from '../graph/graph.ts';
import type { Tensor } from '../runtime/session.ts';
import type { VlmConfig } from './config.ts';
import { fuyu } from './fuyu.ts';
import { idefics2 } from './idefics2.ts';
import type { DecoderLayer } from './llama.ts';
import { llava } from './llava.ts';
import type { Weights } from './weights.ts';

/** A picture as its recipe left it: channel first (3, height, width), normalised. */
export interface Picture {
  readonly pixels_CHW: Float32Array;
  readonly width: number;
  readonly height: number;
}

/** Size of a picture after its recipe, pixels. */
export type PictureSize = Pick<Picture, 'width' | 'height'>;

/**
 * What one family of models is: how pictures become feature rows, and what the decoder is made of. Everything else (prefill,
 * decode, loss, training, loading, serving) is written once over this, and no code outside this folder knows a family's name.
 *
 * Canonical weight names are the same for all: `language_model.*` the decoder, `multi_modal_projector.*` what lies between
 * pictures and decoder, `vision_tower.vision_model.*` the encoder. `names` maps them to what the family's files say.
 */
export interface Family<C extends VlmConfig = VlmConfig> {
  /** What models of this config are called where a person reads it, e.g. on a model card. */
  label(config: C): string;
  /** Prefixes [canonical, stored] of the family's checkpoints, tried in order. */
  readonly names: readonly (readonly [string, string])[];
  /** The same for the names PEFT gives modules, where they differ from the stored ones. */
  readonly moduleNames?: readonly (readonly [string, string])[];
  /** Weights that checkpoints hold but nothing reads, by canonical name. */
  isUnused(canonical: string, config: C): boolean;
  /** Such weights that a published checkpoint of this config holds, name → shape, by canonical name. */
  unusedWeights(config: C): ReadonlyMap<string, readonly number[]>;
  /** Text tokens around a picture with the published template and tokenizer, whatever its number. */
  readonly wrapperTokens: number;
  /** Linear layers of a decoder block, by the last part of their names: what an adapter may target. */
  readonly decoderLinears: readonly string[];
  /** Kinds of linear layer in the projector that an adapter may target as well. */
  readonly projectorLinears: readonly string[];

  /** Token ids of the slot of a picture of this size; as many as it has feature rows. */
  slotIds(config: C, size: PictureSize): readonly number[];
  /** @throws Error when a picture has a size that the model cannot take, with both sizes */
  pictureFeeds(config: C, pictures: readonly Picture[]): Record<string, Tensor>;

  /**
   * Declares the picture inputs and gives feature rows [F, D] of all pictures in order.
   * @param from `pixels`, or `towerFeatures` for what `towerFeatures` gives, to train over a frozen encoder
   */
  imageFeatures(w: Weights, config: C, from: 'pixels' | 'towerFeatures', checkpoint: boolean): Value;
  /** Whether there is an encoder that can be frozen, with features of its own to keep: `towerFeatures`. */
  readonly hasTower: boolean;
  /** Declares the picture inputs and gives what the encoder alone gives. @throws where there is no encoder */
  towerFeatures(w: Weights, config: C): Value;
  /**
   * Picture inputs of `imageFeatures` from `towerFeatures`, for pictures whose features were computed one by one.
   * @param features of each picture, as `towerFeatures` gives them for it alone @throws where there is no encoder
   */
  towerFeeds(config: C, features: readonly Float32Array[]): Record<string, Tensor>;
  readonly decoderLayer: DecoderLayer<C['text']>;
  /** h [R, hidden] → [R, hidden], before the output head. */
  finalNorm(w: Weights, config: C, h: Value): Value;
}

const FAMILIES: { readonly [K in VlmConfig['family']]: Family<Extract<VlmConfig, { family: K }>> } = {
  llava,
  idefics2,
  fuyu,
};

export function familyOf<C extends VlmConfig>(config: C): Family<C> {
  // The table's type says that each entry takes the configs that carry its name; TypeScript cannot follow the lookup.
  return FAMILIES[config.family] as unknown as Family<C>;
}

/** The tables of names of a family: what its checkpoints call weights, and what PEFT calls them. */
export function namesOf(family: VlmConfig['family']): Record<'stored' | 'modules', Family['names']> {
  const { names, moduleNames } = FAMILIES[family];
  return { stored: names, modules: moduleNames ?? names };
}
