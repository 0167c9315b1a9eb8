import * as g from '../graph/builder.ts';
import { type Dim, mulDims, symbol } from '../graph/dim.ts';
import { Graph, type Value } from '../graph/graph.ts';
import { one, scalar } from '../graph/ops/infer.ts';
import type { VlmConfig } from './config.ts';
import { repeatForGroup } from './grouped-queries.ts';
import { type Attend, MASKED } from './llama.ts';
import type { Storage } from './storage.ts';
import { declaredWeights, decoderStack, head, type ModelGraph, mergedEmbeddings } from './vlm.ts';
import { type AdapterBank, BANK_RANKS, type LoraSpec, Weights } from './weights.ts';

/*
 * The decoder over a key-value cache. Legend as in vlm.ts: B rows, S new tokens a row, T past tokens, F feature rows, R rows of
 * logits, V vocabulary, D text hidden size.
 */

/** Whether decodeGraph has the input `past_positions`: only where a window is shorter than what the model can be asked. */
export function hasPastWindow({ text }: VlmConfig): boolean {
  return text.slidingWindow !== undefined && text.slidingWindow < text.maxPositions;
}

/** [B, 1, 1, T] and the window over `past_positions` [B, T] → [B, 1, S, T]: forbids keys that lie outside a query's window. */
export function pastWindowBias(graph: Graph, { text }: VlmConfig, stored: Value, positions_BS: Value): Value {
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

/** How the cache holds keys and values: f32, or int8 with one f32 scale a token and head. */
export type KvFormat = 'f32' | 'int8';

/** Attention of queries over the keys and values of the past; what the attention of a cache format consists of. */
interface Past {
  /** Scores [B, Hkv, G·S, T] of queries [B, Hkv, G·S, headDim], scaled, without bias. */
  scores(queries: Value): Value;
  /** Probabilities [B, Hkv, G·S, T] times values → [B, Hkv, G·S, headDim]. */
  weighted(probabilities: Value): Value;
}

/**
 * Tokens in one tile of int8 keys. A product of few queries with a whole row of keys [headDim, T] spends its time on packing them;
 * tiles of 64 tokens are packed where they lie in the nearest cache.
 */
export const KEY_TILE_TOKENS = 64;

interface PastShape {
  readonly batch: Dim;
  readonly kvHeads: number;
  /** Tiles of KEY_TILE_TOKENS where the cache is int8, else tokens. */
  readonly blocks: Dim;
  readonly past: Dim;
  readonly headDim: number;
}

function floatPast(graph: Graph, layer: number, { batch, kvHeads, past, headDim }: PastShape): Past {
  const keys = graph.input(`past_k_${layer}`, 'f32', [batch, kvHeads, past, headDim]);
  const values = graph.input(`past_v_${layer}`, 'f32', [batch, kvHeads, past, headDim]);
  return {
    scores: (queries) => g.matmul(graph, queries, keys, { transB: true, alpha: headDim ** -0.5 }),
    weighted: (probabilities) => g.matmul(graph, probabilities, values),
  };
}

/**
 * Both products run over int8: queries and probabilities are rounded row by row, the scales of the tokens are applied to the scores
 * and, before they are rounded, to the probabilities. Four times fewer bytes than f32, and faster from about 256 tokens on.
 */
function int8Past(graph: Graph, layer: number, { batch, kvHeads, blocks, past, headDim }: PastShape): Past {
  const keys = graph.input(`past_k_${layer}`, 'i8', [batch, kvHeads, blocks, headDim, KEY_TILE_TOKENS]);
  const values = graph.input(`past_v_${layer}`, 'i8', [batch, kvHeads, past, headDim]);
  const keyScales = graph.input(`past_k_scale_${layer}`, 'f32', [batch, kvHeads, 1, past]);
  const valueScales = graph.input(`past_v_scale_${layer}`, 'f32', [batch, kvHeads, 1, past]);
  const rounded = (x: Value, range: 'signed' | 'unsigned'): readonly [Value, Value] => {
    const [q, top] = graph.emit('quantizeRows', [x], { range });
    if (q === undefined || top === undefined) throw new Error('quantizeRows has two outputs');
    return [q, top];
  };
  const product = (a: Value, b: Value, factor: number, range: 'signed' | 'unsigned' = 'signed'): Value =>
    one(graph.emit('matmulInt8', [a, b, scalar(graph, factor)], { range }));
  return {
    scores: (queries) => {
      const rows = queries.shape[2] as Dim;
      const [q, top] = rounded(queries, 'signed');
      const tiles = product(g.reshape(graph, q, [batch, kvHeads, 1, rows, headDim]), keys, headDim ** -0.5);
      const inRows = g.reshape(graph, g.transpose(graph, tiles, [0, 1, 3, 2, 4]), [batch, kvHeads, rows, past]);
      // Scaled in long rows: over tiles the same product takes twice the time.
      return g.mul(graph, g.mul(graph, inRows, top), keyScales);
    },
    weighted: (probabilities) => {
      const [p, top] = rounded(g.mul(graph, probabilities, valueScales), 'unsigned');
      return g.mul(graph, product(p, values, 1, 'unsigned'), top);
    },
  };
}

export interface DecodeOptions {
  /** Adds the inputs `image_features` [F, D] and `image_rows` [F]. */
  readonly images: boolean;
  readonly lora?: LoraSpec;
  /** How weights are stored. Default: f32. */
  readonly storage?: Storage;
  /** Default f32. */
  readonly kv?: KvFormat;
  /** Adapters of several models in one batch: names of the adapted layers. Adds the input `adapter_mask` [B·S, R_lora]. */
  readonly adapterTargets?: readonly string[];
  /**
   * Layers that read the same input are one matrix, whose weights `servingWeights` makes: fewer and larger products. Default false:
   * every weight has its canonical name, as files and trained adapters have them.
   */
  readonly joins?: boolean;
}

/**
 * One step over a key-value cache: prefill, chunked prefill and decode are the same graph. Keys and values of the past are
 * read only; the graph gives the new ones, which the caller appends (outputs are always copied by the binding, so a graph
 * that returned the whole cache would copy it every token).
 *
 * Inputs: `ids`, `positions` [B, S]; `causal_bias` [S, S]; `past_bias` [B, 1, 1, T] (0 = stored, -1e9 = not there); keys (already
 * rotated) and values of T ≥ 1 past positions; `rows` [R], R ≥ 1, flat in B·S; with images `image_features` [F, D], `image_rows`
 * [F]; F may be 0; `past_positions` [B, T] i64 where hasPastWindow(config); with adapters `adapter_mask` and their A and B.
 * The past in f32: `past_k_i`, `past_v_i` [B, Hkv, T, headDim]. In int8, T = 64 N: `past_k_i` [B, Hkv, N, headDim, 64], token
 * t at [.., t / 64, :, t mod 64]; `past_v_i` [B, Hkv, T, headDim]; their scales `past_k_scale_i`, `past_v_scale_i` [B, Hkv, 1, T].
 * A token has the value q · scale.
 * Outputs: `logits` [R, V]; `new_k_i`, `new_v_i` [B, Hkv, S, headDim] f32.
 */
export function decodeGraph(config: VlmConfig, options: DecodeOptions): ModelGraph {
  const graph = new Graph();
  const { text } = config;
  const { heads, kvHeads, headDim } = text;
  const group = heads / kvHeads;
  const [batch, length, blocks] = [symbol('B'), symbol('S'), symbol('N')];
  const past = options.kv === 'int8' ? mulDims(blocks, KEY_TILE_TOKENS) : symbol('T');
  const seq = { batch, length };
  const ids_BS = graph.input('ids', 'i64', [batch, length]);
  const positions_BS = graph.input('positions', 'i64', [batch, length]);
  const causal = graph.input('causal_bias', 'f32', [length, length]);
  const stored = graph.input('past_bias', 'f32', [batch, 1, 1, past]);
  const bank: AdapterBank | undefined = options.adapterTargets && {
    targets: options.adapterTargets,
    mask: graph.input('adapter_mask', 'f32', [mulDims(batch, length), BANK_RANKS]),
  };
  const w = new Weights(graph, options.lora, options.storage, bank, options.joins);
  const rowsPerGroup = mulDims(length, group);
  // One bias for the keys of the past and the new ones, made once for all layers.
  const bias = graph.scope('mask', () => {
    const pastBias = hasPastWindow(config)
      ? repeatForGroup(graph, pastWindowBias(graph, config, stored, positions_BS), group)
      : stored;
    const newBias = repeatForGroup(graph, g.reshape(graph, causal, [1, 1, length, length]), group);
    const wide = (v: Value, keys: Dim): Value =>
      one(graph.emit('expand', [v], { shape: [batch, 1, rowsPerGroup, keys] }));
    return g.concat(graph, [wide(pastBias, past), wide(newBias, length)], 3);
  });
  const pastOf = options.kv === 'int8' ? int8Past : floatPast;
  const made: { name: string; value: Value }[] = [];
  const attend: Attend = (layer, q, k, v) => {
    const cached = pastOf(graph, layer, { batch, kvHeads, blocks, past, headDim });
    made.push({ name: `new_k_${layer}`, value: k }, { name: `new_v_${layer}`, value: v });
    const queries = g.reshape(graph, q, [batch, kvHeads, rowsPerGroup, headDim]);
    const fresh = g.matmul(graph, queries, k, { transB: true, alpha: headDim ** -0.5 });
    const scores = g.concat(graph, [cached.scores(queries), fresh], 3);
    const p = g.softmax(graph, g.add(graph, scores, bias));
    const [pPast, pNew] = g.split(graph, p, 3, [past, length]) as [Value, Value];
    const o = g.add(graph, cached.weighted(pPast), g.matmul(graph, pNew, v));
    return g.reshape(graph, o, [batch, heads, length, headDim]);
  };
  const features = options.images ? graph.input('image_features', 'f32', [symbol('F'), text.hidden]) : undefined;
  const x = mergedEmbeddings(w, config, ids_BS, features);
  const wanted = { keep: { rows: graph.input('rows', 'i64', [symbol('R')]) } };
  graph.output('logits', head(w, config, decoderStack(w, config, seq, x, positions_BS, attend, wanted)));
  for (const { name, value } of made) graph.output(name, value);
  return { graph, weights: declaredWeights(w) };
}
