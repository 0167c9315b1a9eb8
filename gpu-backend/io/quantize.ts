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

/**
 * Quantises one row.
 * @param packed takes the row's bytes from `packedFrom` on, `scales` its scales from `scalesFrom` on (`blockSizes` says how many);
 *   a last block that the row does not fill is padded with zeros
 * @throws Error when the row holds a value that is not finite
 */
export function quantizeRow(
  row: Float32Array,
  format: BlockFormat,
  packed: Uint8Array,
  packedFrom: number,
  scales: Float32Array,
  scalesFrom: number,
): void {
  const { bits, blockSize } = format;
  const steps = 2 ** (bits - 1);
  let to = packedFrom;
  for (let start = 0, block = scalesFrom; start < row.length; start += blockSize, block++) {
    const end = Math.min(start + blockSize, row.length);
    let high = 0;
    let low = 0;
    let sum = 0;
    for (let i = start; i < end; i++) {
      const x = row[i] as number;
      sum += x;
      if (x > high) high = x;
      else if (x < low) low = x;
    }
    // Not a number and infinity are the only values whose sum with anything is not finite.
    if (!Number.isFinite(sum))
      throw new Error(`expected finite values, found one that is not among ${start} to ${end}`);
    const scale = Math.fround((high > -low ? high : low) / -steps);
    scales[block] = scale;
    const factor = scale === 0 ? 0 : 1 / scale;
    if (bits === 8) {
      for (let i = start; i < end; i++) {
        packed[to++] = Math.min(((row[i] as number) * factor + 128.5) | 0, 255);
      }
      to = fillTo(packed, to, packedFrom + (block - scalesFrom + 1) * blockSize, 128);
    } else {
      const pairs = end - ((end - start) & 1);
      for (let i = start; i < pairs; i += 2) {
        const a = ((row[i] as number) * factor + 8.5) | 0;
        const b = ((row[i + 1] as number) * factor + 8.5) | 0;
        packed[to++] = Math.min(a, 15) | (Math.min(b, 15) << 4);
      }
      if (pairs < end) packed[to++] = Math.min(((row[pairs] as number) * factor + 8.5) | 0, 15) | 0x80;
      to = fillTo(packed, to, packedFrom + ((block - scalesFrom + 1) * blockSize) / 2, 0x88);
    }
  }
}

function fillTo(packed: Uint8Array, from: number, end: number, zero: number): number {
  if (from < end) packed.fill(zero, from, end);
  return end;
}

/** The inverse of `quantizeRow`: writes `row.length` values. */
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
