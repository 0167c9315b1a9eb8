import * as g from '../graph/builder.ts';
import { type Dim, mulDims } from '../graph/dim.ts';
import type { Graph, Value } from '../graph/graph.ts';
import type { DecoderConfig } from './config.ts';
import { repeatForGroup } from './grouped-queries.ts';
import type { Attend, PackedGroup, RopeTables, Sequence } from './llama.ts';
import type { Weights } from './weights.ts';

/** Rows whose output is wanted of a layer: what it does for the others ends with their keys and values. */
export interface Kept {
  /** [R] of the B·S rows, or of those of a packed row. */
  readonly rows: Value;
  /** Where R = E·Q, Q rows of each of the E sequences of a packed row of one group: attention is asked for these alone. */
  readonly queries?: KeptQueries;
}

export interface KeptQueries {
  /** Q. */
  readonly length: Dim;
  /** Of the rows that are kept. */
  readonly rope: RopeTables;
  /** Queries [E, H, Q, D] over keys and values [E, Hkv, L, D] → [E, H, Q, D]. */
  readonly attend: Attend;
}

/**
 * Attention of Q queries of each sequence.
 * @param bias [E, 1, Q, L]
 */
export function attendFrom(
  graph: Graph,
  { heads, kvHeads, headDim }: Pick<DecoderConfig, 'heads' | 'kvHeads' | 'headDim'>,
  bias: Value,
): Attend {
  const group = heads / kvHeads;
  const repeated = repeatForGroup(graph, bias, group);
  const [batch, , length] = bias.shape as [Dim, Dim, Dim, Dim];
  return (_layer, q, k, v) => {
    const queries = g.reshape(graph, q, [batch, kvHeads, mulDims(length, group), headDim]);
    const o = g.attention(graph, queries, k, v, headDim ** -0.5, repeated);
    return g.reshape(graph, o, [batch, heads, length, headDim]);
  };
}

/**
 * Attention outputs [E·Q, H·D] of rows that are kept.
 * @param queries [E, H, Q, D], rotated
 * @param keysAndValues of all places of the group, rotated: [E, Hkv, L, D] each
 */
export function attendKept(
  graph: Graph,
  { length, attend }: KeptQueries,
  layer: number,
  queries: Value,
  [keys, values]: readonly [Value, Value],
): Value {
  const o = attend(layer, queries, keys, values);
  const [batch, heads, , headDim] = o.shape as [Dim, number, Dim, number];
  return g.reshape(graph, g.transpose(graph, o, [0, 2, 1, 3]), [mulDims(batch, length), heads * headDim]);
}

/** The one group of a packed row. */
export function onlyGroup({ packed }: Sequence): PackedGroup {
  const [group, ...others] = packed?.groups ?? [];
  if (group === undefined || others.length > 0)
    throw new Error('queries are kept of sequences that are packed in one group');
  return group;
}

/** The weights, what attention gives and the residual [N, …] at rows that are kept alone; as they are where all are. */
export function keepRows(
  w: Weights,
  keep: Kept | undefined,
  merged: Value,
  x: Value,
): readonly [w: Weights, merged: Value, x: Value] {
  if (keep === undefined) return [w, merged, x];
  const { rows, queries } = keep;
  return [w.atRows(rows), queries === undefined ? g.gather(w.graph, merged, rows) : merged, g.gather(w.graph, x, rows)];
}
