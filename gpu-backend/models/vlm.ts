import * as g from '../graph/builder.ts';
import { addDims, type Dim, mulDims, symbol } from '../graph/dim.ts';
import { Graph, type Value } from '../graph/graph.ts';
import { one, scalar } from '../graph/ops/infer.ts';
import type { VlmConfig } from './config.ts';
import { familyOf } from './family.ts';
import {
  type Attend,
  causalAttend,
  decoder,
  embedTokens,
  MASKED,
  outputHead,
  repeatForGroup,
  ropeTables,
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

/** All decoder layers over embeddings x [B·S, hidden] → [B·S, hidden]. */
export function decoderStack(
  w: Weights,
  config: VlmConfig,
  seq: Sequence,
  x: Value,
  positions_BS: Value,
  attend: Attend,
  checkpoint = false,
): Value {
  const rope = ropeTables(w.graph, config.text, positions_BS);
  return decoder(familyOf(config).decoderLayer, w, config.text, seq, x, rope, attend, checkpoint);
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
  let h = decoderStack(w, config, seq, x, positions_BS, attend);
  if (options.rows === true) h = g.gather(graph, h, graph.input('rows', 'i64', [symbol('R')]));
  const logits = head(w, config, h);
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

/** Whether decodeGraph has the input `past_positions`: only where a window is shorter than what the model can be asked. */
export function hasPastWindow({ text }: VlmConfig): boolean {
  return text.slidingWindow !== undefined && text.slidingWindow < text.maxPositions;
}

/** [B, 1, 1, T] and the window over `past_positions` [B, T] → [B, 1, S, T]: forbids keys that lie outside a query's window. */
function pastWindowBias(graph: Graph, { text }: VlmConfig, stored: Value, positions_BS: Value): Value {
  const [batch, length] = positions_BS.shape as [Dim, Dim];
  const past = stored.shape[3] as Dim;
  const at = graph.input('past_positions', 'i64', [batch, past]);
  const queries = g.reshape(graph, g.cast(graph, positions_BS, 'f32'), [batch, 1, length, 1]);
  const keys = g.reshape(graph, g.cast(graph, at, 'f32'), [batch, 1, 1, past]);
  // How far outside, in positions: relu(q - k - (window - 1)), whole numbers, so one step outside is MASKED already.
  const distance = g.add(graph, g.sub(graph, queries, keys), scalar(graph, 1 - (text.slidingWindow ?? 0)));
  const outside = g.sqrt(graph, one(graph.emit('squaredRelu', [distance], {})));
  return g.add(graph, g.scale(graph, outside, MASKED), stored);
}

export interface DecodeOptions {
  /** Adds the inputs `image_features` [F, D] and `image_rows` [F]. */
  readonly images: boolean;
  readonly lora?: LoraSpec;
  /** How weights are stored. Default: f32. */
  readonly storage?: Storage;
}

/**
 * One step over a key-value cache: prefill, chunked prefill and decode are the same graph. Keys and values of the past are
 * read only; the graph gives the new ones, which the caller appends (outputs are always copied by the binding, so a graph
 * that returned the whole cache would copy it every token).
 *
 * Inputs: `ids`, `positions` [B, S]; `causal_bias` [S, S]; `past_bias` [B, 1, 1, T] (0 = stored, -1e9 = not there);
 * `past_k_i`, `past_v_i` [B, Hkv, T, headDim] with keys already rotated, T ≥ 1; `rows` [R], R ≥ 1, flat in B·S;
 * with images `image_features` [F, D], `image_rows` [F]; F may be 0; `past_positions` [B, T] i64 where hasPastWindow(config).
 * Outputs: `logits` [R, V]; `new_k_i`, `new_v_i` [B, Hkv, S, headDim].
 */
export function decodeGraph(config: VlmConfig, options: DecodeOptions): ModelGraph {
  const graph = new Graph();
  const w = new Weights(graph, options.lora, options.storage);
  const { text } = config;
  const { heads, kvHeads, headDim } = text;
  const group = heads / kvHeads;
  const [batch, length, past] = [symbol('B'), symbol('S'), symbol('T')];
  const seq = { batch, length };
  const ids_BS = graph.input('ids', 'i64', [batch, length]);
  const positions_BS = graph.input('positions', 'i64', [batch, length]);
  const causal = graph.input('causal_bias', 'f32', [length, length]);
  const stored = graph.input('past_bias', 'f32', [batch, 1, 1, past]);
  const pastBias = hasPastWindow(config)
    ? repeatForGroup(graph, pastWindowBias(graph, config, stored, positions_BS), group)
    : stored;
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
  const h = decoderStack(w, config, seq, x, positions_BS, attend);
  graph.output('logits', head(w, config, g.gather(graph, h, graph.input('rows', 'i64', [symbol('R')]))));
  for (const { name, value } of fresh) graph.output(name, value);
  return { graph, weights: declaredWeights(w) };
}
