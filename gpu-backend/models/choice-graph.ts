import { mulDims, symbol } from '../graph/dim.ts';
import { Graph } from '../graph/graph.ts';
import type { VlmConfig } from './config.ts';
import { attendFrom } from './kept-rows.ts';
import { declaredWeights, decoderStack, head, type ModelGraph, mergedEmbeddings, packedInputs } from './vlm.ts';
import { Weights } from './weights.ts';

/**
 * Logits at few places of many sequences that begin alike: what they share is computed once, and the last layer works for the places
 * that are read.
 *
 * Inputs: `ids` [1, T], the distinct rows; E sequences of L places, filled up on the right: `group_rows.0` [E·L] the row at each
 * place, `group_positions.0` [E, L], `group_bias.0` [L, L] (see causalBias), `places` [T] one place of each row; Q places read of each
 * sequence: `reads` [E·Q] their rows, `read_positions` [E, Q], `read_bias` [E, 1, Q, L] (0 = seen, -1e9 = not); with images
 * `image_features` [F, D] and `image_rows` [F] of the T. Weights under their canonical names.
 * Output: `logits` [E·Q, V].
 */
export function choiceGraph(config: VlmConfig, options: { readonly images: boolean }): ModelGraph {
  const graph = new Graph();
  const w = new Weights(graph);
  const { seq, ids_BS, positions_BS, attend } = packedInputs(graph, config, [1], false);
  const features = options.images ? graph.input('image_features', 'f32', [symbol('F'), config.text.hidden]) : undefined;
  const x = mergedEmbeddings(w, config, ids_BS, features);
  const [{ batch, length, rope }] = seq.packed!.groups as [NonNullable<typeof seq.packed>['groups'][number]];
  const count = symbol('Q');
  const rows = graph.input('reads', 'i64', [mulDims(batch, count)]);
  const queries = {
    length: count,
    rope: { ...rope, positions_BS: graph.input('read_positions', 'i64', [batch, count]) },
    attend: attendFrom(graph, config.text, graph.input('read_bias', 'f32', [batch, 1, count, length])),
  };
  const h = decoderStack(w, config, seq, x, positions_BS, attend, { keep: { rows, queries } });
  graph.output('logits', head(w, config, h));
  return { graph, weights: declaredWeights(w) };
}
