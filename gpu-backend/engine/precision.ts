import type { KvFormat } from '../models/decode.ts';
import { chooseStorage, type Storage } from '../models/storage.ts';

/**
 * How the weights of a served model are computed with. `w8a8`: int8 columns and activations rounded row by row. `int8`, `int4`:
 * blocks, activations rounded block by block by the kernel. Measured speeds and what they cost in accuracy: test/bench/results.
 */
export const SERVED_PRECISIONS = ['auto', 'f32', 'w8a8', 'int8', 'int4'] as const;
export type ServedPrecision = (typeof SERVED_PRECISIONS)[number];

/** Block size of the 4-bit weights that are made when a model is loaded: fewer scales to read where one row decodes alone. */
const INT4_BLOCK = 64;

/** Storage of a precision; undefined = f32. */
export function storageFor(precision: Exclude<ServedPrecision, 'auto'>): Storage | undefined {
  switch (precision) {
    case 'f32':
      return undefined;
    case 'w8a8':
      return { ...chooseStorage({ precision: 'int8' }), w8a8: true };
    case 'int8':
      return chooseStorage({ precision: 'int8', blockSize: INT4_BLOCK });
    case 'int4':
      return chooseStorage({ precision: 'int4', blockSize: INT4_BLOCK });
  }
}

/** What an operator chose, as the loader takes it. */
export function compileChoice(
  precision: ServedPrecision,
  kv: KvFormat | 'auto',
): { readonly storage?: Storage; readonly kv: KvFormat } {
  const storage = storageFor(precision === 'auto' ? 'f32' : precision);
  return { kv: kv === 'auto' ? 'f32' : kv, ...(storage === undefined ? {} : { storage }) };
}
