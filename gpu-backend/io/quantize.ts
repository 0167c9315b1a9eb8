import { compileQuantizer, type QuantizeKernel } from './quantize-kernel.ts';
import { DTYPE_BYTES } from './tensor.ts';

/**
 * Block-wise quantised weights as com.microsoft MatMulNBits reads them: each row of a weight [out, in] is cut into blocks, a value
 * is (q - 2^(bits-1)) · scale of its block, and at 4 bits two values share a byte, the earlier in its low half.
 *
 * The scale puts the value of largest magnitude at the end of the range that has one step more (q = 0), with its sign in the
 * scale, as llama.cpp's Q4_0 does: all 2^bits steps are used, and the largest value is exact.
 */
export interface BlockFormat {
  readonly bits: 4 | 8;
  /** Values that share one scale: a power of two from 16 on. */
  readonly blockSize: number;
}

/** Sizes of one quantised row of `width` values. */
export function blockSizes(width: number, { bits, blockSize }: BlockFormat): { blocks: number; bytes: number } {
  const blocks = Math.ceil(width / blockSize);
  return { blocks, bytes: (blocks * blockSize * bits) / 8 };
}

/** Bytes of source values that are in the kernel's memory at a time: within a core's cache. */
const SLAB_BYTES = 256 << 10;

/** Quantises rows of one width, with SIMD. Holds about 1 MB. */
export class Quantizer {
  readonly #width: number;
  readonly #format: BlockFormat;
  readonly #dtype: 'f32' | 'bf16';
  readonly #slabRows: number;
  readonly #source: Uint8Array;
  readonly #packed: Uint8Array;
  readonly #scales: Float32Array;
  readonly #quantize: QuantizeKernel;

  /** @param dtype of the rows; bf16 is read as it is, every other type has to be decoded to f32 by the caller */
  constructor(width: number, format: BlockFormat, dtype: 'f32' | 'bf16') {
    const { blocks, bytes } = blockSizes(width, format);
    const paddedBytes = blocks * format.blockSize * DTYPE_BYTES[dtype];
    this.#slabRows = Math.max(1, Math.floor(SLAB_BYTES / paddedBytes));
    const [sourceBytes, packedBytes] = [this.#slabRows * paddedBytes, this.#slabRows * bytes];
    const scaleCount = this.#slabRows * blocks;
    const kernel = compileQuantizer(format, dtype, sourceBytes + packedBytes + 4 * scaleCount);
    this.#source = new Uint8Array(kernel.memory, 0, sourceBytes);
    this.#packed = new Uint8Array(kernel.memory, sourceBytes, packedBytes);
    this.#scales = new Float32Array(kernel.memory, sourceBytes + packedBytes, scaleCount);
    this.#quantize = kernel.quantize;
    this.#width = width;
    this.#format = format;
    this.#dtype = dtype;
  }

  /**
   * @param rows whole rows, as they lie in a file
   * @param packed takes `blockSizes(…).bytes` a row, `scales` `blocks` a row; a last block that a row does not fill is padded with
   *   zeros
   * @throws Error that names the row, counted from 0, in which a value is not finite
   */
  quantize(rows: Uint8Array, packed: Uint8Array, scales: Float32Array): void {
    const { blocks, bytes } = blockSizes(this.#width, this.#format);
    const rowBytes = this.#width * DTYPE_BYTES[this.#dtype];
    const paddedBytes = blocks * this.#format.blockSize * DTYPE_BYTES[this.#dtype];
    const count = rows.byteLength / rowBytes;
    if (!Number.isInteger(count) || packed.byteLength !== count * bytes || scales.length !== count * blocks)
      throw new Error(
        `expected whole rows of ${rowBytes} bytes with ${bytes} bytes and ${blocks} scales each, got ${rows.byteLength} bytes for ${packed.byteLength} and ${scales.length}`,
      );
    for (let first = 0; first < count; first += this.#slabRows) {
      const some = Math.min(this.#slabRows, count - first);
      if (paddedBytes === rowBytes) this.#source.set(rows.subarray(first * rowBytes, (first + some) * rowBytes));
      // The bytes behind each row are never written and stay zero.
      else
        for (let r = 0; r < some; r++)
          this.#source.set(rows.subarray((first + r) * rowBytes, (first + r + 1) * rowBytes), r * paddedBytes);
      const { byteOffset } = this.#source;
      this.#quantize(byteOffset, this.#packed.byteOffset, this.#scales.byteOffset, byteOffset + some * paddedBytes);
      packed.set(this.#packed.subarray(0, some * bytes), first * bytes);
      const own = this.#scales.subarray(0, some * blocks);
      const bad = own.findIndex((scale) => !Number.isFinite(scale));
      if (bad >= 0)
        throw new Error(`row ${first + Math.floor(bad / blocks)}: expected finite values, found one that is not`);
      scales.set(own, first * blocks);
    }
  }
}

/** One `Quantizer` for each kind of row: its memory reserves gigabytes of addresses, and a model has hundreds of tensors. */
export class Quantizers {
  readonly #known = new Map<string, Quantizer>();

  of(width: number, format: BlockFormat, dtype: 'f32' | 'bf16'): Quantizer {
    const key = `${width} ${format.bits} ${format.blockSize} ${dtype}`;
    const known = this.#known.get(key) ?? new Quantizer(width, format, dtype);
    this.#known.set(key, known);
    return known;
  }
}

/** The inverse, one row: writes `row.length` values. */
export function dequantizeRow(
  row: Float32Array,
  { bits, blockSize }: BlockFormat,
  packed: Uint8Array,
  packedFrom: number,
  scales: Float32Array,
  scalesFrom: number,
): void {
  for (let i = 0; i < row.length; i++) {
    const byte = packed[packedFrom + (bits === 8 ? i : i >> 1)] as number;
    const q = bits === 8 ? byte - 128 : ((i & 1) === 0 ? byte & 15 : byte >> 4) - 8;
    row[i] = q * (scales[scalesFrom + Math.floor(i / blockSize)] as number);
  }
}
