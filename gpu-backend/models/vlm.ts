import * as g from '../graph/builder.ts';
import { addDims, type Dim, mulDims, symbol } from '../graph/dim.ts';
import { Graph, type Value } from '../graph/graph.ts';
import type { VlmConfig } from './config.ts';
import {
  type Attend,
  causalAttend,
  decoder,
  embedTokens,
  head,
  repeatForGroup,
  ropeTables,
  type Sequence,
} from './llama.ts';
import { projector } from './projector.ts';
import { visionTower } from './vit.ts';
import { type LoraSpec, Weights } from './weights.ts';

/*
 * Inference graphs of a vision-language model. Every maker declares its weights as `param` inputs under canonical names;
 * all other inputs are `data`. Legend: B rows, S new tokens a row, T past tokens, N pictures, F = feature rows, R = rows of
 * logits, V vocabulary, D text hidden size.
 */

/** A graph and the weights it reads: canonical name → static shape. */
export interface ModelGraph {
  readonly graph: Graph;
  readonly weights: ReadonlyMap<string, readonly number[]>;
}

export function declaredWeights(w: Weights): ReadonlyMap<string, readonly number[]> {
  return new Map([...w.params].map(([name, value]) => [name, value.shape as readonly number[]]));
}

/** `pixel_values` [N, 3, H, W] f32. */
export function pixelInput(graph: Graph, config: VlmConfig, images: Dim): Value {
  const side = config.vision.imageSize;
  return graph.input('pixel_values', 'f32', [images, 3, side, side]);
}

/**
 * Vision encoder and projector.
 * Inputs: `pixel_values` [N, 3, H, W]. Output: `image_features` [N·tokensPerImage, D].
 */
export function visionGraph(config: VlmConfig): ModelGraph {
  const graph = new Graph();
  const w = new Weights(graph);
  const features = visionTower(w, config, pixelInput(graph, config, symbol('N')));
  graph.output('image_features', projector(w, config, features));
  return { graph, weights: declaredWeights(w) };
}

/**
 * Vision encoder alone, for caching what a frozen tower gives.
 * Inputs: `pixel_values` [N, 3, H, W]. Output: `vision_features` [N·tokensPerImage, vision hidden].
 */
export function visionTowerGraph(config: VlmConfig): ModelGraph {
  const graph = new Graph();
  const w = new Weights(graph);
  graph.output('vision_features', visionTower(w, config, pixelInput(graph, config, symbol('N'))));
  return { graph, weights: declaredWeights(w) };
}

/** Embeds ids [B, S] and writes feature rows [F, D] over the flat positions `image_rows` [F] (distinct, below B·S). */
export function mergedEmbeddings(w: Weights, config: VlmConfig, ids_BS: Value, features: Value | undefined): Value {
  const x = embedTokens(w, config.text, ids_BS);
  if (features === undefined) return x;
  const rows = w.graph.input('image_rows', 'i64', [features.shape[0] as Dim]);
  return g.setRows(w.graph, x, rows, features);
}

/**
 * Values of the `causal_bias` input [C, n·C] of a graph with n causal blocks of length C: the last C columns forbid later
 * positions, the others allow all (block i reads the last (i+1)·C columns).
 */
export function causalBias(blockLength: number, blocks = 1): Float32Array {
  const width = blockLength * blocks;
  const bias = new Float32Array(blockLength * width);
  for (let q = 0; q < blockLength; q++) bias.fill(-1e9, q * width + width - blockLength + q + 1, (q + 1) * width);
  return bias;
}

export interface SequenceInputs {
  readonly seq: Sequence;
  readonly ids_BS: Value;
  readonly positions_BS: Value;
  readonly attend: Attend;
}

/** Declares `ids`, `positions` [B, S], `causal_bias` [C, S] and, when asked, `key_bias` [B, 1, 1, S], with S = blocks · C. */
export function sequenceInputs(
  graph: Graph,
  config: VlmConfig,
  blocks: number,
  keyBias: boolean,
  checkpointAttention: boolean,
): SequenceInputs {
  if (!Number.isInteger(blocks) || blocks < 1)
    throw new Error(`causalBlocks must be a positive integer, got ${blocks}`);
  const batch = symbol('B');
  const blockLength = symbol('C');
  const length = mulDims(blockLength, blocks);
  const ids_BS = graph.input('ids', 'i64', [batch, length]);
  const positions_BS = graph.input('positions', 'i64', [batch, length]);
  const causal = graph.input('causal_bias', 'f32', [blockLength, length]);
  const keys = keyBias ? graph.input('key_bias', 'f32', [batch, 1, 1, length]) : undefined;
  const seq = { batch, length };
  const attend = causalAttend(graph, config.text, seq, blocks, blockLength, causal, keys, checkpointAttention);
  return { seq, ids_BS, positions_BS, attend };
}

export interface ForwardOptions {
  /** Query blocks of causal attention (1 = one block). S must be a multiple. */
  readonly causalBlocks?: number;
  /** Adds the input `key_bias` [B, 1, 1, S] (0 / -1e9), needed only for left padding or holes. Default false. */
  readonly keyBias?: boolean;
  /** Where feature rows come from: `features` = projected rows as an input, `pixels` = pictures, `none` = text only. */
  readonly images: 'features' | 'pixels' | 'none';
  /** Adds the input `rows` [R] and gives logits there only. Default: all positions. */
  readonly rows?: boolean;
  /** Adds inputs `targets` [R], `weights` [R] and the output `loss`; needs `rows`. */
  readonly loss?: boolean;
  readonly lora?: LoraSpec;
}

