/** Hugging Face `config.json` of the Mantis families → typed dimensions. */

import { Fields, type GeluKind, isObject } from './config-fields.ts';
import { formatFuyu, parseFuyu } from './fuyu-config.ts';
import { formatIdefics2, parseIdefics2 } from './idefics2-config.ts';
import { formatLlava, parseLlava } from './llava-config.ts';

export type { GeluKind } from './config-fields.ts';

export interface VisionConfig {
  /** `clip`: class token, pre-norm, no bias on the patch convolution. `siglip`: none of these, and a bias. */
  readonly kind: 'clip' | 'siglip';
  readonly hidden: number;
  readonly intermediate: number;
  /** Encoder layers in the checkpoint; only `VlmConfig.visionLayers` of them are used. */
  readonly layers: number;
  readonly heads: number;
  /** Side of the square input picture, pixels; with native aspect ratio, of the square that positions were learned on. */
  readonly imageSize: number;
  readonly patchSize: number;
  readonly layerNormEpsilon: number;
  readonly activation: GeluKind;
}

/** What every decoder has, whatever its blocks are made of. */
export interface DecoderConfig {
  readonly hidden: number;
  readonly intermediate: number;
  readonly layers: number;
  readonly heads: number;
  readonly kvHeads: number;
  readonly headDim: number;
  readonly vocab: number;
  readonly ropeTheta: number;
  readonly maxPositions: number;
  /** The output head is the embedding matrix. */
  readonly tiedHead: boolean;
  readonly bosToken: number | null;
  readonly eosTokens: readonly number[];
  readonly padToken: number | null;
  /** A position sees itself and the slidingWindow - 1 before it. Absent: all before it. */
  readonly slidingWindow?: number;
  /** Features of each head that are rotated, even. Absent: all of headDim. */
  readonly rotaryDim?: number;
}

/** Llama and Mistral blocks. */
export interface TextConfig extends DecoderConfig {
  readonly rmsNormEpsilon: number;
}

/** Persimmon blocks: fused query-key-value, LayerNorms with bias, squared ReLU. */
export interface PersimmonConfig extends DecoderConfig {
  readonly layerNormEpsilon: number;
  /** LayerNorm over each head's query and key. */
  readonly qkNorm: boolean;
}

interface CommonConfig {
  /** Encoder layers that are computed: features are the hidden state after this many (`vision_feature_layer`). */
  readonly visionLayers: number;
  readonly imageToken: number;
  /** Feature rows that one picture takes in the text sequence; the most there can be where it depends on the picture. */
  readonly tokensPerImage: number;
}

/** Mantis-SigLIP, Mantis-CLIP and their LLaVA relatives. */
export interface LlavaConfig extends CommonConfig {
  readonly family: 'llava';
  readonly vision: VisionConfig;
  readonly text: TextConfig;
  readonly projectorActivation: GeluKind;
  readonly projectorBias: boolean;
  /** Select strategy `default`: the first position is left out (CLIP's class token; a real patch with SigLIP). */
  readonly dropFirstFeature: boolean;
}

/** Perceiver resampler: `latents` queries read a picture of any size. */
export interface ResamplerConfig {
  readonly latents: number;
  readonly depth: number;
  readonly heads: number;
  readonly kvHeads: number;
  readonly headDim: number;
  readonly rmsNormEpsilon: number;
}

/** Mantis-Idefics2. */
export interface Idefics2Config extends CommonConfig {
  readonly family: 'idefics2';
  readonly vision: VisionConfig;
  readonly text: TextConfig;
  readonly resampler: ResamplerConfig;
}

/** Mantis-Fuyu: no vision tower, patches go through one linear layer. */
export interface FuyuConfig extends CommonConfig {
  readonly family: 'fuyu';
  /** `hidden` is the number of values of a patch: what enters the linear layer. */
  readonly vision: Pick<VisionConfig, 'hidden' | 'imageSize' | 'patchSize'> & { readonly kind: 'patches' };
  readonly text: PersimmonConfig;
  /** Token after each row of patches. */
  readonly newlineToken: number;
}

export type VlmConfig = LlavaConfig | Idefics2Config | FuyuConfig;

/**
 * Parses the `config.json` of a checkpoint of any family, in the layout of the published Mantis checkpoints or the one that
 * transformers 5 writes.
 * @throws Error that names the field, what was expected and what came, for anything outside the supported families.
 */
export function parseVlmConfig(json: unknown): VlmConfig {
  if (!isObject(json)) throw new Error(`config.json must be an object, got ${JSON.stringify(json)?.slice(0, 80)}`);
  const top = new Fields(json, '');
  switch (top.oneOf('model_type', ['llava', 'idefics2', 'fuyu'])) {
    case 'llava':
      return parseLlava(top);
    case 'idefics2':
      return parseIdefics2(top);
    case 'fuyu':
      return parseFuyu(top);
  }
}

/** The inverse of `parseVlmConfig`: a `config.json` in the layout of the published checkpoints, every field explicit. */
export function formatVlmConfig(config: VlmConfig): Record<string, unknown> {
  switch (config.family) {
    case 'llava':
      return formatLlava(config);
    case 'idefics2':
      return formatIdefics2(config);
    case 'fuyu':
      return formatFuyu(config);
  }
}
