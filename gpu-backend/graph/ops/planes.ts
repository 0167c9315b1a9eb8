import { showShape } from '../dim.ts';
import { at, nd } from '../nd.ts';
import type { OpAttrs } from './attrs.ts';
import { arg, expectDtype, expectRank, expectSame } from './infer.ts';
import type { OpRow } from './row.ts';

/*
 * Block-wise quantised weights as a training graph reads them: the codes and scales of `quantized.ts` in another order. A block of
 * `blockSize` codes is a row, so that DequantizeLinear has one scale a row, which its kernel does at the speed of memory (0.15 ns a
 * value; with the scale inside a row 1.2). At 4 bits the first half of all blocks lies in the low halves of the bytes and the second
 * in the high ones: pairs side by side, as MatMulNBits has them, would have to be interleaved value by value (9 ns).
 */

type Planes = OpAttrs['dequantizePlanes'];

/** Blocks of a weight, and rows of its codes: [P, blockSize] u8. */
export function planeSizes({ bits, blockSize, rows, width }: Planes): { blocks: number; planeRows: number } {
  const blocks = rows * Math.ceil(width / blockSize);
  return { blocks, planeRows: bits === 8 ? blocks : Math.ceil(blocks / 2) };
}

/** (codes [P, blockSize] u8, scales [rows · blocks] f32) → the weight [rows, width] in f32. Such weights do not move. */
export const dequantizePlanes: OpRow<'dequantizePlanes'> = {
  infer: (inputs, attrs) => {
    const [codes, scales] = [arg(inputs, 0, 'codes'), arg(inputs, 1, 'scales')];
    expectDtype(codes, 'u8', 'codes');
    expectDtype(scales, 'f32', 'scales');
    expectRank(codes, 2, 'codes');
    expectRank(scales, 1, 'scales');
    const { blocks, planeRows } = planeSizes(attrs);
    if (codes.shape[0] !== planeRows || codes.shape[1] !== attrs.blockSize)
      throw new Error(
        `codes must be [${planeRows}, ${attrs.blockSize}] for [${attrs.rows}, ${attrs.width}] at ${attrs.bits} bits, got ${showShape(codes.shape)}`,
      );
    expectSame(scales.shape[0], blocks, 'scales and blocks');
    return [{ dtype: 'f32', shape: [attrs.rows, attrs.width] }];
  },
  grad: 'none',
  lower: (ctx, node) => {
    const { bits, blockSize, rows, width } = node.attrs;
    const [codes = '', scales = ''] = node.inputs.map((v) => ctx.name(v));
    const { blocks, planeRows } = planeSizes(node.attrs);
    let rowsOfCodes = codes;
    if (bits === 4) {
      const low = ctx.emit('BitwiseAnd', [codes, ctx.byte(15)]);
      const high = ctx.emit('BitShift', [codes, ctx.byte(4)], { direction: 'RIGHT' });
      rowsOfCodes = ctx.emit('Concat', [low, high], { axis: { int: 0 } });
      if (2 * planeRows !== blocks)
        rowsOfCodes = ctx.emit('Slice', [rowsOfCodes, ctx.ints([0]), ctx.ints([blocks]), ctx.ints([0])]);
    }
    const middle = ctx.byte(2 ** (bits - 1));
    const middles = ctx.once(`${blocks} codes of ${bits} bits`, () => ctx.emit('Expand', [middle, ctx.ints([blocks])]));
    const values = ctx.emit('DequantizeLinear', [rowsOfCodes, scales, middles], { axis: { int: 0 } });
    const padded = (blocks / rows) * blockSize;
    const weight = ctx.emit('Reshape', [values, ctx.ints([rows, padded])]);
    if (padded === width) return [weight];
    return [ctx.emit('Slice', [weight, ctx.ints([0]), ctx.ints([width]), ctx.ints([1])])];
  },
  reference: (inputs, attrs) => {
    const { bits, blockSize, rows, width } = attrs;
    const [codes, scales] = [arg(inputs, 0, 'codes'), arg(inputs, 1, 'scales')];
    const { blocks, planeRows } = planeSizes(attrs);
    const out = nd([rows, width]);
    for (let r = 0; r < rows; r++)
      for (let i = 0; i < width; i++) {
        const block = (r * blocks) / rows + Math.floor(i / blockSize);
        const byte = at(codes, (block % planeRows) * blockSize + (i % blockSize));
        const q = bits === 8 ? byte : block < planeRows ? byte & 15 : byte >> 4;
        out.data[r * width + i] = (q - 2 ** (bits - 1)) * at(scales, block);
      }
    return [out];
  },
};