/**
 * Whole sequences without a cache, for evaluation and verification.
 *
 * Inputs: `ids`, `positions` [B, S]; `causal_bias` [C, S]; by options `key_bias`, `image_rows` [F] with `image_features`
 * [F, D] or `pixel_values` [N, 3, H, W] (F = N·tokensPerImage), `rows`, `targets`, `weights` [R].
 * Outputs: `logits` [B·S or R, V]; `loss` [] = Σ weights · cross-entropy.
 */
export function forwardGraph(config: VlmConfig, options: ForwardOptions): ModelGraph {
  const graph = new Graph();
  const w = new Weights(graph, options.lora);
  const { seq, ids_BS, positions_BS, attend } = sequenceInputs(
    graph,
    config,
    options.causalBlocks ?? 1,
    options.keyBias ?? false,
    false,
  );
  const features =
    options.images === 'none'
      ? undefined
      : options.images === 'features'
        ? graph.input('image_features', 'f32', [symbol('F'), config.text.hidden])
        : projector(w, config, visionTower(w, config, pixelInput(graph, config, symbol('N'))));
  const x = mergedEmbeddings(w, config, ids_BS, features);
  let h = decoder(w, config.text, seq, x, ropeTables(graph, config.text, positions_BS), attend);
  if (options.rows === true) h = g.gather(graph, h, graph.input('rows', 'i64', [symbol('R')]));
  const logits = head(w, config.text, h);
  graph.output('logits', logits);
  if (options.loss === true) {
    if (options.rows !== true) throw new Error('a loss needs the option rows: true');
    const rows = logits.shape[0] as Dim;
    graph.output(
      'loss',
      g.crossEntropy(graph, logits, graph.input('targets', 'i64', [rows]), graph.input('weights', 'f32', [rows])),
    );
  }
  return { graph, weights: declaredWeights(w) };
}

export interface DecodeOptions {
  /** Adds the inputs `image_features` [F, D] and `image_rows` [F]. */
  readonly images: boolean;
  readonly lora?: LoraSpec;
}

/**
 * One step over a key-value cache: prefill, chunked prefill and decode are the same graph. Keys and values of the past are
 * read only; the graph gives the new ones, which the caller appends (outputs are always copied by the binding, so a graph
 * that returned the whole cache would copy it every token).
 *
 * Inputs: `ids`, `positions` [B, S]; `causal_bias` [S, S]; `past_bias` [B, 1, 1, T] (0 = stored, -1e9 = not there);
 * `past_k_i`, `past_v_i` [B, Hkv, T, headDim] with keys already rotated, T ≥ 1; `rows` [R], R ≥ 1, flat in B·S;
 * with images `image_features` [F, D], `image_rows` [F]; F may be 0.
 * Outputs: `logits` [R, V]; `new_k_i`, `new_v_i` [B, Hkv, S, headDim].
 */
export function decodeGraph(config: VlmConfig, options: DecodeOptions): ModelGraph {
  const graph = new Graph();
  const w = new Weights(graph, options.lora);
  const { text } = config;
  const { heads, kvHeads, headDim } = text;
  const group = heads / kvHeads;
  const [batch, length, past] = [symbol('B'), symbol('S'), symbol('T')];
  const seq = { batch, length };
  const ids_BS = graph.input('ids', 'i64', [batch, length]);
  const positions_BS = graph.input('positions', 'i64', [batch, length]);
  const causal = graph.input('causal_bias', 'f32', [length, length]);
  const pastBias = graph.input('past_bias', 'f32', [batch, 1, 1, past]);
  const newBias = repeatForGroup(graph, g.reshape(graph, causal, [1, 1, length, length]), group);
  const rowsPerGroup = mulDims(length, group);
  const fresh: { name: string; value: Value }[] = [];
  const attend: Attend = (layer, q, k, v) => {
    const pastK = graph.input(`past_k_${layer}`, 'f32', [batch, kvHeads, past, headDim]);
    const pastV = graph.input(`past_v_${layer}`, 'f32', [batch, kvHeads, past, headDim]);
    fresh.push({ name: `new_k_${layer}`, value: k }, { name: `new_v_${layer}`, value: v });
    const queries = g.reshape(graph, q, [batch, kvHeads, rowsPerGroup, headDim]);
    const product = { transB: true, alpha: headDim ** -0.5 };
    const scores = g.concat(
      graph,
      [
        g.add(graph, g.matmul(graph, queries, pastK, product), pastBias),
        g.add(graph, g.matmul(graph, queries, k, product), newBias),
      ],
      3,
    );
    const p = g.softmax(graph, scores);
    const o = g.add(
      graph,
      g.matmul(graph, g.slice(graph, p, 3, 0, past), pastV),
      g.matmul(graph, g.slice(graph, p, 3, past, addDims(past, length)), v),
    );
    return g.reshape(graph, o, [batch, heads, length, headDim]);
  };
  const features = options.images ? graph.input('image_features', 'f32', [symbol('F'), text.hidden]) : undefined;
  const x = mergedEmbeddings(w, config, ids_BS, features);
  const h = decoder(w, text, seq, x, ropeTables(graph, text, positions_BS), attend);
  graph.output('logits', head(w, text, g.gather(graph, h, graph.input('rows', 'i64', [symbol('R')]))));
  for (const { name, value } of fresh) graph.output(name, value);
  return { graph, weights: declaredWeights(w) };
}
