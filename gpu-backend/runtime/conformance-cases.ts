/** One row per situation an op must be right in; shared by the finite-difference and the ONNX Runtime parity tests. */

import { addDims, mulDims, type Shape, symbol } from '../graph/dim.ts';
import type { DType, Graph, Value } from '../graph/graph.ts';
import type { OpAttrs, OpName } from '../graph/ops/attrs.ts';

export interface OperandSpec {
  readonly dtype: DType;
  /** Declared shape, possibly symbolic. */
  readonly shape: Shape;
  /** Values: real (default), positive, or integers from 0 or another to below a bound; `distinct` integers never repeat. */
  readonly values?:
    | 'real'
    | 'positive'
    | { readonly below: number; readonly from?: number; readonly distinct?: boolean };
}

export interface OpCase<K extends OpName = OpName> {
  readonly op: K;
  readonly name: string;
  readonly attrs: OpAttrs[K];
  readonly inputs: readonly OperandSpec[];
}

const B = symbol('B');
const S = symbol('S');
/** Sizes the symbols of the cases take in the tests. */
export const SIZES = new Map([
  ['B', 2],
  ['S', 3],
]);

const real = (...shape: Shape): OperandSpec => ({ dtype: 'f32', shape });
const positive = (...shape: Shape): OperandSpec => ({ dtype: 'f32', shape, values: 'positive' });
const index = (below: number, ...shape: Shape): OperandSpec => ({ dtype: 'i64', shape, values: { below } });
const distinct = (below: number, ...shape: Shape): OperandSpec => ({
  dtype: 'i64',
  shape,
  values: { below, distinct: true },
});
const bytes = (...shape: Shape): OperandSpec => ({ dtype: 'u8', shape, values: { below: 256 } });
/** int8 values; the smaller half of the range, since the cases draw from 0. */
const int8s = (...shape: Shape): OperandSpec => ({ dtype: 'i8', shape, values: { below: 128 } });
const flags = (...shape: Shape): OperandSpec => ({ dtype: 'bool', shape, values: { below: 2 } });

function row<K extends OpName>(op: K, name: string, attrs: OpAttrs[K], ...inputs: OperandSpec[]): OpCase {
  return { op, name, attrs, inputs } as OpCase;
}

const gemm = (transA: boolean, transB: boolean, alpha = 1, beta = 1): OpAttrs['gemm'] => ({
  transA,
  transB,
  alpha,
  beta,
});

const nBits = (bits: 4 | 8, blockSize: number): OpAttrs['linearNBits'] => ({ bits, blockSize, accuracyLevel: 0 });

const groups = (window: number | null): OpAttrs['groupQueryAttention'] => ({
  heads: 4,
  kvHeads: 2,
  scale: 0.25,
  window,
});

