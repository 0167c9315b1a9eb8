import type { Graph } from '../graph/graph.ts';
import { liveNodes } from '../graph/passes.ts';
import type { Tensor } from './session.ts';

/** Weights that are constants of a session. */
export interface Constants {
  /** Those of the given weights that the graph declares. */
  readonly declared: ReadonlyMap<string, Tensor>;
  /** Those among them that a result depends on; ONNX Runtime drops the others when it reads the model. */
  readonly used: ReadonlyMap<string, Tensor>;
}

/** @throws Error naming the first weight that is not what the graph declares */
export function constantsOf(graph: Graph, given: ReadonlyMap<string, Tensor> = new Map()): Constants {
  const read = new Set(liveNodes(graph).flatMap((node) => node.inputs.map(({ id }) => id)));
  for (const { value } of graph.outputs) read.add(value.id);
  const declared = new Map<string, Tensor>();
  const used = new Map<string, Tensor>();
  for (const { name, kind, value } of graph.inputs) {
    const tensor = given.get(name);
    if (tensor === undefined) continue;
    if (kind !== 'param') throw new Error(`input ${name} changes with every run, so it cannot be a constant`);
    if (tensor.dtype !== value.dtype || tensor.shape.join() !== value.shape.join())
      throw new Error(
        `weight ${name}: the graph declares ${value.dtype} [${value.shape}], got ${tensor.dtype} [${tensor.shape}]`,
      );
    declared.set(name, tensor);
    if (read.has(value.id)) used.set(name, tensor);
  }
  return { declared, used };
}
