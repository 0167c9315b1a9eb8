import { type Dim, sameShape, showShape } from '../dim.ts';
import type { Graph, Value } from '../graph.ts';
import { at, broadcastIndex, forEachIndex, type NdArray, nd, sizeOf, stridesOf } from '../nd.ts';
import { arg, expectDtype, expectRank, expectSame, one, scalar, unbroadcast, widenedAgain } from './infer.ts';
import type { OpRow } from './row.ts';

function gemmOf(graph: Graph, a: Value, b: Value, transA: boolean, transB: boolean, alpha: number): Value {
  return one(graph.emit('gemm', [a, b], { transA, transB, alpha, beta: 1 }));
}

/** alpha * op(a) op(b) for matrices stored in `data` at an offset. */
function multiply(
  a: NdArray,
  b: NdArray,
  offA: number,
  offB: number,
  n: number,
  k: number,
  m: number,
  transA: boolean,
  transB: boolean,
  alpha: number,
  out: Float64Array,
  offOut: number,
): void {
  for (let i = 0; i < n; i++) {
    for (let j = 0; j < m; j++) {
      let sum = 0;
      for (let l = 0; l < k; l++) {
        sum += at(a, offA + (transA ? l * n + i : i * k + l)) * at(b, offB + (transB ? j * k + l : l * m + j));
      }
      out[offOut + i * m + j] = alpha * sum;
    }
  }
}

/** General matrix product over 2-D operands. Weights keep their on-disk layout [out, in] with transB. */
export const gemm: OpRow<'gemm'> = {
  infer: (inputs, { transA, transB }) => {
    const [a, b] = [arg(inputs, 0, 'a'), arg(inputs, 1, 'b')];
    expectDtype(a, 'f32', 'a');
    expectDtype(b, 'f32', 'b');
    expectRank(a, 2, 'a');
    expectRank(b, 2, 'b');
    const inner = [a.shape[transA ? 0 : 1], b.shape[transB ? 1 : 0]];
    expectSame(inner[0], inner[1], `inner axes of ${showShape(a.shape)} and ${showShape(b.shape)}`);
    return [{ dtype: 'f32', shape: [arg(a.shape, transA ? 1 : 0, 'rows'), arg(b.shape, transB ? 0 : 1, 'columns')] }];
  },
  grad: (c) => {
    const { transA, transB, alpha, beta } = c.attrs;
    const [a, b, bias] = [arg(c.inputs, 0, 'a'), arg(c.inputs, 1, 'b'), c.inputs[2]];
    // y = op(a) op(b): d op(a) = g op(b)^T, d op(b) = op(a)^T g; a transposed operand swaps the product.
    const da = () => {
      const weight = widenedAgain(c.graph, b);
      return transA
        ? gemmOf(c.graph, weight, c.g, transB, true, alpha)
        : gemmOf(c.graph, c.g, weight, false, !transB, alpha);
    };
    const db = () =>
      transB ? gemmOf(c.graph, c.g, a, true, transA, alpha) : gemmOf(c.graph, a, c.g, !transA, false, alpha);
    const grads: (Value | undefined)[] = [c.wants[0] ? da() : undefined, c.wants[1] ? db() : undefined];
    if (bias !== undefined) {
      const scaled = () => (beta === 1 ? c.g : one(c.graph.emit('mul', [c.g, scalar(c.graph, beta)], {})));
      grads.push(c.wants[2] ? unbroadcast(c.graph, scaled(), bias.shape) : undefined);
    }
    return grads;
  },
  lower: (ctx, node) => {
    const { transA, transB, alpha, beta } = node.attrs;
    const attrs = { transA: { int: transA ? 1 : 0 }, transB: { int: transB ? 1 : 0 }, alpha, beta };
    return [
      ctx.emit(
        'Gemm',
        node.inputs.map((v) => ctx.name(v)),
        attrs,
      ),
    ];
  },
  reference: (inputs, { transA, transB, alpha, beta }) => {
    const [a, b, bias] = [arg(inputs, 0, 'a'), arg(inputs, 1, 'b'), inputs[2]];
    const [n, k] = transA ? [arg(a.shape, 1, 'n'), arg(a.shape, 0, 'k')] : [arg(a.shape, 0, 'n'), arg(a.shape, 1, 'k')];
    const m = arg(b.shape, transB ? 0 : 1, 'm');
    const out = nd([n, m]);
    multiply(a, b, 0, 0, n, k, m, transA, transB, alpha, out.data, 0);
    if (bias !== undefined) {
      const strides = stridesOf(bias.shape);
      forEachIndex(out.shape, (flat, coords) => {
        out.data[flat] = at(out, flat) + beta * at(bias, broadcastIndex(bias.shape, strides, coords));
      });
    }
    return [out];
  },
};

