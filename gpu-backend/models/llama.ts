import * as g from '../graph/builder.ts';
import { type Dim, mulDims } from '../graph/dim.ts';
import type { Graph, Value } from '../graph/graph.ts';
import type { DecoderConfig, TextConfig } from './config.ts';
import { repeatForGroup } from './grouped-queries.ts';
import { attendKept, type Kept, type KeptQueries, keepRows, onlyGroup } from './kept-rows.ts';
import { toHeads, type Weights } from './weights.ts';

/** Additive attention bias of a pair that must not attend: far below any score, yet finite. */
export const MASKED = -1e9;

/** Longest rotary table that is built into a graph, positions. */
const MAX_TABLE_POSITIONS = 32768;

export interface RopeTables {
  readonly positions_BS: Value;
  readonly cos: Value;
  readonly sin: Value;
}

/** Positions that graphs of this decoder take: what it was made for, as far as the rotary tables reach. */
export function contextTokens({ maxPositions }: Pick<DecoderConfig, 'maxPositions'>): number {
  return Math.min(maxPositions, MAX_TABLE_POSITIONS);
}

export const ropeTables = (graph: Graph, text: DecoderConfig, positions_BS: Value): RopeTables => ({
  positions_BS,
  ...rotations(graph, text),
});

/** cos and sin of position · θ^(-2i/D) as constants [P, D/2], D the rotated features, P = min(maxPositions, 32768). */
export function rotations(graph: Graph, text: DecoderConfig): Pick<RopeTables, 'cos' | 'sin'> {
  const count = contextTokens(text);
  const half = (text.rotaryDim ?? text.headDim) / 2;
  const cos = new Float32Array(count * half);
  const sin = new Float32Array(count * half);
  for (let i = 0; i < half; i++) {
    // Rounded to f32 where Hugging Face rounds: the frequency, then the angle.
    const frequency = Math.fround(1 / Math.fround(text.ropeTheta ** (i / half)));
    for (let p = 0; p < count; p++) {
      const angle = Math.fround(p * frequency);
      cos[p * half + i] = Math.cos(angle);
      sin[p * half + i] = Math.sin(angle);
    }
  }
  return { cos: graph.constant(cos, [count, half]), sin: graph.constant(sin, [count, half]) };
}

export interface Sequence {
  readonly batch: Dim;
  /** S, the padded length of every row; S = blocks · blockLength. */
  readonly length: Dim;
  /** Present where the B·S rows are examples one behind the other, none of which sees another. */
  readonly packed?: Packed;
}

/** How one decoder layer turns queries, keys and values [B, heads, S, D] into attention outputs [B, H, S, D]. */
export type Attend = (layer: number, q: Value, k: Value, v: Value) => Value;

/** Examples of a packed row that attend together, each filled up to the longest among them: E examples of L positions. */
export interface PackedGroup {
  readonly batch: Dim;
  readonly length: Dim;
  /** [E·L] row of the packed row that stands at each place; any where an example is filled up. */
  readonly rows: Value;
  readonly rope: RopeTables;
  readonly attend: Attend;
}

/**
 * Examples without padding, one behind the other, in T rows. Everything but attention works row by row; attention works on groups
 * of examples of about the same length, so that its cost is that of the examples and not of the row. This is the block-diagonal
 * causal mask with its empty blocks left out.
 */
export interface Packed {
  readonly groups: readonly PackedGroup[];
  /** [T] place of each row among the E·L of the first group, of the second, … */
  readonly places: Value;
}

/**
 * Attention of a layer over what it needs of its rows.
 * @param inputs [B·S, …] each
 * @param body from rows of equally long sequences, [batch·length, …] each, to their outputs [batch·length, …]
 */
export function bySequence(
  graph: Graph,
  seq: Sequence,
  rope: RopeTables,
  attend: Attend,
  inputs: readonly Value[],
  body: (inputs: readonly Value[], part: Pick<PackedGroup, 'batch' | 'length' | 'rope' | 'attend'>) => Value,
): Value {
  const { packed } = seq;
  if (packed === undefined) return body(inputs, { batch: seq.batch, length: seq.length, rope, attend });
  // Places where an example is filled up are read by nobody, so they have no gradient either.
  const outputs = packed.groups.map((group) =>
    body(
      inputs.map((x) => g.gather(graph, x, group.rows)),
      group,
    ),
  );
  return g.gather(graph, g.concat(graph, outputs, 0), packed.places);
}

/**
 * Causal self-attention in query blocks: block i of n attends keys 0 … (i+1)·C only, so half of the scores are never
 * computed. Grouped queries are views [B, Hkv, G·C, D]; keys and values are not repeated.
 *
 * `causalBias` [C, n·C]: zeros, and a triangle in the last C columns; block i reads its last (i+1)·C columns.
 * `keyBias` [B, 1, 1, S]: 0 or -1e9 per key, for padded rows.
 */
