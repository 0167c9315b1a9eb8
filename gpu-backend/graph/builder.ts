import { type Dim, type Shape, sameShape } from './dim.ts';
import type { DType, Graph, Value } from './graph.ts';
import type { OpAttrs } from './ops/attrs.ts';
import { one, scalar } from './ops/infer.ts';

/** Short forms over Graph.emit, as model code reads them. Every function adds nodes and returns a value; nothing runs. */

export const add = (g: Graph, a: Value, b: Value): Value => one(g.emit('add', [a, b], {}));
export const sub = (g: Graph, a: Value, b: Value): Value => one(g.emit('sub', [a, b], {}));
export const mul = (g: Graph, a: Value, b: Value): Value => one(g.emit('mul', [a, b], {}));
export const div = (g: Graph, a: Value, b: Value): Value => one(g.emit('div', [a, b], {}));
export const scale = (g: Graph, a: Value, factor: number): Value => mul(g, a, scalar(g, factor));
export const sqrt = (g: Graph, a: Value): Value => one(g.emit('sqrt', [a], {}));
/** x, as a constant to the gradients. */
export const stopGradient = (g: Graph, x: Value): Value => one(g.emit('stopGradient', [x], {}));
export const softmax = (g: Graph, x: Value): Value => one(g.emit('softmax', [x], {}));
export const silu = (g: Graph, x: Value): Value => one(g.emit('silu', [x], {}));
export const gelu = (g: Graph, x: Value, kind: OpAttrs['gelu']['kind']): Value => one(g.emit('gelu', [x], { kind }));
export const cast = (g: Graph, x: Value, to: DType): Value => (x.dtype === to ? x : one(g.emit('cast', [x], { to })));

/** No node when the shape is already right. */
export const reshape = (g: Graph, x: Value, shape: Shape): Value =>
  sameShape(x.shape, shape) ? x : one(g.emit('reshape', [x], { shape }));
export const transpose = (g: Graph, x: Value, perm: readonly number[]): Value =>
  one(g.emit('transpose', [x], { perm }));
export const concat = (g: Graph, xs: readonly Value[], axis: number): Value =>
  xs.length === 1 && xs[0] !== undefined ? xs[0] : one(g.emit('concat', xs, { axis }));
export const slice = (g: Graph, x: Value, axis: number, start: Dim, end: Dim): Value =>
  one(g.emit('slice', [x], { axis, start, end }));
/** Neighbouring parts of one axis; without a gradient. */
export const split = (g: Graph, x: Value, axis: number, sizes: readonly Dim[]): Value[] =>
  g.emit('split', [x], { axis, sizes });
export const gather = (g: Graph, data: Value, indices: Value): Value => one(g.emit('gather', [data, indices], {}));
/** Writes `updates` [N, …] over the rows `indices` [N] (distinct) of `data`. */
export const setRows = (g: Graph, data: Value, indices: Value, updates: Value): Value =>
  one(g.emit('scatterRows', [data, indices, updates], { mode: 'set' }));
export const reduceSum = (g: Graph, x: Value, axes: readonly number[], keepDims = false): Value =>
  one(g.emit('reduceSum', [x], { axes, keepDims }));
export const reduceMean = (g: Graph, x: Value, axes: readonly number[], keepDims = false): Value =>
  one(g.emit('reduceMean', [x], { axes, keepDims }));

/** Index [..] of the largest value of the last axis of x [.., V]. */
export const argmax = (g: Graph, x: Value): Value => one(g.emit('argmax', [x], {}));

/** alpha a bᵀ-style products over the last two axes; leading axes are equal. */
export const matmul = (g: Graph, a: Value, b: Value, attrs: Partial<OpAttrs['matmul']> = {}): Value =>
  one(g.emit('matmul', [a, b], { transA: false, transB: false, alpha: 1, ...attrs }));

/** y [N, out] = x [N, in] · weightᵀ (weight [out, in], the on-disk layout) + bias [out] (or any broadcastable addend). */
export const linear = (g: Graph, x: Value, weight: Value, bias?: Value): Value =>
  one(
    g.emit('gemm', bias === undefined ? [x, weight] : [x, weight, bias], {
      transA: false,
      transB: true,
      alpha: 1,
      beta: 1,
    }),
  );

/** The weight [rows, width] of codes and scales as in ops/planes.ts, in f32. */
export const dequantizePlanes = (g: Graph, codes: Value, scales: Value, attrs: OpAttrs['dequantizePlanes']): Value =>
  one(g.emit('dequantizePlanes', [codes, scales], attrs));

/** The same over a block-wise quantised weight: packed and scales as in ops/quantized.ts, bias [out]. */
export const linearNBits = (
  g: Graph,
  x: Value,
  packed: Value,
  scales: Value,
  attrs: OpAttrs['linearNBits'],
  bias?: Value,
): Value => one(g.emit('linearNBits', bias === undefined ? [x, packed, scales] : [x, packed, scales, bias], attrs));

/**
 * Linear with a low-rank update (Hu et al., 2021): x Wᵀ + scaling · (x Aᵀ) Bᵀ, A [r, in], B [out, r]. The base product is
 * the C operand of the last Gemm, so the sum costs nothing.
 */
export const loraLinear = (
  g: Graph,
  x: Value,
  weight: Value,
  a: Value,
  b: Value,
  scaling: number,
  bias?: Value,
): Value => {
  const base = linear(g, x, weight, bias);
  return one(g.emit('gemm', [linear(g, x, a), b, base], { transA: false, transB: true, alpha: scaling, beta: 1 }));
};

export const layerNorm = (g: Graph, x: Value, weight: Value, bias: Value, epsilon: number): Value =>
  one(g.emit('layerNorm', [x, weight, bias], { epsilon }));
export const rmsNorm = (g: Graph, x: Value, weight: Value, epsilon: number): Value =>
  one(g.emit('rmsNorm', [x, weight], { epsilon }));
export const rope = (g: Graph, x: Value, positions: Value, cos: Value, sin: Value): Value =>
  one(g.emit('rope', [x, positions, cos, sin], { inverse: false }));
/** softmax(scaleFactor q kᵀ + bias) v, all [B, H, ·, D]. */
export const attention = (g: Graph, q: Value, k: Value, v: Value, scaleFactor: number, bias?: Value): Value =>
  one(g.emit('attention', bias === undefined ? [q, k, v] : [q, k, v, bias], { scale: scaleFactor }));
/** Scalar Σ weights · cross-entropy of logits [R, V] against targets [R]. */
export const crossEntropy = (g: Graph, logits: Value, targets: Value, weights: Value): Value =>
  one(g.emit('crossEntropy', [logits, targets, weights], {}));
