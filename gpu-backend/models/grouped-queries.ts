import * as g from '../graph/builder.ts';
import { type Dim, mulDims } from '../graph/dim.ts';
import type { Graph, Value } from '../graph/graph.ts';

/** Repeats a bias [.., Q, K] for the G query heads of a group: [X, 1, Q, K] → [X, 1, G·Q, K]. */
export function repeatForGroup(graph: Graph, bias: Value, group: number): Value {
  if (group === 1) return bias;
  const [x, , q, k] = bias.shape as [Dim, Dim, Dim, Dim];
  const [expanded] = graph.emit('expand', [bias], { shape: [x, group, q, k] });
  if (expanded === undefined) throw new Error('expand has no output');
  return g.reshape(graph, expanded, [x, 1, mulDims(q, group), k]);
}