export function causalAttend(
  graph: Graph,
  text: Pick<DecoderConfig, 'heads' | 'kvHeads' | 'headDim'>,
  seq: Sequence,
  blocks: number,
  blockLength: Dim,
  causalBias: Value,
  keyBias: Value | undefined,
  checkpoint: boolean,
): Attend {
  const { heads, kvHeads, headDim } = text;
  const group = heads / kvHeads;
  const width = mulDims(blockLength, blocks);
  const biases = graph.scope('mask', () => {
    const tiled = repeatForGroup(graph, g.reshape(graph, causalBias, [1, 1, blockLength, width]), group);
    return Array.from({ length: blocks }, (_, i) => {
      const seen = mulDims(blockLength, i + 1);
      const causal = blocks === 1 ? tiled : g.slice(graph, tiled, 3, mulDims(blockLength, blocks - 1 - i), width);
      if (keyBias === undefined) return causal;
      return g.add(graph, causal, blocks === 1 ? keyBias : g.slice(graph, keyBias, 3, 0, seen));
    });
  });
  const attendAll = (q: Value, k: Value, v: Value): Value => {
    const outputs = biases.map((bias, i) => {
      const seen = mulDims(blockLength, i + 1);
      const part = (x: Value, from: Dim, to: Dim): Value => (blocks === 1 ? x : g.slice(graph, x, 2, from, to));
      const queries = g.reshape(graph, part(q, mulDims(blockLength, i), seen), [
        seq.batch,
        kvHeads,
        mulDims(blockLength, group),
        headDim,
      ]);
      const isLast = i === blocks - 1;
      const o = g.attention(
        graph,
        queries,
        isLast ? k : part(k, 0, seen),
        isLast ? v : part(v, 0, seen),
        headDim ** -0.5,
        bias,
      );
      return g.reshape(graph, o, [seq.batch, heads, blockLength, headDim]);
    });
    return g.concat(graph, outputs, 2);
  };
  return (_layer, q, k, v) => (checkpoint ? graph.checkpoint([q, k, v], () => attendAll(q, k, v)) : attendAll(q, k, v));
}

/**
 * One decoder layer over x [B·S, hidden].
 * @param keep R rows whose output is wanted → [R, hidden]
 */
export type DecoderLayer<T extends DecoderConfig> = (
  w: Weights,
  text: T,
  seq: Sequence,
  index: number,
  x: Value,
  rope: RopeTables,
  attend: Attend,
  keep?: Kept,
) => Value;

const named = (names: readonly string[], sizes: readonly number[]): (readonly [string, number])[] =>
  names.map((name, i) => [name, sizes[i] ?? 0]);

/** Query, key and value of a layer side by side over h [N, hidden] → [N, (H + 2 Hkv) D]. Only of weights that are joined. */
export function joinedQkv(w: Weights, { heads, kvHeads, headDim }: TextConfig, layer: string, h: Value): Value {
  const outs = [heads, kvHeads, kvHeads].map((count) => count * headDim);
  return w.joined(h, `${layer}.self_attn`, named(['q_proj', 'k_proj', 'v_proj'], outs));
}

/**
 * One Llama or Mistral block over x [N, hidden] around its attention: RMSNorm, attention, RMSNorm, SwiGLU.
 * @param attention from normed rows [N, hidden] to joined heads [N, H·D], before the output projection
 * @param keep R rows whose output is wanted → [R, hidden]
 */
export function llamaBlock(
  all: Weights,
  { hidden, intermediate, rmsNormEpsilon }: TextConfig,
  layer: string,
  x: Value,
  attention: (h: Value) => Value,
  keep?: Kept,
): Value {
  const { graph } = all;
  const norm = (v: Value, name: string): Value =>
    g.rmsNorm(graph, v, all.get(`${layer}.${name}.weight`, [hidden]), rmsNormEpsilon);
  const merged = attention(norm(x, 'input_layernorm'));
  const [w, kept, residual] = keepRows(all, keep, merged, x);
  const y = w.linear(kept, `${layer}.self_attn.o_proj`, hidden, { residual });
  const m = norm(y, 'post_attention_layernorm');
  const sizes = [intermediate, intermediate];
  const [gate, up] = (
    w.joins
      ? g.split(graph, w.joined(m, `${layer}.mlp`, named(['gate_proj', 'up_proj'], sizes)), 1, sizes)
      : ['gate_proj', 'up_proj'].map((name) => w.linear(m, `${layer}.mlp.${name}`, intermediate))
  ) as [Value, Value];
  return w.linear(g.mul(graph, g.silu(graph, gate), up), `${layer}.mlp.down_proj`, hidden, { residual: y });
}

export const layerName = (index: number): string => `language_model.model.layers.${index}`;

