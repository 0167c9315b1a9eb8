import { sameShape } from './dim.ts';
import type { Graph, Node, Value } from './graph.ts';

/** Nodes with some replaced by ops that do the work of several and give less: where nothing reads what is missing. */
export function fuseNodes(graph: Graph, nodes: readonly Node[]): readonly Node[] {
  const read = readValues(graph, nodes);
  return fuseAddNorms(graph, nodes, read).map((node) => {
    const [y, s] = node.outputs;
    if (!isOp(node, 'silu') || y === undefined || s === undefined || read.has(s.id)) return node;
    const alone: Node<'gelu'> = { ...node, op: 'gelu', attrs: { kind: 'silu' }, outputs: [y] };
    return alone;
  });
}

/** Ids of the values that some node or output of the graph reads. */
function readValues(graph: Graph, nodes: readonly Node[]): Set<number> {
  const read = new Set(graph.outputs.map(({ value }) => value.id));
  for (const { inputs } of nodes) for (const { id } of inputs) read.add(id);
  return read;
}

const isOp = <K extends Node['op']>(node: Node, op: K): node is Node<K> => node.op === op;

/**
 * Puts a residual sum and the rmsNorm that reads it into one `addRmsNorm`, in the place of the sum: one pass over the rows instead
 * of two. Not where a gradient reads the norm's invStd.
 */
function fuseAddNorms(graph: Graph, nodes: readonly Node[], read: ReadonlySet<number>): readonly Node[] {
  const given = new Set([...graph.inputs, ...graph.constants].map(({ value }) => value.id));
  const sums = new Map<number, Node<'add'>>();
  for (const node of nodes)
    if (isOp(node, 'add') && isMatrixSum(node)) for (const { id } of node.outputs) sums.set(id, node);
  /** The norm of each sum that has one. */
  const norms = new Map<Node, Node<'rmsNorm'>>();
  for (const node of nodes) {
    const [x, weight, invStd] = [node.inputs[0], node.inputs[1], node.outputs[1]];
    if (!isOp(node, 'rmsNorm') || x === undefined || weight === undefined || invStd === undefined) continue;
    const sum = sums.get(x.id);
    if (sum !== undefined && !norms.has(sum) && !read.has(invStd.id) && given.has(weight.id)) norms.set(sum, node);
  }
  if (norms.size === 0) return nodes;
  const fused = new Set<Node>(norms.values());
  return nodes
    .filter((node) => !fused.has(node))
    .map((node) => {
      const norm = norms.get(node);
      return norm === undefined ? node : addRmsNormOf(node, norm);
    });
}

function isMatrixSum({ inputs }: Node): boolean {
  const [a, b] = inputs;
  return a !== undefined && b !== undefined && a.dtype === 'f32' && a.shape.length === 2 && sameShape(a.shape, b.shape);
}

function addRmsNormOf(sum: Node, norm: Node<'rmsNorm'>): Node {
  const [y, weight] = [norm.outputs[0], norm.inputs[1]] as [Value, Value];
  const node: Node<'addRmsNorm'> = {
    op: 'addRmsNorm',
    attrs: norm.attrs,
    inputs: [...sum.inputs, weight],
    outputs: [y, ...sum.outputs],
    scope: norm.scope,
    region: sum.region,
  };
  return node;
}
