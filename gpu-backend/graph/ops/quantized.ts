import { dimKey, productOf, showShape } from '../dim.ts';
import type { Graph, TensorType, Value } from '../graph.ts';
import type { LowerContext } from '../lowering.ts';
import { at, type NdArray, nd } from '../nd.ts';
import type { OpAttrs } from './attrs.ts';
import { arg, expectDtype, expectRank, expectSame, one, unbroadcast } from './infer.ts';
import { gemm } from './linalg.ts';
import type { OpRow } from './row.ts';

/*
 * Block-wise quantised weights, in the layout of com.microsoft MatMulNBits: a row of the weight [out, in] is cut into blocks of
 * `blockSize` values (the last one padded), each value is (q - 2^(bits-1)) · scale of its block, and two 4-bit values share a
 * byte, the earlier one in its low half. packed [out, blocks, blockSize · bits / 8] u8, scales [out, blocks] f32.
 */

type Blocks = Pick<OpAttrs['dequantizeBlocks'], 'bits' | 'blockSize'>;

/** Checks packed values and scales against each other; `width` is `in`. */
function expectBlocks(packed: TensorType, scales: TensorType, { bits, blockSize }: Blocks, width: number): void {
  if (blockSize < 16 || (blockSize & (blockSize - 1)) !== 0)
    throw new Error(`blockSize must be a power of two from 16 on, got ${blockSize}`);
  expectDtype(packed, 'u8', 'packed');
  expectDtype(scales, 'f32', 'scales');
  expectRank(packed, 3, 'packed');
  expectRank(scales, 2, 'scales');
  const blocks = Math.ceil(width / blockSize);
  const bytes = (blockSize * bits) / 8;
  if (packed.shape[1] !== blocks || packed.shape[2] !== bytes)
    throw new Error(
      `packed must be [out, ${blocks}, ${bytes}] for ${width} values in blocks of ${blockSize} at ${bits} bits, got ${showShape(packed.shape)}`,
    );
  expectSame(packed.shape[0], scales.shape[0], 'rows of packed and scales');
  expectSame(blocks, scales.shape[1], 'blocks of packed and scales');
}

function widthOf(x: TensorType): number {
  const width = x.shape[1];
  if (typeof width !== 'number')
    throw new Error(`x must have a static width, got ${width === undefined ? 'none' : dimKey(width)}`);
  return width;
}

/** d scales [out, blocks] = Σ over a block of dW ∘ (q - zero point). */
function scaleGradient(graph: Graph, dW: Value, packed: Value, attrs: OpAttrs['dequantizeBlocks']): Value {
  const { blockSize, width } = attrs;
  const [out, blocks] = [arg(packed.shape, 0, 'out'), Math.ceil(width / blockSize)];
  const ones = one(graph.emit('fill', [], { shape: [out, blocks], value: 1 }));
  const product = one(graph.emit('mul', [dW, one(graph.emit('dequantizeBlocks', [packed, ones], attrs))], {}));
  const rest = blocks * blockSize - width;
  const padded = rest === 0 ? product : one(graph.emit('pad', [product], { axis: 1, before: 0, after: rest }));
  const byBlock = one(graph.emit('reshape', [padded], { shape: [out, blocks, blockSize] }));
  return one(graph.emit('reduceSum', [byBlock], { axes: [2], keepDims: false }));
}

/** [out, blocks, bytes] u8 → [out, width] f32 with standard operators. */
function lowerDequantize(
  ctx: LowerContext,
  packed: string,
  scales: string,
  rows: number,
  { bits, blockSize, width }: OpAttrs['dequantizeBlocks'],
): string {
  const blocks = Math.ceil(width / blockSize);
  let q = ctx.emit('Cast', [packed], { to: { int: 1 } });
  if (bits === 4) {
    const high = ctx.emit('Floor', [ctx.emit('Mul', [q, ctx.scalar(1 / 16)])]);
    const low = ctx.emit('Sub', [q, ctx.emit('Mul', [high, ctx.scalar(16)])]);
    const pair = [low, high].map((half) => ctx.emit('Unsqueeze', [half, ctx.ints([3])]));
    q = ctx.emit('Reshape', [ctx.emit('Concat', pair, { axis: { int: 3 } }), ctx.ints([rows, blocks, blockSize])]);
  }
  const centred = ctx.emit('Sub', [q, ctx.scalar(2 ** (bits - 1))]);
  const scaled = ctx.emit('Mul', [centred, ctx.emit('Unsqueeze', [scales, ctx.ints([2])])]);
  const flat = ctx.emit('Reshape', [scaled, ctx.ints([rows, blocks * blockSize])]);
  if (blocks * blockSize === width) return flat;
  return ctx.emit('Slice', [flat, ctx.ints([0]), ctx.ints([width]), ctx.ints([1])]);
}

function staticRows(packed: Value): number {
  const rows = productOf(packed.shape.slice(0, 1));
  if (typeof rows !== 'number') throw new Error('quantised weights need a static number of rows');
  return rows;
}

