import { createHash } from 'node:crypto';
import { createReadStream } from 'node:fs';

/** Lower-case hexadecimal SHA-256 of some bytes. */
export function sha256Hex(bytes: Uint8Array | string): string {
  return createHash('sha256').update(bytes).digest('hex');
}

/** SHA-256 of a file, read in pieces so that its size does not matter. */
export async function sha256File(path: string): Promise<string> {
  const hash = createHash('sha256');
  for await (const piece of createReadStream(path, { highWaterMark: 1 << 20 })) hash.update(piece as Uint8Array);
  return hash.digest('hex');
}

/** What a tensor digest covers. */
export interface DigestedTensor {
  readonly dtype: string;
  readonly shape: readonly number[];
  readonly data: Uint8Array;
}

/**
 * One digest for a set of named tensors, whatever their order: names, types, shapes and bytes are all part of it, so two
 * sets agree only when they hold the same values under the same names.
 */
export function digestTensors(tensors: Iterable<readonly [string, DigestedTensor]>): string {
  const hash = createHash('sha256');
  const sorted = [...tensors].sort(([a], [b]) => (a < b ? -1 : a > b ? 1 : 0));
  for (const [name, tensor] of sorted) {
    hash.update(`${JSON.stringify([name, tensor.dtype, tensor.shape, tensor.data.byteLength])}\n`).update(tensor.data);
  }
  return hash.digest('hex');
}
