import type { OpAttrs, OpName } from '../graph/ops/attrs.ts';
import { OP_CASES, type OpCase, type OperandSpec } from './conformance-cases.ts';

/*
 * Sizes that small cases miss: GPU kernels are cut into tiles and vectors of four, so sizes lie across such edges and
 * reductions are longer than a group of threads. Too slow for the finite differences that the small cases also serve.
 */

const real = (...shape: readonly number[]): OperandSpec => ({ dtype: 'f32', shape });
const index = (below: number, ...shape: readonly number[]): OperandSpec => ({ dtype: 'i64', shape, values: { below } });
const bytes = (...shape: readonly number[]): OperandSpec => ({ dtype: 'u8', shape, values: { below: 256 } });

function wide<K extends OpName>(op: K, name: string, attrs: OpAttrs[K], ...inputs: OperandSpec[]): OpCase {
  return { op, name: name === '' ? 'wide' : `${name}, wide`, attrs, inputs } as OpCase;
}

const gemm = (transA: boolean, transB: boolean): OpAttrs['gemm'] => ({ transA, transB, alpha: 1, beta: 1 });

const WIDE_CASES: readonly OpCase[] = [
  wide('gemm', 'a bT with bias', gemm(false, true), real(33, 70), real(66, 70), real(66)),
  wide('gemm', 'one row, vectors of four', gemm(false, true), real(1, 128), real(260, 128)),
  wide('gemm', 'aT b', gemm(true, false), real(130, 34), real(130, 65)),
  wide('matmul', 'plain', { transA: false, transB: false, alpha: 1 }, real(2, 3, 33, 70), real(2, 3, 70, 34)),
  wide('matmul', 'transB', { transA: false, transB: true, alpha: 0.125 }, real(2, 3, 33, 64), real(2, 3, 70, 64)),
  wide(
    'attention',
    'bias',
    { scale: 0.125 },
    real(2, 3, 17, 64),
    real(2, 3, 70, 64),
    real(2, 3, 70, 64),
    real(2, 1, 1, 70),
  ),
  wide(
    'groupQueryAttention',
    'causal',
    { heads: 4, kvHeads: 2, scale: 0.125, window: null },
    real(2, 70, 512),
    real(80, 32),
    real(80, 32),
  ),
  wide('softmax', '', {}, real(3, 2, 1030)),
  wide('logSoftmax', '', {}, real(5, 1030)),
  wide('crossEntropy', '', {}, real(5, 301), index(301, 5), { dtype: 'f32', shape: [5], values: 'positive' }),
  wide('layerNorm', '', { epsilon: 1e-5 }, real(2, 5, 322), real(322), real(322)),
  wide('rmsNorm', '', { epsilon: 1e-5 }, real(2, 5, 322), real(322)),
  wide('rope', 'full', { inverse: false }, real(2, 3, 5, 64), index(40, 2, 5), real(40, 32), real(40, 32)),
  wide('reduceSum', 'rows', { axes: [0], keepDims: false }, real(300, 34)),
  wide('argmax', '', {}, real(3, 1030)),
  wide('gather', 'rows', {}, real(70, 130), index(70, 3, 5)),
  wide('scatterRows', 'add with repeats', { mode: 'add' }, real(20, 130), index(20, 70), real(70, 130)),
  wide('transpose', 'heads', { perm: [0, 2, 1, 3] }, real(2, 17, 3, 34)),
  wide('silu', '', {}, real(33, 130)),
  wide(
    'linearNBits',
    '4 bits',
    { bits: 4, blockSize: 32, accuracyLevel: 0 },
    real(5, 256),
    bytes(66, 8, 16),
    real(66, 8),
  ),
  wide(
    'linearNBits',
    '8 bits',
    { bits: 8, blockSize: 32, accuracyLevel: 0 },
    real(5, 256),
    bytes(66, 8, 32),
    real(66, 8),
  ),
];

/** What a device is probed with, in the order of the probe. */
export const DEVICE_CASES: readonly OpCase[] = [...OP_CASES, ...WIDE_CASES];
