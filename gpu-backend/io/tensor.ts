import { bfloat16ToFloat16, decodeBfloat16, decodeFloat16, encodeBfloat16, encodeFloat16 } from './half.ts';

/** Bytes per element of every element type that a safetensors file can name and we can hold. */
export const DTYPE_BYTES = {
  f64: 8,
  i64: 8,
  u64: 8,
  f32: 4,
  i32: 4,
  u32: 4,
  f16: 2,
  bf16: 2,
  i16: 2,
  u16: 2,
  i8: 1,
  u8: 1,
  bool: 1,
  f8_e4m3: 1,
  f8_e5m2: 1,
} as const;

export type StoredDtype = keyof typeof DTYPE_BYTES;

/** A tensor as it lies on disk: little-endian elements in row-major order. */
export interface RawTensor {
  readonly dtype: StoredDtype;
  readonly shape: readonly number[];
  readonly data: Uint8Array;
}

/** Number of elements of a shape; 1 for a scalar's []. */
export function elementCount(shape: readonly number[]): number {
  return shape.reduce((product, dim) => product * dim, 1);
}

/** A typed view needs aligned bytes: the same memory where it is aligned, a copy where it is not. */
function aligned(data: Uint8Array, bytes: number): Uint8Array {
  return data.byteOffset % bytes === 0 ? data : new Uint8Array(data);
}

/**
 * The values as float32, whatever the stored type. An aligned f32 tensor is returned as a view of the same memory; every
 * other type is converted (64-bit integers and f64 lose precision beyond 24 bits).
 */
export function toFloat32(tensor: RawTensor): Float32Array {
  const { dtype } = tensor;
  const data = aligned(tensor.data, DTYPE_BYTES[dtype]);
  const { buffer, byteOffset } = data;
  const count = data.byteLength / DTYPE_BYTES[dtype];
  switch (dtype) {
    case 'f32':
      return new Float32Array(buffer, byteOffset, count);
    case 'f16':
      return decodeFloat16(new Uint16Array(buffer, byteOffset, count));
    case 'bf16':
      return decodeBfloat16(new Uint16Array(buffer, byteOffset, count));
    case 'f64':
      return Float32Array.from(new Float64Array(buffer, byteOffset, count));
    case 'i64':
      return Float32Array.from(new BigInt64Array(buffer, byteOffset, count), Number);
    case 'u64':
      return Float32Array.from(new BigUint64Array(buffer, byteOffset, count), Number);
    case 'i32':
      return Float32Array.from(new Int32Array(buffer, byteOffset, count));
    case 'u32':
      return Float32Array.from(new Uint32Array(buffer, byteOffset, count));
    case 'i16':
      return Float32Array.from(new Int16Array(buffer, byteOffset, count));
    case 'u16':
      return Float32Array.from(new Uint16Array(buffer, byteOffset, count));
    case 'i8':
      return Float32Array.from(new Int8Array(buffer, byteOffset, count));
    case 'u8':
    case 'bool':
      return Float32Array.from(data);
    case 'f8_e4m3':
    case 'f8_e5m2':
      throw new Error(
        `expected a tensor of a type with a float32 reading, got ${dtype}: convert the checkpoint to bf16 first`,
      );
  }
}

/**
 * The values as 32-bit integers (token ids, positions).
 * @throws Error when the type is not an integer type or a 64-bit value does not fit
 */
export function toInt32(tensor: RawTensor): Int32Array {
  const { dtype } = tensor;
  const data = aligned(tensor.data, DTYPE_BYTES[dtype]);
  const { buffer, byteOffset } = data;
  const count = data.byteLength / DTYPE_BYTES[dtype];
  if (dtype === 'i32') return new Int32Array(buffer, byteOffset, count);
  if (dtype === 'i64') {
    const wide = new BigInt64Array(buffer, byteOffset, count);
    return Int32Array.from(wide, (value) => {
      if (value !== BigInt.asIntN(32, value)) throw new Error(`expected 32-bit integers, got the value ${value}`);
      return Number(value);
    });
  }
  if (dtype === 'u8' || dtype === 'bool') return Int32Array.from(data);
  if (dtype === 'i16') return Int32Array.from(new Int16Array(buffer, byteOffset, count));
  throw new Error(`expected an integer tensor, got ${dtype}`);
}

/** Bytes of a typed array, without copying. */
export function bytesOf(values: ArrayBufferView): Uint8Array {
  return new Uint8Array(values.buffer, values.byteOffset, values.byteLength);
}

/** A float32 array as a tensor of the given float type (f32 shares the memory). */
export function fromFloat32(
  values: Float32Array,
  shape: readonly number[],
  dtype: 'f32' | 'f16' | 'bf16' = 'f32',
): RawTensor {
  if (elementCount(shape) !== values.length) {
    throw new Error(`expected ${elementCount(shape)} values for shape [${shape.join(', ')}], got ${values.length}`);
  }
  const stored = dtype === 'f32' ? values : dtype === 'f16' ? encodeFloat16(values) : encodeBfloat16(values);
  return { dtype, shape, data: bytesOf(stored) };
}

/**
 * The values in another float type; the same memory where the type is the same.
 * @throws Error when a value is not finite in f16 (beyond 65504) or not finite at all
 */
export function convertFloats(tensor: RawTensor, to: 'f32' | 'f16' | 'bf16'): Uint8Array {
  if (tensor.dtype === to) return tensor.data;
  if (to === 'f32') return bytesOf(toFloat32(tensor));
  if (to === 'bf16') return bytesOf(encodeBfloat16(toFloat32(tensor)));
  const data = aligned(tensor.data, 2);
  const half =
    tensor.dtype === 'bf16'
      ? bfloat16ToFloat16(new Uint16Array(data.buffer, data.byteOffset, data.byteLength / 2))
      : encodeFloat16(toFloat32(tensor));
  for (let i = 0; i < half.length; i++)
    if ((half[i]! & 0x7c00) === 0x7c00) throw new Error('a value is not finite in f16 (beyond 65504)');
  return bytesOf(half);
}
