import * as g from '../graph/builder.ts';
import { type Dim, mulDims } from '../graph/dim.ts';
import type { Graph, Value } from '../graph/graph.ts';
import { one } from '../graph/ops/infer.ts';
import type { PersimmonConfig } from './config.ts';
import { attendKept, type Kept, type KeptQueries, keepRows, onlyGroup } from './kept-rows.ts';
import { bySequence, type DecoderLayer, type RopeTables } from './llama.ts';
import type { Weights } from './weights.ts';

/** The four linear layers of a Persimmon block. */
export const PERSIMMON_LINEARS = ['query_key_value', 'dense', 'dense_h_to_4h', 'dense_4h_to_h'] as const;

function norm(w: Weights, text: PersimmonConfig, name: string, width: number, x: Value): Value {
  const [weight, bias] = [w.get(`${name}.weight`, [width]), w.get(`${name}.bias`, [width])];
  return g.layerNorm(w.graph, x, weight, bias, text.layerNormEpsilon);
}

/** relu(x)². */
const squaredRelu = (graph: Graph, x: Value): Value => one(graph.emit('squaredRelu', [x], {}));

/**
 * One Persimmon block over x [B·S, hidden] (Adept, 2023): LayerNorm, attention with one fused projection whose rows are
 * ordered (head, q|k|v, feature), LayerNorm of each head's query and key, rotation of the first features of a head,
 * LayerNorm, squared-ReLU MLP; all linear layers have biases.
 */
export const persimmonLayer: DecoderLayer<PersimmonConfig> = (all, text, seq, index, x, rope, attend, keep) => {
  const { graph } = all;
  const { hidden, heads, headDim } = text;
  const layer = `language_model.model.layers.${index}`;
  const attention = `${layer}.self_attn`;
  const h = norm(all, text, `${layer}.input_layernorm`, hidden, x);
  const wide = all.linear(h, `${attention}.query_key_value`, 3 * hidden, { bias: true });
  /** Of rows [batch·length, 3 hidden]: q, k or v as [batch, heads, length, headDim]. */
  const part = (rows: Value, batch: Dim, length: Dim, i: 0 | 1 | 2): Value => {
    const fused = g.reshape(graph, rows, [batch, length, heads, 3, headDim]);
    const byHead = g.transpose(graph, fused, [0, 2, 1, 3, 4]);
    return g.reshape(graph, g.slice(graph, byHead, 3, i, i + 1), [batch, heads, length, headDim]);
  };
  const rotated = (x: Value, name: string, at: RopeTables): Value => {
    const v = text.qkNorm ? norm(all, text, `${attention}.${name}_layernorm`, headDim, x) : x;
    return g.rope(graph, v, at.positions_BS, at.cos, at.sin);
  };
  const ofKept = ({ rows }: Kept, queries: KeptQueries): Value => {
    const group = onlyGroup(seq);
    const q = part(g.gather(graph, wide, rows), group.batch, queries.length, 0);
    const places = g.gather(graph, wide, group.rows);
    const [k, v] = ([1, 2] as const).map((i) => part(places, group.batch, group.length, i)) as [Value, Value];
    const keys = rotated(k, 'k', group.rope);
    return attendKept(graph, queries, index, rotated(q, 'q', queries.rope), [keys, v]);
  };
  const ofAll = (): Value =>
    bySequence(graph, seq, rope, attend, [wide], ([rows], { batch, length, rope: at, attend: attendTo }) => {
      const [q, k, v] = ([0, 1, 2] as const).map((i) => part(rows as Value, batch, length, i)) as [Value, Value, Value];
      const o = attendTo(index, rotated(q, 'q', at), rotated(k, 'k', at), v);
      return g.reshape(graph, g.transpose(graph, o, [0, 2, 1, 3]), [mulDims(batch, length), heads * headDim]);
    });
  const merged = keep?.queries === undefined ? ofAll() : ofKept(keep, keep.queries);
  const [w, kept, residual] = keepRows(all, keep, merged, x);
  const y = w.linear(kept, `${attention}.dense`, hidden, { bias: true, residual });
  const m = norm(w, text, `${layer}.post_attention_layernorm`, hidden, y);
  const up = w.linear(m, `${layer}.mlp.dense_h_to_4h`, text.intermediate, { bias: true });
  return w.linear(squaredRelu(graph, up), `${layer}.mlp.dense_4h_to_h`, hidden, { bias: true, residual: y });
};

/** Final LayerNorm of Persimmon: h [R, hidden] → [R, hidden]. */
export function finalLayerNorm(w: Weights, text: PersimmonConfig, h: Value): Value {
  return norm(w, text, 'language_model.model.final_layernorm', text.hidden, h);
}