/** One Llama or Mistral block over x [B·S, hidden] with rotary grouped-query attention. */
export function llamaLayer(
  w: Weights,
  text: TextConfig,
  seq: Sequence,
  index: number,
  x: Value,
  rope: RopeTables,
  attend: Attend,
  keep?: Kept,
): Value {
  const { graph } = w;
  const { heads, kvHeads, headDim } = text;
  const layer = layerName(index);
  const project = (h: Value, name: 'q_proj' | 'k_proj' | 'v_proj'): Value =>
    w.linear(h, `${layer}.self_attn.${name}`, (name === 'q_proj' ? heads : kvHeads) * headDim);
  const ofKept = (h: Value, { rows }: Kept, queries: KeptQueries): Value => {
    const group = onlyGroup(seq);
    const q = toHeads(graph, project(g.gather(graph, h, rows), 'q_proj'), group.batch, queries.length, heads, headDim);
    const [k, v] = (['k_proj', 'v_proj'] as const).map((name) =>
      toHeads(graph, g.gather(graph, project(h, name), group.rows), group.batch, group.length, kvHeads, headDim),
    ) as [Value, Value];
    const rotate = (x: Value, at: RopeTables): Value => g.rope(graph, x, at.positions_BS, at.cos, at.sin);
    return attendKept(graph, queries, index, rotate(q, queries.rope), [rotate(k, group.rope), v]);
  };
  const attention = (h: Value): Value => {
    if (keep?.queries !== undefined) return ofKept(h, keep, keep.queries);
    const wide = w.joins
      ? [joinedQkv(w, text, layer, h)]
      : (['q_proj', 'k_proj', 'v_proj'] as const).map((name) => project(h, name));
    return bySequence(graph, seq, rope, attend, wide, (inputs, part) => {
      const toParts = (v: Value, count: number): Value => toHeads(graph, v, part.batch, part.length, count, headDim);
      const rotate = (v: Value): Value => g.rope(graph, v, part.rope.positions_BS, part.rope.cos, part.rope.sin);
      const ofOne = (all: Value): Value[] => {
        const [qk, v] = g.split(graph, toParts(all, heads + 2 * kvHeads), 1, [heads + kvHeads, kvHeads]) as [
          Value,
          Value,
        ];
        return [...g.split(graph, rotate(qk), 1, [heads, kvHeads]), v];
      };
      const [a, b, c] = inputs as [Value, Value, Value];
      const [q, k, v] = (
        w.joins ? ofOne(a) : [rotate(toParts(a, heads)), rotate(toParts(b, kvHeads)), toParts(c, kvHeads)]
      ) as [Value, Value, Value];
      const o = part.attend(index, q, k, v);
      const rows = mulDims(part.batch, part.length);
      return g.reshape(graph, g.transpose(graph, o, [0, 2, 1, 3]), [rows, heads * headDim]);
    });
  };
  return llamaBlock(w, text, layer, x, attention, keep);
}

const EMBED = 'language_model.model.embed_tokens';

/** Token embeddings: ids [B, S] → [B·S, hidden]. */
export function embedTokens(w: Weights, text: DecoderConfig, ids_BS: Value): Value {
  const { graph } = w;
  const [batch, length] = ids_BS.shape as [Dim, Dim];
  return graph.scope('embed', () =>
    w.rows(`${EMBED}.weight`, [text.vocab, text.hidden], g.reshape(graph, ids_BS, [mulDims(batch, length)])),
  );
}

export interface DecoderOptions {
  /** What a layer computes is computed again in the backward pass, instead of being kept. Default false. */
  readonly checkpoint?: boolean;
  /** Rows that are wanted of the last layer. Default: all. */
  readonly keep?: Kept;
}

/** All decoder layers over embeddings x [B·S, hidden] → [B·S, hidden], or [R, hidden] of rows that are kept. */
export function decoder<T extends DecoderConfig>(
  layer: DecoderLayer<T>,
  w: Weights,
  text: T,
  seq: Sequence,
  x: Value,
  rope: RopeTables,
  attend: Attend,
  { checkpoint = false, keep }: DecoderOptions = {},
): Value {
  const { graph } = w;
  if (text.layers === 0 && keep !== undefined) return g.gather(graph, x, keep.rows);
  let h = x;
  for (let i = 0; i < text.layers; i++) {
    const input = h;
    const body = (): Value => layer(w, text, seq, i, input, rope, attend, i === text.layers - 1 ? keep : undefined);
    h = graph.scope(`layer${i}`, () => (checkpoint ? graph.checkpoint([input], body) : body()));
  }
  return h;
}

/** Final norm of Llama and Mistral: h [R, hidden] → [R, hidden]. */
export function finalRmsNorm(w: Weights, text: TextConfig, h: Value): Value {
  return g.rmsNorm(w.graph, h, w.get('language_model.model.norm.weight', [text.hidden]), text.rmsNormEpsilon);
}

/** Output head over normed rows: x [R, hidden] → logits [R, vocab]. */
export function outputHead(w: Weights, text: DecoderConfig, x: Value): Value {
  return w.linear(x, text.tiedHead ? EMBED : 'language_model.lm_head', text.vocab, { part: 'head' });
}