function dequantize(
  packed: NdArray,
  scales: NdArray,
  { bits, blockSize, width }: OpAttrs['dequantizeBlocks'],
): NdArray {
  const rows = arg(packed.shape, 0, 'rows');
  const blocks = Math.ceil(width / blockSize);
  const out = nd([rows, width]);
  for (let r = 0; r < rows; r++)
    for (let i = 0; i < width; i++) {
      // Blocks fill whole bytes, so a row's values lie one behind the other.
      const place = r * blocks * blockSize + i;
      const byte = at(packed, bits === 8 ? place : place >> 1);
      const q = bits === 8 ? byte : i % 2 === 0 ? byte & 15 : byte >> 4;
      out.data[r * width + i] = (q - 2 ** (bits - 1)) * at(scales, r * blocks + Math.floor(i / blockSize));
    }
  return out;
}

/** (packed, scales) → the weight [out, width] in f32. */
export const dequantizeBlocks: OpRow<'dequantizeBlocks'> = {
  infer: (inputs, attrs) => {
    const packed = arg(inputs, 0, 'packed');
    expectBlocks(packed, arg(inputs, 1, 'scales'), attrs, attrs.width);
    return [{ dtype: 'f32', shape: [arg(packed.shape, 0, 'out'), attrs.width] }];
  },
  grad: (c) => [undefined, c.wants[1] ? scaleGradient(c.graph, c.g, arg(c.inputs, 0, 'packed'), c.attrs) : undefined],
  lower: (ctx, node) => {
    const [packed, scales] = [arg(node.inputs, 0, 'packed'), arg(node.inputs, 1, 'scales')];
    return [lowerDequantize(ctx, ctx.name(packed), ctx.name(scales), staticRows(packed), node.attrs)];
  },
  reference: (inputs, attrs) => [dequantize(arg(inputs, 0, 'packed'), arg(inputs, 1, 'scales'), attrs)],
};

/** (x [N, in], packed, scales, bias? [out]) → x Wᵀ + bias [N, out], W the dequantised weight. */
export const linearNBits: OpRow<'linearNBits'> = {
  infer: (inputs, attrs) => {
    const [x, packed, bias] = [arg(inputs, 0, 'x'), arg(inputs, 1, 'packed'), inputs[3]];
    expectDtype(x, 'f32', 'x');
    expectRank(x, 2, 'x');
    expectBlocks(packed, arg(inputs, 2, 'scales'), attrs, widthOf(x));
    const out = arg(packed.shape, 0, 'out');
    if (bias !== undefined) {
      expectDtype(bias, 'f32', 'bias');
      expectRank(bias, 1, 'bias');
      expectSame(bias.shape[0], out, 'bias and rows of packed');
    }
    return [{ dtype: 'f32', shape: [arg(x.shape, 0, 'rows'), out] }];
  },
  grad: (c) => {
    const [x, packed, scales, bias] = [
      arg(c.inputs, 0, 'x'),
      arg(c.inputs, 1, 'packed'),
      arg(c.inputs, 2, 'scales'),
      c.inputs[3],
    ];
    const attrs = { bits: c.attrs.bits, blockSize: c.attrs.blockSize, width: widthOf(x) };
    const product = (a: Value, b: Value, transA: boolean): Value =>
      one(c.graph.emit('gemm', [a, b], { transA, transB: false, alpha: 1, beta: 1 }));
    const weight = (): Value => one(c.graph.emit('dequantizeBlocks', [packed, scales], attrs));
    return [
      c.wants[0] ? product(c.g, weight(), false) : undefined,
      undefined,
      c.wants[2] ? scaleGradient(c.graph, product(c.g, x, true), packed, attrs) : undefined,
      bias !== undefined && c.wants[3] ? unbroadcast(c.graph, c.g, bias.shape) : undefined,
    ];
  },
  lower: (ctx, node) => {
    const { bits, blockSize, accuracyLevel } = node.attrs;
    const [x, packed] = [arg(node.inputs, 0, 'x'), arg(node.inputs, 1, 'packed')];
    const [width, rows] = [widthOf(x), staticRows(packed)];
    const [xName = '', packedName = '', scales = '', bias] = node.inputs.map((v) => ctx.name(v));
    if (!ctx.capabilities.matMulNBits) {
      const weight = lowerDequantize(ctx, packedName, scales, rows, { bits, blockSize, width });
      return [ctx.emit('Gemm', [xName, weight, ...(bias === undefined ? [] : [bias])], { transB: { int: 1 } })];
    }
    // Inputs by place: A, B, scales, zero points (absent = middle of the range), group index (unused), bias.
    return [
      ctx.emitContrib('MatMulNBits', [xName, packedName, scales, ...(bias === undefined ? [] : ['', '', bias])], {
        K: { int: width },
        N: { int: rows },
        bits: { int: bits },
        block_size: { int: blockSize },
        accuracy_level: { int: accuracyLevel },
      }),
    ];
  },
  reference: (inputs, { bits, blockSize }, resolve) => {
    const [x, packed, scales, bias] = [
      arg(inputs, 0, 'x'),
      arg(inputs, 1, 'packed'),
      arg(inputs, 2, 'scales'),
      inputs[3],
    ];
    const weight = dequantize(packed, scales, { bits, blockSize, width: arg(x.shape, 1, 'width') });
    const operands = bias === undefined ? [x, weight] : [x, weight, bias];
    return gemm.reference(operands, { transA: false, transB: true, alpha: 1, beta: 1 }, resolve);
  },
};