function matmulOf(graph: Graph, a: Value, b: Value, transA: boolean, transB: boolean, alpha: number): Value {
  return one(graph.emit('matmul', [a, b], { transA, transB, alpha }));
}

/** Swap of the last two axes as a permutation. */
export function swapLast(rank: number): number[] {
  return Array.from({ length: rank }, (_, i) => (i === rank - 2 ? rank - 1 : i === rank - 1 ? rank - 2 : i));
}

/** Batched matrix product; leading axes must be equal. */
export const matmul: OpRow<'matmul'> = {
  infer: (inputs, { transA, transB }) => {
    const [a, b] = [arg(inputs, 0, 'a'), arg(inputs, 1, 'b')];
    expectDtype(a, 'f32', 'a');
    const rank = a.shape.length;
    const lead = a.shape.slice(0, -2);
    if (rank < 3 || b.shape.length !== rank || !sameShape(lead, b.shape.slice(0, -2))) {
      throw new Error(
        `operands must have equal leading axes, got ${showShape(a.shape)} and ${showShape(b.shape)}; use gemm for matrices`,
      );
    }
    expectSame(a.shape[transA ? rank - 2 : rank - 1], b.shape[transB ? rank - 1 : rank - 2], 'inner axes');
    return [
      {
        dtype: 'f32',
        shape: [
          ...lead,
          arg(a.shape, transA ? rank - 1 : rank - 2, 'n'),
          arg(b.shape, transB ? rank - 2 : rank - 1, 'm'),
        ],
      },
    ];
  },
  grad: (c) => {
    const { transA, transB, alpha } = c.attrs;
    const [a, b] = [arg(c.inputs, 0, 'a'), arg(c.inputs, 1, 'b')];
    const da = () =>
      transA ? matmulOf(c.graph, b, c.g, transB, true, alpha) : matmulOf(c.graph, c.g, b, false, !transB, alpha);
    const db = () =>
      transB ? matmulOf(c.graph, c.g, a, true, transA, alpha) : matmulOf(c.graph, a, c.g, !transA, false, alpha);
    return [c.wants[0] ? da() : undefined, c.wants[1] ? db() : undefined];
  },
  lower: (ctx, node) => {
    const { transA, transB, alpha } = node.attrs;
    const [av, bv] = [arg(node.inputs, 0, 'a'), arg(node.inputs, 1, 'b')];
    const [a, b] = [ctx.name(av), ctx.name(bv)];
    if (!transA && !transB && alpha === 1) return [ctx.emit('MatMul', [a, b])];
    if (ctx.capabilities.fusedMatMul) {
      return [
        ctx.emitContrib('FusedMatMul', [a, b], {
          transA: { int: transA ? 1 : 0 },
          transB: { int: transB ? 1 : 0 },
          alpha,
        }),
      ];
    }
    const perm = { perm: { ints: swapLast(av.shape.length) } };
    const product = ctx.emit('MatMul', [
      transA ? ctx.emit('Transpose', [a], perm) : a,
      transB ? ctx.emit('Transpose', [b], perm) : b,
    ]);
    return [alpha === 1 ? product : ctx.emit('Mul', [product, ctx.scalar(alpha)])];
  },
  reference: (inputs, { transA, transB, alpha }) => [
    batched(arg(inputs, 0, 'a'), arg(inputs, 1, 'b'), transA, transB, alpha),
  ],
};

