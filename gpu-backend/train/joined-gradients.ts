import * as g from '../graph/builder.ts';
import { productOf } from '../graph/dim.ts';
import type { Graph, Value } from '../graph/graph.ts';
import { GRADIENT_PREFIX, JOINED_GRADIENTS } from './gradient-run.ts';

/** Inputs of one concatenation; WebGPU guarantees a shader eight storage buffers, one of which is written. */
const FAN_IN = 7;

/**
 * Joins the gradients of a training graph into one output, `gradients`. Each output that comes back from an accelerator is a round
 * trip of its own: over WebGPU on a Hopper card 1.1 ms, so that the 91 gradients of nano took as long as all kernels of a run.
 * @returns names of the parameters in the order of their gradients
 * @throws Error when a gradient has a shape that is not known before the run
 */
export function joinGradients(graph: Graph): string[] {
  const gradients = graph.outputs.filter(({ name }) => name.startsWith(GRADIENT_PREFIX));
  const rest = graph.outputs.filter(({ name }) => !name.startsWith(GRADIENT_PREFIX));
  let values: Value[] = gradients.map(({ name, value }) => {
    const elements = productOf(value.shape);
    if (typeof elements !== 'number') throw new Error(`${name} has no fixed shape, so it cannot be joined with others`);
    return g.reshape(graph, value, [elements]);
  });
  while (values.length > 1) {
    const parts = Array.from({ length: Math.ceil(values.length / FAN_IN) }, (_, i) =>
      values.slice(i * FAN_IN, (i + 1) * FAN_IN),
    );
    values = parts.map((part) => g.concat(graph, part, 0));
  }
  const [joined] = values;
  graph.outputs.splice(0, graph.outputs.length, ...rest);
  if (joined !== undefined) graph.output(JOINED_GRADIENTS, joined);
  return gradients.map(({ name }) => name.slice(GRADIENT_PREFIX.length));
}
