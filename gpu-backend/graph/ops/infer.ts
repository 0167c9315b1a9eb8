import { broadcastShapes, dimKey, type Shape, sameDim, showShape } from '../dim.ts';
import type { DType, Graph, Node, TensorType, Value } from '../graph.ts';

/** Helpers that op rows share: argument checks and gradient plumbing. */

export function arg<T>(inputs: readonly T[], index: number, name: string): T {
  const value = inputs[index];
  if (value === undefined) throw new Error(`input ${index} (${name}) is missing`);
  return value;
}

export function expectDtype(t: TensorType, dtype: DType, name: string): void {
  if (t.dtype !== dtype) throw new Error(`${name} must be ${dtype}, got ${t.dtype}`);
}

export function expectRank(t: TensorType, rank: number, name: string): void {
  if (t.shape.length !== rank) throw new Error(`${name} must have ${rank} axes, got ${showShape(t.shape)}`);
}

export function expectSame(a: Shape[number] | undefined, b: Shape[number] | undefined, what: string): void {
  if (a === undefined || b === undefined || !sameDim(a, b)) {
    throw new Error(
      `${what}: ${a === undefined ? 'nothing' : dimKey(a)} and ${b === undefined ? 'nothing' : dimKey(b)} differ`,
    );
  }
}

/** Replaces the size of one axis. */
export function withAxis(shape: Shape, axis: number, size: Shape[number]): Shape {
  return shape.map((d, i) => (i === axis ? size : d));
}

/** Gradient of a broadcast: sums `g` down to `shape`. */
export function unbroadcast(graph: Graph, g: Value, shape: Shape): Value {
  let out = g;
  const lead = out.shape.length - shape.length;
  if (lead > 0) {
    out = arg(
      graph.emit('reduceSum', [out], { axes: Array.from({ length: lead }, (_, i) => i), keepDims: false }),
      0,
      'sum',
    );
  }
  const axes = shape.flatMap((d, i) => (d === 1 && out.shape[i] !== 1 ? [i] : []));
  if (axes.length > 0) out = arg(graph.emit('reduceSum', [out], { axes, keepDims: true }), 0, 'sum');
  return out;
}

export function broadcastType(a: TensorType, b: TensorType): TensorType[] {
  if (a.dtype !== b.dtype) throw new Error(`operands must have one type, got ${a.dtype} and ${b.dtype}`);
  return [{ dtype: a.dtype, shape: broadcastShapes(a.shape, b.shape) }];
}

/** Emits a single-output node. */
export function one(values: readonly Value[]): Value {
  return arg(values, 0, 'output');
}

/** Whether a node widens a weight from how it is stored, by op and types alone. */
export function widensWeight(node: Node): boolean {
  return node.op === 'dequantizePlanes' || (node.op === 'cast' && node.inputs[0]?.dtype === 'f16');
}

/**
 * A weight for another use far from the first: one that is stored in fewer bits is widened again. Kept, it would take the memory of
 * f32 from the forward to the backward pass.
 */
export function widenedAgain(graph: Graph, weight: Value): Value {
  const node = graph.producerOf(weight);
  if (node === undefined || !widensWeight(node)) return weight;
  if (node.inputs.some((v) => graph.producerOf(v) !== undefined)) return weight;
  return one(graph.emit(node.op, node.inputs, node.attrs));
}

/** An f32 scalar literal. */
export function scalar(graph: Graph, value: number): Value {
  return graph.constant(Float32Array.of(value), []);
}
