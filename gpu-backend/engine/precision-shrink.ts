import type { VlmConfig } from '../models/config.ts';
import { expectedWeights, type WeightMap } from '../models/load.ts';
import { f32 } from '../runtime/session.ts';

/** Weights of the decoder that is timed: large enough that kernels and not calls take the time, small enough for a second. */
const PROBE_WEIGHTS = 4_000_000;
/** Prompts of the probe are shorter. */
const MAX_POSITIONS = 1024;

/** Rows of matrices do not become shorter than this. */
const LEAST_HIDDEN = 1024;

const atLeast = (least: number, value: number): number => Math.max(least, Math.round(value));

/** A decoder made smaller, and how many of it the whole one is worth. */
export interface ShrunkModel {
  readonly config: VlmConfig;
  readonly factor: number;
}

/** Values in the linear layers of a decoder and in its output head. */
export function decoderWeights({ text, family }: Pick<VlmConfig, 'text' | 'family'>): number {
  const { hidden, intermediate, layers, heads, kvHeads, headDim, vocab } = text;
  const attention = (2 * heads + 2 * kvHeads) * headDim * hidden;
  return layers * (attention + (family === 'fuyu' ? 2 : 3) * hidden * intermediate) + hidden * vocab;
}

/**
 * A decoder with the same kinds of matrices and few enough of them to be timed: fewer layers, then fewer heads and a narrower MLP in
 * each, then shorter rows, and the vocabulary that is left to as many layers. A step of the whole decoder
 * takes `factor` times as long. Its encoder is next to nothing: pictures are not part of the probe.
 */
export function shrinkDecoder(config: VlmConfig, weights = PROBE_WEIGHTS): ShrunkModel {
  const whole = decoderWeights(config);
  const isFuyu = config.family === 'fuyu';
  const { text } = config;
  const isDivisible = (by: number): boolean => [text.heads, text.kvHeads, text.intermediate].every((n) => n % by === 0);
  // Heads and MLP, then rows. A fuyu decoder's attention is as wide as its rows, so all three shrink together.
  let [heads, rows] = [1, 1];
  const worth = (): number => heads * rows;
  const isLarge = (): boolean => whole / text.layers / worth() > 2 * weights;
  const canNarrow = (): boolean => text.hidden % (2 * rows) === 0 && text.hidden / rows >= 2 * LEAST_HIDDEN;
  while (isLarge() && isDivisible(2 * heads) && (!isFuyu || canNarrow())) {
    heads *= 2;
    if (isFuyu) rows = heads;
  }
  while (!isFuyu && isLarge() && canNarrow()) rows *= 2;
  const isSmall = whole <= 2 * weights;
  const layers = isSmall ? text.layers : atLeast(1, Math.min(text.layers, (weights * text.layers * worth()) / whole));
  const factor = (text.layers * worth()) / layers;
  const shrunk = {
    layers,
    heads: text.heads / heads,
    kvHeads: text.kvHeads / heads,
    intermediate: text.intermediate / heads,
    hidden: text.hidden / rows,
    vocab: atLeast(64, (text.vocab * layers) / text.layers / heads),
    maxPositions: Math.min(text.maxPositions, MAX_POSITIONS),
  };
  if (isFuyu) {
    const vision = { ...config.vision, patchSize: 2, imageSize: 4, hidden: 12 };
    return { config: { ...config, vision, text: { ...config.text, ...shrunk } }, factor };
  }
  return {
    config: {
      family: 'llava',
      vision: LEAST_ENCODER,
      text: { ...config.text, ...shrunk },
      projectorActivation: 'erf',
      projectorBias: true,
      visionLayers: 1,
      dropFirstFeature: false,
      imageToken: 0,
      tokensPerImage: 4,
    },
    factor,
  };
}

const LEAST_ENCODER = {
  kind: 'siglip',
  hidden: 64,
  intermediate: 64,
  layers: 1,
  heads: 1,
  imageSize: 8,
  patchSize: 4,
  layerNormEpsilon: 1e-6,
  activation: 'tanh',
} as const;

/** Weights of no meaning whose activations stay of ordinary size: evenly spread, norms 1. Times do not depend on them. */
export function noiseWeights(config: VlmConfig): WeightMap {
  const noise = new Float32Array(65_521);
  let state = 1;
  for (let i = 0; i < noise.length; i++) {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    noise[i] = state / 2 ** 31 - 1;
  }
  const weights: WeightMap = new Map();
  for (const [name, shape] of expectedWeights(config)) {
    const data = new Float32Array(shape.reduce((a, b) => a * b, 1));
    if (shape.length === 1) data.fill(name.endsWith('.bias') ? 0 : 1);
    else {
      const scale = Math.sqrt(3 / (shape.at(-1) ?? 1));
      const scaled = noise.map((x) => x * scale);
      for (let at = 0; at < data.length; at += scaled.length)
        data.set(scaled.subarray(0, Math.min(scaled.length, data.length - at)), at);
    }
    weights.set(name, f32(data, shape));
  }
  return weights;
}
