import * as g from '../graph/builder.ts';
import { addDims, symbol } from '../graph/dim.ts';
import { Graph, type Value } from '../graph/graph.ts';
import { LoopGraph } from '../graph/loop.ts';
import { scalar } from '../graph/ops/infer.ts';
import type { VlmConfig } from './config.ts';
import { hasPastWindow, pastWindowBias } from './decode.ts';
import { repeatForGroup } from './grouped-queries.ts';
import type { Attend } from './llama.ts';
import { declaredWeights, decoderStack, head, mergedEmbeddings } from './vlm.ts';
import { type LoraSpec, Weights } from './weights.ts';

export interface DecodeLoop {
  readonly loop: LoopGraph;
  /** Canonical name → static shape. */
  readonly weights: ReadonlyMap<string, readonly number[]>;
}

/**
 * Greedy decoding of several tokens in one run. A provider whose tensors cannot stay on the device between runs (CUDA, in
 * onnxruntime-node) gets every input anew with each: here the past crosses once for all the tokens of a run, and the keys and
 * values of the new tokens are carried from one to the next where they are made.
 *
 * Inputs, B rows, T past tokens: `steps` [] i64, most tokens; `ids` [B, 1], the last token of each row, not yet in the cache;
 * `positions` [B, 1] of it; `alive` [B] f32, 1 or 0; `stops` [V] f32, 1 for ids that end an answer; `fresh_k_i`, `fresh_v_i`
 * [B, Hkv, 0, headDim], empty; `past_bias`, `past_k_i`, `past_v_i` as decodeGraph takes them, T ≥ 1; `past_positions` [B, T] where
 * hasPastWindow(config), and then `steps` must not exceed the window; all weights.
 *
 * Outputs, N tokens, N = steps or fewer when every row has stopped: `tokens` [N, B]; `new_k_i`, `new_v_i` [B, Hkv, N, headDim] of
 * the tokens that were fed (the last of `tokens` is not in the cache, as with single steps); `next_ids`, `next_positions` [B, 1],
 * `still_alive` [B]. A row that has stopped goes on in the batch: what it gives after its stop token means nothing.
 */
export function decodeLoop(config: VlmConfig, options: { readonly lora?: LoraSpec } = {}): DecodeLoop {
  const graph = new Graph();
  const { heads, kvHeads, headDim, vocab } = config.text;
  const group = heads / kvHeads;
  const [batch, past, made] = [symbol('B'), symbol('T'), symbol('M')];
  const ids_B1 = graph.input('ids', 'i64', [batch, 1]);
  const positions_B1 = graph.input('positions', 'i64', [batch, 1]);
  const alive_B = graph.input('alive', 'f32', [batch]);
  const stops_V = graph.input('stops', 'f32', [vocab]);
  const stored = graph.input('past_bias', 'f32', [batch, 1, 1, past]);
  const pastBias = hasPastWindow(config)
    ? repeatForGroup(graph, pastWindowBias(graph, config, stored, positions_B1), group)
    : stored;
  const carried = new Map([
    ['next_ids', 'ids'],
    ['next_positions', 'positions'],
    ['still_alive', 'alive'],
  ]);
  const grown: { name: string; value: Value }[] = [];
  const attend: Attend = (layer, q, k, v) => {
    const pastOf = (kind: 'k' | 'v'): Value =>
      graph.input(`past_${kind}_${layer}`, 'f32', [batch, kvHeads, past, headDim]);
    const growing = (kind: 'k' | 'v', now: Value): Value => {
      const before = graph.input(`fresh_${kind}_${layer}`, 'f32', [batch, kvHeads, made, headDim]);
      const value = g.concat(graph, [before, now], 2);
      grown.push({ name: `new_${kind}_${layer}`, value });
      carried.set(`new_${kind}_${layer}`, `fresh_${kind}_${layer}`);
      return value;
    };
    const [pastK, pastV, freshK, freshV] = [pastOf('k'), pastOf('v'), growing('k', k), growing('v', v)];
    const queries = g.reshape(graph, q, [batch, kvHeads, group, headDim]);
    const product = { transB: true, alpha: headDim ** -0.5 };
    // What this run has made lies before the query: nothing of it is masked.
    const scores = g.concat(
      graph,
      [g.add(graph, g.matmul(graph, queries, pastK, product), pastBias), g.matmul(graph, queries, freshK, product)],
      3,
    );
    const p = g.softmax(graph, scores);
    const all = addDims(past, addDims(made, 1));
    const o = g.add(
      graph,
      g.matmul(graph, g.slice(graph, p, 3, 0, past), pastV),
      g.matmul(graph, g.slice(graph, p, 3, past, all), freshV),
    );
    return g.reshape(graph, o, [batch, heads, 1, headDim]);
  };
  const w = new Weights(graph, options.lora);
  const x = mergedEmbeddings(w, config, ids_B1, undefined);
  const h = decoderStack(w, config, { batch, length: 1 }, x, positions_B1, attend);
  const tokens_B = g.argmax(graph, head(w, config, h));
  const going_B = g.mul(graph, alive_B, g.sub(graph, scalar(graph, 1), g.gather(graph, stops_V, tokens_B)));
  graph.output('tokens', tokens_B);
  graph.output('next_ids', g.reshape(graph, tokens_B, [batch, 1]));
  // Positions are far below 2^24, where f32 counts exactly; the op set adds no integers.
  const nextPosition = g.add(graph, g.cast(graph, positions_B1, 'f32'), scalar(graph, 1));
  graph.output('next_positions', g.cast(graph, nextPosition, 'i64'));
  graph.output('still_alive', going_B);
  graph.output('going', g.cast(graph, g.reduceSum(graph, going_B, [0]), 'bool'));
  for (const { name, value } of grown) graph.output(name, value);
  return { loop: new LoopGraph(graph, carried, ['tokens'], 'going'), weights: declaredWeights(w) };
}
