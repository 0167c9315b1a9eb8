import { sameShape, showShape } from './dim.ts';
import type { Graph, Node, Value } from './graph.ts';
import type { OpName } from './ops/attrs.ts';
import { one } from './ops/infer.ts';
import type { OpRow } from './ops/row.ts';
import { OPS } from './ops/table.ts';

/** Values that depend on any of `sources`, following nodes forward. */
function dependents(nodes: readonly Node[], sources: readonly Value[]): Set<number> {
  const reached = new Set(sources.map((v) => v.id));
  for (const node of nodes)
    if (node.inputs.some((v) => reached.has(v.id))) for (const o of node.outputs) reached.add(o.id);
  return reached;
}

/**
 * Reverse-mode differentiation over the graph: appends the nodes that compute d(loss)/d(value) for each of `wrt` and
 * returns those values, in the order of `wrt`. `loss` must be a scalar ([]).
 *
 * Nodes inside a checkpoint region are emitted a second time when the walk reaches the region. The copies read their
 * inputs through `x + g[0]·zero`, where `zero` is a run-time input of value 0: without that dependence ONNX Runtime
 * would merge the copy with the original, or run it early, and nothing would be freed.
 *
 * @param zero f32 scalar data input; needed when the graph has checkpoint regions.
 * @throws when a wanted value does not influence the loss, or an op on the way has no gradient.
 */
export function gradients(graph: Graph, loss: Value, wrt: readonly Value[], zero?: Value): Value[] {
  if (!sameShape(loss.shape, [])) throw new Error(`gradients needs a scalar loss, got shape ${showShape(loss.shape)}`);
  const forward = [...graph.nodes];
  const active = dependents(forward, wrt);
  const byValue = new Map<number, Value>([[loss.id, graph.constant(Float32Array.of(1), [])]]);
  const accumulate = (target: Value, g: Value): void => {
    const before = byValue.get(target.id);
    byValue.set(target.id, before === undefined ? g : one(graph.emit('add', [before, g], {})));
  };

  const backpropagate = (node: Node): void => {
    const g = node.outputs[0] === undefined ? undefined : byValue.get(node.outputs[0].id);
    if (g === undefined) return;
    const wants = node.inputs.map((v) => active.has(v.id) && v.dtype === 'f32');
    if (!wants.some(Boolean)) return;
    const row = OPS[node.op] as OpRow<OpName>;
    if (row.grad === 'none')
      throw new Error(`${node.op} at ${node.scope} has no gradient, but the loss depends on a wanted value through it`);
    const grads = graph.scope(`d/${node.scope}`, () =>
      row.grad === 'none'
        ? []
        : row.grad({ graph, node, attrs: node.attrs, inputs: node.inputs, outputs: node.outputs, g, wants }),
    );
    grads.forEach((gi, i) => {
      const target = node.inputs[i];
      if (gi === undefined || target === undefined || !wants[i]) return;
      if (!sameShape(gi.shape, target.shape)) {
        throw new Error(
          `gradient rule of ${node.op} gives ${showShape(gi.shape)} for an input of shape ${showShape(target.shape)}`,
        );
      }
      accumulate(target, gi);
    });
  };

  for (let i = forward.length - 1; i >= 0; ) {
    const node = forward[i];
    if (node === undefined) break;
    if (node.region === -1) {
      backpropagate(node);
      i--;
      continue;
    }
    let start = i;
    while (start > 0 && forward[start - 1]?.region === node.region) start--;
    const segment = forward.slice(start, i + 1);
    for (const copy of recompute(graph, segment, byValue, active, zero)) backpropagate(copy);
    i = start - 1;
  }

  return wrt.map((v) => {
    const g = byValue.get(v.id);
    if (g === undefined)
      throw new Error(`value of shape ${showShape(v.shape)} does not influence the loss, so it has no gradient`);
    return g;
  });
}

/**
 * Emits a region's nodes again behind a gradient barrier and returns the copies in reverse order. Gradients that reached
 * the originals are handed to the copies; the copies of the region's inputs pass theirs on to the originals.
 */
function recompute(
  graph: Graph,
  segment: readonly Node[],
  byValue: Map<number, Value>,
  active: Set<number>,
  zero: Value | undefined,
): Node[] {
  if (zero === undefined)
    throw new Error('the graph has checkpoint regions; pass the run-time "zero" input to gradients()');
  const produced = new Set(segment.flatMap((n) => n.outputs.map((o) => o.id)));
  const incoming = segment
    .flatMap((n) => n.outputs)
    .map((o) => byValue.get(o.id))
    .find((g) => g !== undefined);
  if (incoming === undefined) return [];
  const region = segment[0]?.region ?? -1;
  const first = incoming.shape.reduce<Value>(
    (v, _d, axis) => one(graph.emit('slice', [v], { axis, start: 0, end: 1 })),
    incoming,
  );
  const barrier = one(graph.emit('mul', [one(graph.emit('reshape', [first], { shape: [] })), zero], {}));
  const replaced = new Map<number, Value>();
  const firstCopy = graph.nodes.length;
  for (const input of graph.regions[region]?.inputs ?? []) {
    if (input.dtype === 'f32') replaced.set(input.id, one(graph.emit('add', [input, barrier], {})));
  }
  for (const node of segment) {
    const outputs = graph.scope(`re/${node.scope}`, () =>
      graph.emit(
        node.op,
        node.inputs.map((v) => replaced.get(v.id) ?? v),
        node.attrs,
      ),
    );
    node.outputs.forEach((o, i) => {
      const copy = outputs[i];
      if (copy === undefined) return;
      replaced.set(o.id, copy);
      if (active.has(o.id)) active.add(copy.id);
      const g = byValue.get(o.id);
      if (g !== undefined && produced.has(o.id)) byValue.set(copy.id, g);
    });
  }
  for (const input of graph.regions[region]?.inputs ?? []) {
    const copy = replaced.get(input.id);
    if (copy !== undefined && active.has(input.id)) active.add(copy.id);
  }
  return graph.nodes.slice(firstCopy).reverse();
}
