import type { Tensor } from '../runtime/session.ts';
import { f32 } from '../runtime/session.ts';
import { expectedAdapterWeights } from './adapter.ts';
import { formatVlmConfig, parseVlmConfig, type VlmConfig } from './config.ts';
import { expectedWeights, type WeightMap } from './load.ts';
import type { LoraSpec } from './weights.ts';

/** Sizes of a nano model; every default can be replaced. */
export interface NanoOptions {
  /** Entries of the tokenizer, specials included. */
  readonly vocab: number;
  /** Id of the token that stands for one row of image features. */
  readonly imageToken: number;
  readonly bosToken: number | null;
  readonly eosTokens: readonly number[];
  readonly padToken: number | null;
  /** Side of the picture, pixels. Default 100, one box of an NLVR picture. */
  readonly imageSize?: number;
  /** Side of a patch, pixels. Default 10: 100 rows of features a picture. */
  readonly patchSize?: number;
  readonly visionHidden?: number;
  readonly visionLayers?: number;
  readonly visionHeads?: number;
  readonly visionIntermediate?: number;
  readonly hidden?: number;
  readonly layers?: number;
  readonly heads?: number;
  readonly kvHeads?: number;
  readonly intermediate?: number;
  readonly maxPositions?: number;
  /** Output head = embedding matrix. Default false. */
  readonly tiedHead?: boolean;
}

/**
 * A Mantis-SigLIP in miniature: SigLIP-type encoder (all layers, every patch is a feature row), two-layer projector,
 * Llama-type decoder. A valid `LlavaForConditionalGeneration` config, so that the checkpoint loads elsewhere too.
 */
export function nanoConfig(options: NanoOptions): VlmConfig {
  const visionHidden = options.visionHidden ?? 128;
  const hidden = options.hidden ?? 192;
  const heads = options.heads ?? 6;
  const vision = {
    kind: 'siglip',
    hidden: visionHidden,
    intermediate: options.visionIntermediate ?? 4 * visionHidden,
    layers: options.visionLayers ?? 4,
    heads: options.visionHeads ?? 4,
    imageSize: options.imageSize ?? 100,
    patchSize: options.patchSize ?? 10,
    layerNormEpsilon: 1e-6,
    activation: 'tanh',
  } as const;
  const config: VlmConfig = {
    family: 'llava',
    vision,
    text: {
      hidden,
      intermediate: options.intermediate ?? Math.ceil((8 * hidden) / 3 / 32) * 32,
      layers: options.layers ?? 6,
      heads,
      kvHeads: options.kvHeads ?? 3,
      headDim: Math.floor(hidden / heads),
      vocab: options.vocab,
      ropeTheta: 10000,
      rmsNormEpsilon: 1e-5,
      maxPositions: options.maxPositions ?? 2048,
      tiedHead: options.tiedHead ?? false,
      bosToken: options.bosToken,
      eosTokens: options.eosTokens,
      padToken: options.padToken,
    },
    projectorActivation: 'erf',
    projectorBias: true,
    visionLayers: vision.layers,
    dropFirstFeature: false,
    imageToken: options.imageToken,
    tokensPerImage: Math.floor(vision.imageSize / vision.patchSize) ** 2,
  };
  // Through the parser, so that a preset obeys the same rules as a file.
  return parseVlmConfig(formatVlmConfig(config));
}

/** Number of values in all weights that the model reads. */
export function parameterCount(config: VlmConfig): number {
  return [...expectedWeights(config).values()].reduce((sum, shape) => sum + shape.reduce((a, b) => a * b, 1), 0);
}

/** Standard normal numbers from a seed: sfc32 (Doty-Humphrey) and the Box-Muller transform; the same on every machine. */
function normals(seed: number, stream: string): () => number {
  let [a, b, c, d] = [0x9e3779b9, 0x243f6a88, seed | 0, 1];
  for (let i = 0; i < stream.length; i++) b = Math.imul(b ^ stream.charCodeAt(i), 0x01000193);
  const next = (): number => {
    const t = (((a + b) | 0) + d) | 0;
    d = (d + 1) | 0;
    a = b ^ (b >>> 9);
    b = (c + (c << 3)) | 0;
    c = (c << 21) | (c >>> 11);
    c = (c + t) | 0;
    return ((t >>> 0) + 0.5) / 4294967296;
  };
  for (let i = 0; i < 15; i++) next();
  return () => Math.sqrt(-2 * Math.log(next())) * Math.cos(2 * Math.PI * next());
}

