import * as g from '../graph/builder.ts';
import { type Dim, mulDims, symbol } from '../graph/dim.ts';
import { Graph, type Value } from '../graph/graph.ts';
import type { VlmConfig } from './config.ts';
import { familyOf } from './family.ts';
import {
  type Attend,
  causalAttend,
  type DecoderOptions,
  decoder,
  embedTokens,
  MASKED,
  outputHead,
  ropeTables,
  rotations,
  type Sequence,
} from './llama.ts';
import type { Storage } from './storage.ts';
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

/**
 * Vision encoder and projector. Inputs: what the family's `pictureFeeds` gives. Output: `image_features` [F, D], the rows of
 * all pictures in order.
 */
export function visionGraph(config: VlmConfig, lora?: LoraSpec, storage?: Storage): ModelGraph {
  const graph = new Graph();
  const w = new Weights(graph, lora, storage);
  graph.output('image_features', familyOf(config).imageFeatures(w, config, 'pixels', false));
  return { graph, weights: declaredWeights(w) };
}

/**
 * Vision encoder alone, for caching what a frozen tower gives. Inputs as visionGraph. Output: `vision_features`, as
 * trainGraph takes them with images: 'towerFeatures'.
 */
export function visionTowerGraph(config: VlmConfig): ModelGraph {
  const graph = new Graph();
  const w = new Weights(graph);
  graph.output('vision_features', familyOf(config).towerFeatures(w, config));
  return { graph, weights: declaredWeights(w) };
}

/** All decoder layers over embeddings x [B·S, hidden] → [B·S, hidden], or [R, hidden] of rows that are kept. */
export function decoderStack(
  w: Weights,
  config: VlmConfig,
  seq: Sequence,
  x: Value,
  positions_BS: Value,
  attend: Attend,
  options: DecoderOptions = {},
): Value {
  const rope = seq.packed?.groups[0]?.rope ?? ropeTables(w.graph, config.text, positions_BS);
  return decoder(familyOf(config).decoderLayer, w, config.text, seq, x, rope, attend, options);
}

/** Final norm and output head over chosen rows: h [R, hidden] → logits [R, vocab]. */
export function head(w: Weights, config: VlmConfig, h: Value): Value {
  return w.graph.scope('head', () => outputHead(w, config.text, familyOf(config).finalNorm(w, config, h)));
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
 * @param slidingWindow of the config's decoder: keys that many positions back, or further, are forbidden too
 */
export function causalBias(blockLength: number, blocks = 1, slidingWindow = Number.POSITIVE_INFINITY): Float32Array {
  const width = blockLength * blocks;
  const bias = new Float32Array(blockLength * width);
  for (let q = 0; q < blockLength; q++) {
    // Column of the query's own position; the same for every block, since blocks are cut off at the right end.
    const own = width - blockLength + q;
    bias.fill(MASKED, q * width + own + 1, (q + 1) * width);
    if (own >= slidingWindow) bias.fill(MASKED, q * width, q * width + own - slidingWindow + 1);
  }
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

/**
 * Declares the inputs of a packed row of T positions: `ids` [1, T]; `places` [T]; and for group i of examples that attend
 * together, E_i examples of L_i = blocks_i · C_i positions, `group_rows.i` [E_i·L_i], `group_positions.i` [E_i, L_i] and
 * `group_bias.i` [C_i, L_i] (see causalBias). What they mean: `Packed`.
 * @param groups query blocks of each group's causal attention
 */
export function packedInputs(
  graph: Graph,
  config: VlmConfig,
  groups: readonly number[],
  checkpointAttention: boolean,
): SequenceInputs {
  if (groups.length === 0 || !groups.every((blocks) => Number.isInteger(blocks) && blocks >= 1))
    throw new Error(`a packed row needs groups of one or more causal blocks each, got [${groups}]`);
  const length = symbol('T');
  const ids_BS = graph.input('ids', 'i64', [1, length]);
  const places = graph.input('places', 'i64', [length]);
  const tables = rotations(graph, config.text);
  const made = groups.map((blocks, i) => {
    const [batch, blockLength] = [symbol(`E${i}`), symbol(`C${i}`)];
    const seq = { batch, length: mulDims(blockLength, blocks) };
    const rows = graph.input(`group_rows.${i}`, 'i64', [mulDims(batch, seq.length)]);
    const positions_BS = graph.input(`group_positions.${i}`, 'i64', [batch, seq.length]);
    const bias = graph.input(`group_bias.${i}`, 'f32', [blockLength, seq.length]);
    const attend = causalAttend(graph, config.text, seq, blocks, blockLength, bias, undefined, checkpointAttention);
    return { ...seq, rows, rope: { positions_BS, ...tables }, attend };
  });
  const [first] = made as [(typeof made)[number]];
  const seq: Sequence = { batch: 1, length, packed: { groups: made, places } };
  return { seq, ids_BS, positions_BS: first.rope.positions_BS, attend: first.attend };
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
 * [F, D] or the family's picture inputs, `rows`, `targets`, `weights` [R].
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
        : familyOf(config).imageFeatures(w, config, 'pixels', false);
  const x = mergedEmbeddings(w, config, ids_BS, features);
  const wanted = options.rows === true ? { keep: { rows: graph.input('rows', 'i64', [symbol('R')]) } } : {};
  const logits = head(w, config, decoderStack(w, config, seq, x, positions_BS, attend, wanted));
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
