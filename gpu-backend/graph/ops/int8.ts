import { dimKey, type Shape, sameDim, showShape } from '../dim.ts';
import type { LowerContext } from '../lowering.ts';
import { at, broadcastIndex, forEachIndex, nd, stridesOf } from '../nd.ts';
import type { OpAttrs } from './attrs.ts';
import { arg, expectDtype, expectRank, expectSame, withAxis } from './infer.ts';
import type { OpRow } from './row.ts';

/*
 * Matrix products over 8-bit integers: activations are rounded row by row as they come, weights (or cached keys and values) are
 * int8 already. A row's result never depends on the other rows of its batch, as it would with one scale for a whole tensor.
 *
 * Activations are unsigned (with 128 for zero where they have a sign) and the other operand signed: the pair that the VNNI
 * kernels of x86 multiply directly.
 */

type Range = OpAttrs['quantizeRows']['range'];

/** q = round(x / top · steps) + zero. */
const RANGES: Readonly<Record<Range, { readonly steps: number; readonly zero: number }>> = {
  signed: { steps: 127, zero: 128 },
  unsigned: { steps: 255, zero: 0 },
};

/** Nearest integer, halves to the even one, as QuantizeLinear rounds. */
function roundHalfEven(x: number): number {
  const floor = Math.floor(x);
  const rest = x - floor;
  return rest > 0.5 || (rest === 0.5 && floor % 2 !== 0) ? floor + 1 : floor;
}

const stepOf = (ctx: LowerContext, range: Range): string => ctx.scalar(1 / RANGES[range].steps);
const zeroOf = (ctx: LowerContext, range: Range): string => ctx.byte(RANGES[range].zero);

/**
 * x [.., K] → (q [.., K] u8, top [.., 1] = largest magnitude of the row); x ≈ (q - zero) / steps · top. Of a row of zeros q means
 * nothing (a kernel rounds 0 / 0), which its top of 0 makes right.
 */
export const quantizeRows: OpRow<'quantizeRows'> = {
  infer: (inputs) => {
    const x = arg(inputs, 0, 'x');
    expectDtype(x, 'f32', 'x');
    arg(x.shape, 0, 'axis');
    return [
      { dtype: 'u8', shape: x.shape },
      { dtype: 'f32', shape: withAxis(x.shape, x.shape.length - 1, 1) },
    ];
  },
  grad: 'none',
  lower: (ctx, node) => {
    const x = ctx.name(arg(node.inputs, 0, 'x'));
    const { range } = node.attrs;
    const magnitude = range === 'signed' ? ctx.emit('Abs', [x]) : x;
    const top = ctx.emit('ReduceMax', [magnitude, ctx.ints([-1])], { keepdims: { int: 1 } });
    const unit = ctx.emit('Div', [x, top]);
    return [ctx.emit('QuantizeLinear', [unit, stepOf(ctx, range), zeroOf(ctx, range)]), top];
  },
  reference: (inputs, { range }) => {
    const x = arg(inputs, 0, 'x');
    const { steps, zero } = RANGES[range];
    const width = arg(x.shape, x.shape.length - 1, 'width');
    const q = nd(x.shape);
    const top = nd([...x.shape.slice(0, -1), 1]);
    for (let row = 0; row < top.data.length; row++) {
      let most = 0;
      for (let i = 0; i < width; i++) most = Math.max(most, Math.abs(at(x, row * width + i)));
      top.data[row] = most;
      for (let i = 0; i < width; i++) {
        const value = most === 0 ? zero : roundHalfEven((at(x, row * width + i) / most) * steps) + zero;
        q.data[row * width + i] = Math.min(255, Math.max(0, value));
      }
    }
    return [q, top];
  },
};

/** Leading axes of `a` are those of `b` or 1. */
const spreadsOver = (a: Shape, b: Shape): boolean =>
  a.length === b.length && a.every((dim, i) => dim === 1 || sameDim(dim, arg(b, i, 'axis')));

/** (a [.., M, K] u8, b [.., K, N] i8, scale [N] or []) → Σ (a - zero) · b · scale / steps, [.., M, N]; a's axes of size 1 spread over b's. */
export const matmulInt8: OpRow<'matmulInt8'> = {
  infer: (inputs) => {
    const [a, b, scale] = [arg(inputs, 0, 'a'), arg(inputs, 1, 'b'), arg(inputs, 2, 'scale')];
    expectDtype(a, 'u8', 'a');
    expectDtype(b, 'i8', 'b');
    expectDtype(scale, 'f32', 'scale');
    const rank = a.shape.length;
    if (rank < 2 || !spreadsOver(a.shape.slice(0, -2), b.shape.slice(0, -2)))
      throw new Error(
        `a must have the leading axes of b, or 1 for them, got ${showShape(a.shape)} and ${showShape(b.shape)}`,
      );
    expectSame(a.shape[rank - 1], b.shape[rank - 2], 'inner axes');
    const columns = arg(b.shape, rank - 1, 'columns');
    if (scale.shape.length > 0) {
      expectRank(scale, 1, 'scale');
      expectSame(scale.shape[0], columns, `columns ${dimKey(columns)} and scale`);
    }
    return [{ dtype: 'f32', shape: [...b.shape.slice(0, -2), arg(a.shape, rank - 2, 'rows'), columns] }];
  },
  grad: 'none',
  lower: (ctx, node) => {
    const [a, b, scale] = node.inputs.map((v) => ctx.name(v)) as [string, string, string];
    const { range } = node.attrs;
    const [step, zero] = [stepOf(ctx, range), zeroOf(ctx, range)];
    // Inputs by place: A, B, scale of A, scale of B, zero point of A.
    if (ctx.capabilities.matMulIntegerToFloat)
      return [ctx.emitContrib('MatMulIntegerToFloat', [a, b, step, scale, zero])];
    const sum = ctx.emit('Cast', [ctx.emit('MatMulInteger', [a, b, zero])], { to: { int: 1 } });
    return [ctx.emit('Mul', [ctx.emit('Mul', [sum, step]), scale])];
  },
  reference: (inputs, { range }) => {
    const [a, b, scale] = [arg(inputs, 0, 'a'), arg(inputs, 1, 'b'), arg(inputs, 2, 'scale')];
    const { steps, zero } = RANGES[range];
    const rank = a.shape.length;
    const [M, K] = [arg(a.shape, rank - 2, 'M'), arg(a.shape, rank - 1, 'K')];
    const N = arg(b.shape, rank - 1, 'N');
    const out = nd([...b.shape.slice(0, -2), M, N]);
    const leading = a.shape.slice(0, -2);
    const strides = stridesOf(leading);
    forEachIndex(out.shape, (flat, coords) => {
      const n = flat % N;
      const m = Math.floor(flat / N) % M;
      const batch = Math.floor(flat / (N * M));
      const row = broadcastIndex(leading, strides, coords.slice(0, rank - 2)) * M + m;
      let sum = 0;
      for (let k = 0; k < K; k++) sum += (at(a, row * K + k) - zero) * at(b, (batch * K + k) * N + n);
      out.data[flat] = (sum / steps) * at(scale, scale.shape.length === 0 ? 0 : n);
    });
    return [out];
  },
};