/** Reference batched product; also used by the attention row. */
export function batched(a: NdArray, b: NdArray, transA: boolean, transB: boolean, alpha: number): NdArray {
  const rank = a.shape.length;
  const [ar, ac] = [arg(a.shape, rank - 2, 'rows'), arg(a.shape, rank - 1, 'columns')];
  const [n, k] = transA ? [ac, ar] : [ar, ac];
  const m = arg(b.shape, transB ? rank - 2 : rank - 1, 'm');
  const lead = a.shape.slice(0, -2);
  const out = nd([...lead, n, m]);
  for (let i = 0; i < sizeOf(lead); i++)
    multiply(a, b, i * n * k, i * k * m, n, k, m, transA, transB, alpha, out.data, i * n * m);
  return out;
}

/** Rows of the last axis of a reference tensor, as [start, length] pairs. */
export function rowsOf(x: NdArray): { count: number; width: number } {
  const width = x.shape[x.shape.length - 1] ?? 1;
  return { count: width === 0 ? 0 : x.data.length / width, width };
}

export function softmaxNd(x: NdArray, log: boolean): NdArray {
  const out = nd(x.shape);
  const { count, width } = rowsOf(x);
  for (let r = 0; r < count; r++) {
    const row = x.data.subarray(r * width, (r + 1) * width);
    const max = row.reduce((m, v) => Math.max(m, v), Number.NEGATIVE_INFINITY);
    const sum = row.reduce((s, v) => s + Math.exp(v - max), 0);
    row.forEach((v, j) => {
      out.data[r * width + j] = log ? v - max - Math.log(sum) : Math.exp(v - max) / sum;
    });
  }
  return out;
}

const lastAxis = (shape: readonly Dim[]): number => shape.length - 1;

/** Softmax over the last axis. dx = p (g - sum(g p)). */
export const softmax: OpRow<'softmax'> = {
  infer: (inputs) => [{ dtype: 'f32', shape: arg(inputs, 0, 'x').shape }],
  grad: (c) => {
    const p = arg(c.outputs, 0, 'p');
    const gp = one(c.graph.emit('mul', [c.g, p], {}));
    const total = one(c.graph.emit('reduceSum', [gp], { axes: [lastAxis(p.shape)], keepDims: true }));
    return [one(c.graph.emit('mul', [p, one(c.graph.emit('sub', [c.g, total], {}))], {}))];
  },
  lower: (ctx, node) => [ctx.emit('Softmax', [ctx.name(arg(node.inputs, 0, 'x'))], { axis: { int: -1 } })],
  reference: (inputs) => [softmaxNd(arg(inputs, 0, 'x'), false)],
};

/** Logarithm of softmax over the last axis. dx = g - p sum(g). */
export const logSoftmax: OpRow<'logSoftmax'> = {
  infer: (inputs) => [{ dtype: 'f32', shape: arg(inputs, 0, 'x').shape }],
  grad: (c) => {
    const y = arg(c.outputs, 0, 'y');
    const total = one(c.graph.emit('reduceSum', [c.g], { axes: [lastAxis(y.shape)], keepDims: true }));
    const p = one(c.graph.emit('exp', [y], {}));
    return [one(c.graph.emit('sub', [c.g, one(c.graph.emit('mul', [p, total], {}))], {}))];
  },
  lower: (ctx, node) => {
    const x = ctx.name(arg(node.inputs, 0, 'x'));
    if (ctx.capabilities.logSoftmax) return [ctx.emit('LogSoftmax', [x], { axis: { int: -1 } })];
    const axes = ctx.ints([-1]);
    const shifted = ctx.emit('Sub', [x, ctx.emit('ReduceMax', [x, axes], { keepdims: { int: 1 } })]);
    const sum = ctx.emit('ReduceSum', [ctx.emit('Exp', [shifted]), axes], { keepdims: { int: 1 } });
    return [ctx.emit('Sub', [shifted, ctx.emit('Log', [sum])])];
  },
  reference: (inputs) => [softmaxNd(arg(inputs, 0, 'x'), true)],
};
