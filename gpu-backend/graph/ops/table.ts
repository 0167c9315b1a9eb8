import { attention, rope } from './attention.ts';
import type { OpName } from './attrs.ts';
import { cacheAttention } from './cache-attention.ts';
import {
  add,
  cast,
  div,
  erfRow,
  exp,
  gelu,
  log,
  mul,
  neg,
  sigmoidRow,
  silu,
  sqrt,
  squaredRelu,
  stopGradient,
  sub,
  tanh,
  where,
} from './elementwise.ts';
import { groupQueryAttention } from './group-attention.ts';
import { matmulInt8, quantizeRows } from './int8.ts';
import { concat, expand, fill, gather, pad, reshape, scatterRows, slice, split, transpose } from './layout.ts';
import { gemm, logSoftmax, matmul, softmax } from './linalg.ts';
import { crossEntropy, crossEntropyGrad } from './loss.ts';
import { addRmsNorm, layerNorm, rmsNorm } from './norm.ts';
import { dequantizePlanes } from './planes.ts';
import { dequantizeBlocks, linearNBits } from './quantized.ts';
import { argmax, reduceMean, reduceSum } from './reduce.ts';
import type { OpRow } from './row.ts';

/** The op set: one complete row for every name in OpAttrs. A missing row or member does not compile. */
export const OPS: { readonly [K in OpName]: OpRow<K> } = {
  neg,
  exp,
  log,
  sqrt,
  tanh,
  erf: erfRow,
  sigmoid: sigmoidRow,
  silu,
  gelu,
  squaredRelu,
  add,
  sub,
  mul,
  div,
  where,
  cast,
  stopGradient,
  reshape,
  transpose,
  concat,
  slice,
  split,
  pad,
  expand,
  fill,
  reduceSum,
  reduceMean,
  argmax,
  gemm,
  matmul,
  dequantizeBlocks,
  dequantizePlanes,
  linearNBits,
  quantizeRows,
  matmulInt8,
  softmax,
  logSoftmax,
  layerNorm,
  rmsNorm,
  addRmsNorm,
  rope,
  attention,
  groupQueryAttention,
  cacheAttention,
  gather,
  scatterRows,
  crossEntropy,
  crossEntropyGrad,
};
