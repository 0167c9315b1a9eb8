import { evaluateDim } from '../graph/dim.ts';
import type { Graph } from '../graph/graph.ts';
import { type NdArray, nd } from '../graph/nd.ts';
import type { OpName } from '../graph/ops/attrs.ts';
import type { OpRow } from '../graph/ops/row.ts';
import { OPS } from '../graph/ops/table.ts';

/**
 * Runs a graph node by node with each row's reference value, in double precision: slow, and the definition of truth
 * that the ONNX lowerings are tested against. Runs without native code.
 */
export function interpret(graph: Graph, feeds: Readonly<Record<string, NdArray>>): Record<string, NdArray> {
  const values = new Map<number, NdArray>();
  const sizes = new Map<string, number>();
  for (const input of graph.inputs) {
    const fed = feeds[input.name];
    if (fed === undefined) throw new Error(`feed "${input.name}" is missing`);
    values.set(input.value.id, fed);
  }
  for (const [symbolName, { input, axis }] of graph.symbolSources()) {
    sizes.set(symbolName, values.get(input.value.id)?.shape[axis] ?? 0);
  }
  const resolve = (dim: Parameters<typeof evaluateDim>[0]): number => evaluateDim(dim, sizes);
  for (const input of graph.inputs) {
    const got = values.get(input.value.id)?.shape ?? [];
    const want = input.value.shape.map(resolve);
    if (got.join() !== want.join())
      throw new Error(`feed "${input.name}" has shape [${got}], the graph expects [${want}]`);
  }
  for (const c of graph.constants)
    values.set(c.value.id, nd(c.value.shape as number[], Float64Array.from(c.data as ArrayLike<number>, Number)));
  for (const node of graph.nodes) {
    const inputs = node.inputs.map((v) => {
      const x = values.get(v.id);
      if (x === undefined) throw new Error(`%${v.id} is used before it is computed`);
      return x;
    });
    const outputs = (OPS[node.op] as OpRow<OpName>).reference(inputs, node.attrs, resolve);
    node.outputs.forEach((o, i) => {
      const x = outputs[i];
      const want = o.shape.map(resolve);
      if (x === undefined || x.shape.join() !== want.join())
        throw new Error(`${node.op}: reference gives [${x?.shape}], the shape rule [${want}]`);
      values.set(o.id, x);
    });
  }
  return Object.fromEntries(
    graph.outputs.map(({ name, value }) => {
      const x = values.get(value.id);
      if (x === undefined) throw new Error(`output "${name}" was not computed`);
      return [name, x];
    }),
  );
}