function truncatedNormal(shape: readonly number[], std: number, normal: () => number): Tensor {
  const data = new Float32Array(shape.reduce((x, y) => x * y, 1));
  for (let i = 0; i < data.length; i++) {
    let z = normal();
    while (Math.abs(z) > 3) z = normal();
    data[i] = z * std;
  }
  return f32(data, shape);
}

export interface InitOptions {
  /** Standard deviation of token embeddings. Default 0.4 (of the size of projected image features), 0.02 with a tied head. */
  readonly embeddingStd?: number;
  /** Standard deviation of vision position embeddings. Default 0.2. */
  readonly positionStd?: number;
  /** Standard deviation of the output head. Default 0.02: first logits near zero, first loss near ln(vocab). */
  readonly headStd?: number;
}

/**
 * Random weights, truncated at three standard deviations: linear layers 1/√fan-in, those that write into the residual stream
 * divided by √(2·layers) (GPT-2); norms 1, biases 0. Each tensor has its own random stream, so that changing one size does
 * not change the other tensors.
 */
export function initWeights(config: VlmConfig, seed: number, options: InitOptions = {}): WeightMap {
  const weights: WeightMap = new Map();
  for (const [name, shape] of expectedWeights(config)) {
    const normal = normals(seed, name);
    const fanIn = shape.slice(1).reduce((a, b) => a * b, 1);
    const std = (): number => {
      if (name.endsWith('embed_tokens.weight')) return options.embeddingStd ?? (config.text.tiedHead ? 0.02 : 0.4);
      if (name.endsWith('position_embedding.weight') || name.endsWith('class_embedding'))
        return options.positionStd ?? 0.2;
      if (name.endsWith('lm_head.weight')) return options.headStd ?? 0.02;
      const depth = name.startsWith('vision_tower.') ? config.visionLayers : config.text.layers;
      const isResidual = /(self_attn\.(o|out)_proj|mlp\.(down_proj|fc2))\.weight$/.test(name);
      return 1 / Math.sqrt(fanIn) / (isResidual ? Math.sqrt(2 * depth) : 1);
    };
    if (name.endsWith('.bias')) weights.set(name, f32(new Float32Array(fanIn * (shape[0] ?? 1)), shape));
    else if (shape.length === 1 && !name.endsWith('class_embedding'))
      weights.set(name, f32(new Float32Array(shape[0] ?? 0).fill(1), shape));
    else weights.set(name, truncatedNormal(shape, std(), normal));
  }
  return weights;
}

/**
 * Fresh adapter: A normal with the variance of PEFT's Kaiming rule, 1/(3·in), B zero, and with DoRA the lengths of the rows of the
 * base weights, so that training starts at the base model.
 * @param base weights of the model, needed with DoRA alone
 */
export function initAdapter(
  config: VlmConfig,
  lora: LoraSpec,
  seed: number,
  base?: ReadonlyMap<string, Tensor>,
): WeightMap {
  const weights: WeightMap = new Map();
  for (const [name, shape] of expectedAdapterWeights(config, lora)) {
    const size = shape.reduce((a, b) => a * b, 1);
    if (name.endsWith('.lora_B.weight')) weights.set(name, f32(new Float32Array(size), shape));
    else if (name.endsWith('.lora_magnitude_vector')) weights.set(name, f32(rowLengths(name, size, base), shape));
    else weights.set(name, truncatedNormal(shape, 1 / Math.sqrt(3 * (shape[1] ?? 1)), normals(seed, name)));
  }
  return weights;
}

/** Euclidean length of each row of the weight [out, in] that a magnitude vector [out] belongs to. */
function rowLengths(magnitude: string, out: number, base: ReadonlyMap<string, Tensor> | undefined): Float32Array {
  const name = magnitude.replace(/lora_magnitude_vector$/, 'weight');
  const weight = base?.get(name);
  if (weight === undefined)
    throw new Error(`a DoRA adapter starts from the lengths of the rows of ${name}: pass the base weights`);
  const data = weight.data as Float32Array;
  const width = data.length / out;
  return Float32Array.from({ length: out }, (_, row) =>
    Math.sqrt(data.subarray(row * width, (row + 1) * width).reduce((sum, x) => sum + x * x, 0)),
  );
}
