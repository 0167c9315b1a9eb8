import type { Dim, Shape } from '../dim.ts';
import type { DType } from '../graph.ts';

type None = Readonly<Record<string, never>>;

/** Attributes of every op. The keys of this table are the op set; a row must exist for each (ops/table.ts). */
export interface OpAttrs {
  neg: None;
  exp: None;
  log: None;
  sqrt: None;
  tanh: None;
  erf: None;
  sigmoid: None;
  /** Outputs (silu(x), sigmoid(x)). */
  silu: None;
  gelu: { readonly kind: 'erf' | 'tanh' | 'quick' | 'silu' };
  squaredRelu: None;
  add: None;
  sub: None;
  mul: None;
  div: None;
  /** where(cond, a, b) */
  where: None;
  cast: { readonly to: DType };
  /** Its input; no gradient flows back through it. */
  stopGradient: None;
  reshape: { readonly shape: Shape };
  transpose: { readonly perm: readonly number[] };
  concat: { readonly axis: number };
  /** Half-open range of one axis. */
  slice: { readonly axis: number; readonly start: Dim; readonly end: Dim };
  /** Neighbouring parts of one axis, as many outputs as sizes; their sum is the axis. Without a gradient: `slice` has one. */
  split: { readonly axis: number; readonly sizes: readonly Dim[] };
  /** Zeros before and after on one axis. */
  pad: { readonly axis: number; readonly before: Dim; readonly after: Dim };
  expand: { readonly shape: Shape };
  /** f32 tensor of one value. */
  fill: { readonly shape: Shape; readonly value: number };
  reduceSum: { readonly axes: readonly number[]; readonly keepDims: boolean };
  reduceMean: { readonly axes: readonly number[]; readonly keepDims: boolean };
  /** Index of the largest value of the last axis, the first of equals: [.., V] → [..] i64. */
  argmax: None;
  /** alpha * op(A) op(B) + beta * C over matrices; C is optional and broadcast. */
  gemm: { readonly transA: boolean; readonly transB: boolean; readonly alpha: number; readonly beta: number };
  /** alpha * op(A) op(B) over equal leading axes. */
  matmul: { readonly transA: boolean; readonly transB: boolean; readonly alpha: number };
  /** (packed [out, blocks, blockSize·bits/8] u8, scales [out, blocks]) → weight [out, width]; see quantized.ts. */
  dequantizeBlocks: { readonly bits: 4 | 8; readonly blockSize: number; readonly width: number };
  /** (codes [P, blockSize] u8, scales [rows·blocks]) → weight [rows, width]; see planes.ts. */
  dequantizePlanes: {
    readonly bits: 4 | 8;
    readonly blockSize: number;
    readonly rows: number;
    readonly width: number;
  };
  /**
   * (x [N, in], packed, scales, bias? [out]) → [N, out]. accuracyLevel 0: products in f32; 4: the kernel may round each block of
   * x to int8 first, which is several times faster.
   */
  linearNBits: { readonly bits: 4 | 8; readonly blockSize: number; readonly accuracyLevel: 0 | 4 };
  /** x [.., K] → (q [.., K] u8, top [.., 1]): each row over its largest magnitude; `unsigned` where no value is negative. */
  quantizeRows: { readonly range: 'signed' | 'unsigned' };
  /** (a [.., M, K] u8 as quantizeRows gives it, b [.., K, N] i8, scale [N] or []) → [.., M, N]; still to be multiplied by a's top. */
  matmulInt8: { readonly range: 'signed' | 'unsigned' };
  softmax: None;
  logSoftmax: None;
  /** (x [.., D], weight [D], bias [D]) → (y, mean [.., 1], invStd [.., 1]) */
  layerNorm: { readonly epsilon: number };
  /** (x [.., D], weight [D]) → (y, invStd [.., 1]) */
  rmsNorm: { readonly epsilon: number };
  /** (a [N, D], b [N, D], weight [D]) → (rmsNorm(a + b), a + b): a residual sum and the norm that reads it. */
  addRmsNorm: { readonly epsilon: number };
  /** (x [B, H, S, D], positions [B, S], cos [P, R/2], sin [P, R/2]); first R of D features are rotated, halves paired. */
  rope: { readonly inverse: boolean };
  /** (q [B, H, Q, D], k [B, H, K, D], v [B, H, K, D], bias?) → (o [B, H, Q, D], probabilities [B, H, Q, K]) */
  attention: { readonly scale: number };
  /**
   * (qkv [B, S, (H + 2 Hkv) D], cos [P, D/2], sin [P, D/2]) → (o [B, S, H D], keys [B, Hkv, S, D], values): rotation by positions
   * 0 … S-1 and causal attention; with `window`, of the last so many keys only, the query's own among them.
   */
  groupQueryAttention: {
    readonly heads: number;
    readonly kvHeads: number;
    readonly scale: number;
    readonly window: number | null;
  };
  /**
   * (qkv [B, (H + 2 Hkv) D], keys [B, Hkv, T, D], values, lengths [B], cos [P, D/2], sin [P, D/2]) → (o [B, H D], keys, values): the
   * new token of each row, at the position that its length says, which must be below T.
   */
  cacheAttention: { readonly heads: number; readonly kvHeads: number; readonly scale: number };
  /** Rows of axis 0. */
  gather: None;
  /** (data [R, ..], rows [N], updates [N, ..]) */
  scatterRows: { readonly mode: 'set' | 'add' };
  /** (logits [R, V], targets [R], weights [R]) → (sum of weighted losses [], log-probabilities [R, V]) */
  crossEntropy: None;
  /** Gradient of crossEntropy: (logProbabilities [R, V], targets [R], weights [R], g []) → [R, V] */
  crossEntropyGrad: None;
}

export type OpName = keyof OpAttrs;