export const OP_CASES: readonly OpCase[] = [
  row('neg', '', {}, real(B, 4)),
  row('exp', '', {}, real(B, 4)),
  row('log', '', {}, positive(B, 4)),
  row('sqrt', '', {}, positive(B, 4)),
  row('tanh', '', {}, real(B, 4)),
  row('erf', '', {}, real(B, 4)),
  row('sigmoid', '', {}, real(B, 4)),
  row('silu', '', {}, real(B, 4)),
  row('gelu', 'erf', { kind: 'erf' }, real(B, 5)),
  row('gelu', 'tanh', { kind: 'tanh' }, real(B, 5)),
  row('gelu', 'quick', { kind: 'quick' }, real(B, 5)),
  row('gelu', 'silu', { kind: 'silu' }, real(B, 5)),
  row('squaredRelu', '', {}, real(B, 4)),
  row('add', 'same shape', {}, real(B, 4), real(B, 4)),
  row('add', 'bias row', {}, real(B, S, 4), real(4)),
  row('sub', 'broadcast middle axis', {}, real(B, S, 4), real(B, 1, 4)),
  row('mul', 'by scalar', {}, real(B, 4), real()),
  row('mul', 'by column', {}, real(B, 4), real(B, 1)),
  row('div', 'broadcast', {}, real(B, 4), positive(4)),
  row('where', 'broadcast condition', {}, flags(B, 1), real(B, 4), real(4)),
  row('cast', 'i64 to f32', { to: 'f32' }, index(5, B, 4)),
  row('cast', 'f32 to f32', { to: 'f32' }, real(B, 4)),
  row('stopGradient', '', {}, real(B, 4)),
  row('reshape', 'merge two symbols', { shape: [mulDims(B, S), 4] }, real(B, S, 4)),
  row('reshape', 'two symbols out', { shape: [S, B, 4] }, real(B, S, 4)),
  row('reshape', 'split heads', { shape: [B, S, 2, 2] }, real(B, S, 4)),
  row('transpose', 'heads', { perm: [0, 2, 1, 3] }, real(B, S, 2, 3)),
  row('concat', 'axis 1', { axis: 1 }, real(B, 2, 3), real(B, S, 3)),
  row('slice', 'static', { axis: 1, start: 1, end: 3 }, real(B, 4)),
  row('slice', 'symbolic end', { axis: 0, start: 1, end: S }, real(S, 4)),
  row('split', 'static', { axis: 1, sizes: [3, 1, 2] }, real(B, 6, S)),
  row('split', 'symbolic', { axis: 0, sizes: [B, S] }, real(addDims(B, S), 2), real(B), real(S)),
  row('pad', 'symbolic', { axis: 0, before: B, after: 1 }, real(B, 3)),
  row('expand', 'rows', { shape: [B, S, 4] }, real(B, 1, 4), real(B, S)),
  row('fill', '', { shape: [B, 3], value: 0.5 }, real(B, 3)),
  row('reduceSum', 'keep', { axes: [1], keepDims: true }, real(B, 4)),
  row('reduceSum', 'drop two', { axes: [0, 2], keepDims: false }, real(B, S, 4)),
  row('reduceMean', 'last', { axes: [2], keepDims: true }, real(B, S, 4)),
  row('argmax', '', {}, real(B, S, 7)),
  row('gemm', 'a b', gemm(false, false), real(B, 3), real(3, 4)),
  row('gemm', 'a bT with bias', gemm(false, true), real(B, 3), real(4, 3), real(4)),
  row('gemm', 'aT b scaled, with matrix C', gemm(true, false, 0.5, 2), real(3, B), real(3, 4), real(B, 4)),
  row('gemm', 'aT bT', gemm(true, true, 1.5), real(3, B), real(4, 3)),
  row('matmul', 'plain', { transA: false, transB: false, alpha: 1 }, real(B, 2, 3, 4), real(B, 2, 4, 5)),
  row('matmul', 'transB scaled', { transA: false, transB: true, alpha: 0.3 }, real(B, 2, 3, 4), real(B, 2, 5, 4)),
  row('matmul', 'transA', { transA: true, transB: false, alpha: 1 }, real(B, 4, 3), real(B, 4, 5)),
  row('matmul', 'both', { transA: true, transB: true, alpha: 2 }, real(B, 4, 3), real(B, 5, 4)),
  row('dequantizeBlocks', '4 bits', { bits: 4, blockSize: 16, width: 32 }, bytes(3, 2, 8), real(3, 2)),
  row('dequantizeBlocks', '8 bits, padded', { bits: 8, blockSize: 16, width: 27 }, bytes(3, 2, 16), real(3, 2)),
  row('dequantizePlanes', '8 bits', { bits: 8, blockSize: 16, rows: 3, width: 32 }, bytes(6, 16), real(6)),
  row('dequantizePlanes', '4 bits', { bits: 4, blockSize: 16, rows: 4, width: 32 }, bytes(4, 16), real(8)),
  row('dequantizePlanes', '4 bits, padded, odd', { bits: 4, blockSize: 16, rows: 3, width: 9 }, bytes(2, 16), real(3)),
  row('linearNBits', '4 bits', nBits(4, 32), real(B, 64), bytes(3, 2, 16), real(3, 2)),
  row('linearNBits', '4 bits, padded, bias', nBits(4, 32), real(B, 50), bytes(3, 2, 16), real(3, 2), real(3)),
  row('linearNBits', '8 bits', nBits(8, 64), real(B, 64), bytes(3, 1, 64), real(3, 1)),
  row('linearNBits', '8 bits, padded, bias', nBits(8, 32), real(B, 50), bytes(3, 2, 32), real(3, 2), real(3)),
  row('quantizeRows', 'signed', { range: 'signed' }, real(B, 2, S, 5)),
  row('quantizeRows', 'unsigned', { range: 'unsigned' }, positive(B, 7)),
  row('matmulInt8', 'weight', { range: 'signed' }, bytes(B, 6), int8s(6, 5), real(5)),
  row('matmulInt8', 'batch, one scale', { range: 'unsigned' }, bytes(B, 2, S, 6), int8s(B, 2, 6, 4), real()),
  row('matmulInt8', 'a spreads', { range: 'signed' }, bytes(B, 1, S, 6), int8s(B, 3, 6, 4), real()),
  row('softmax', '', {}, real(B, S, 4)),
  row('logSoftmax', '', {}, real(B, 4)),
  row('layerNorm', '', { epsilon: 1e-5 }, real(B, S, 6), real(6), real(6)),
  row('rmsNorm', '', { epsilon: 1e-5 }, real(B, S, 6), real(6)),
  row('addRmsNorm', '', { epsilon: 1e-5 }, real(B, 6), real(B, 6), real(6)),
  row('rope', 'full', { inverse: false }, real(B, 2, S, 4), index(5, B, S), real(5, 2), real(5, 2)),
  row('rope', 'inverse', { inverse: true }, real(B, 2, S, 4), index(5, B, S), real(5, 2), real(5, 2)),
  row('rope', 'partial', { inverse: false }, real(B, 2, S, 6), index(5, B, S), real(5, 2), real(5, 2)),
  row('attention', 'no bias', { scale: 0.5 }, real(B, 2, S, 4), real(B, 2, 5, 4), real(B, 2, 5, 4)),
  row('attention', 'bias', { scale: 0.5 }, real(B, 2, S, 4), real(B, 2, 5, 4), real(B, 2, 5, 4), real(B, 1, 1, 5)),
  row('groupQueryAttention', 'causal', groups(null), real(B, S, 128), real(9, 8), real(9, 8)),
  row('groupQueryAttention', 'window', groups(2), real(B, S, 128), real(9, 8), real(9, 8)),
  // Full caches: what lies behind a row's new token is not defined.
  row(
    'cacheAttention',
    'full',
    { heads: 4, kvHeads: 2, scale: 0.25 },
    real(B, 128),
    real(B, 2, 5, 16),
    real(B, 2, 5, 16),
    { dtype: 'i64', shape: [B], values: { from: 4, below: 5 } },
    real(9, 8),
    real(9, 8),
  ),
  row('gather', 'repeated rows', {}, real(4, 3), index(4, B, S)),
  row('scatterRows', 'set', { mode: 'set' }, real(5, 3), distinct(5, B), real(B, 3)),
  row('scatterRows', 'add with repeats', { mode: 'add' }, real(4, 3), index(4, 6), real(6, 3)),
  row('crossEntropy', '', {}, real(S, 7), index(7, S), positive(S)),
  row('crossEntropyGrad', '', {}, real(S, 7), index(7, S), positive(S), real()),
];

/** Inputs whose gradient is defined (weights, cos/sin tables and indices are not). */
export function differentiable(c: OpCase): number[] {
  if (c.op === 'cast' && c.inputs[0]?.dtype !== 'f32') return [];
  const frozen: Partial<Record<OpName, readonly number[]>> = {
    rope: [1, 2, 3],
    crossEntropy: [1, 2],
    fill: [0],
    stopGradient: [0],
    expand: [1],
    split: [1, 2],
  };
  return c.inputs.flatMap((s, i) => (s.dtype === 'f32' && !(frozen[c.op] ?? []).includes(i) ? [i] : []));
}

/** Emits a case: `fill`, `expand` and `split` take operands only to bind their symbols. */
export function emitCase(graph: Graph, c: OpCase, inputs: readonly Value[]): Value[] {
  const used = c.op === 'fill' ? [] : c.op === 'expand' || c.op === 'split' ? inputs.slice(0, 1) : inputs;
  return graph.emit(c.op, used, c.attrs);
}
