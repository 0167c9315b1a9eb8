import koffi from 'koffi';
import type { DType } from '../../graph/graph.ts';
import { ONNX_ELEMENT_TYPE } from '../onnx-encode.ts';
import type { Tensor, TensorData } from '../session.ts';
import type { Pointer } from './api.ts';
import { type Library, OutPointer } from './library.ts';

const ELEMENT_BYTES: Readonly<Record<DType, number>> = { f32: 4, f16: 2, u8: 1, i8: 1, i64: 8, bool: 1 };
const ARRAY_OF = {
  f32: Float32Array,
  f16: Uint16Array,
  u8: Uint8Array,
  i8: Int8Array,
  i64: BigInt64Array,
  bool: Uint8Array,
} as const;

const DTYPE_OF_ELEMENT = new Map(
  Object.entries(ONNX_ELEMENT_TYPE).map(([dtype, element]) => [element, dtype as DType]),
);
const dtypeOfElement = (element: number): DType | undefined => DTYPE_OF_ELEMENT.get(element);

export const bytesOfShape = (dtype: DType, shape: readonly number[]): number =>
  shape.reduce((product, size) => product * size, ELEMENT_BYTES[dtype]);

/** A typed array of a dtype over memory. */
const arrayOver = (dtype: DType, memory: ArrayBuffer): TensorData => new ARRAY_OF[dtype](memory);

const MAX_RANK = 16;
const SMALL_BYTES = 1024;
/** Sizes are handed over as int64: lower and upper half of each. */
const halves = new Uint32Array(new ArrayBuffer(MAX_RANK * 8));
const sizes = new BigInt64Array(halves.buffer);
const out = new OutPointer();
/** Stands for the memory of tensors without elements, which may have no address. */
const nothing = new Uint8Array(new ArrayBuffer(128));

/**
 * Refuses what native code must not be given: memory that is too small for the shape, that may move or be taken away.
 * @throws Error that names the tensor
 */
export function checkTensor(name: string, { dtype, shape, data }: Tensor): void {
  if (shape.length > MAX_RANK || shape.some((size) => !Number.isSafeInteger(size) || size < 0))
    throw new Error(`tensor "${name}": [${shape}] is no shape; sizes are whole numbers, at most ${MAX_RANK} of them`);
  const bytes = bytesOfShape(dtype, shape);
  if (!(data instanceof ARRAY_OF[dtype]) || data.byteLength !== bytes)
    throw new Error(
      `tensor "${name}": ${dtype} [${shape}] needs a ${ARRAY_OF[dtype].name} of ${bytes} bytes, got a ${data.constructor.name} of ${data.byteLength}`,
    );
  const memory = data.buffer as ArrayBuffer & { readonly resizable?: boolean; readonly growable?: boolean };
  if (memory.resizable === true || memory.growable === true)
    throw new Error(
      `tensor "${name}" lies in a resizable buffer, whose memory can go away; copy it into one of fixed size`,
    );
}

/**
 * OrtValue* over the tensor's own memory: no copy. The caller keeps `tensor.data` alive as long as the value is used, and
 * releases the value.
 */
export function createValue({ api, cpuMemory }: Library, { dtype, shape, data }: Tensor): bigint {
  // A small typed array lies inside V8's heap until its buffer is asked for; from then on its memory stays where it is.
  const memory: Pointer = data.buffer.byteLength === 0 || data.byteLength === 0 ? nothing : data;
  for (let axis = 0; axis < shape.length; axis++) {
    const size = shape[axis] ?? 0;
    halves[2 * axis] = size >>> 0;
    halves[2 * axis + 1] = Math.floor(size / 2 ** 32);
  }
  out.memory[0] = 0n;
  const element = ONNX_ELEMENT_TYPE[dtype];
  api.createTensorWithDataAsOrtValue(cpuMemory, memory, data.byteLength, sizes, shape.length, element, out.memory);
  return out.take();
}

/** Element type and sizes of an OrtTensorTypeAndShapeInfo*; a size that is not fixed is -1. */
export function readTypeAndShape({ api }: Library, info: bigint): { dtype: DType | undefined; shape: number[] } {
  const element = out.count((type) => api.getTensorElementType(info, type));
  const rank = out.count((count) => api.getDimensionsCount(info, count));
  const dims = rank <= MAX_RANK ? sizes : new BigInt64Array(rank);
  api.getDimensions(info, dims, rank);
  return { dtype: dtypeOfElement(element), shape: Array.from(dims.subarray(0, rank), Number) };
}

/** Address of the sizes of a tensor, and how many they are. */
const [sizesAt, rankOf] = [new OutPointer(), new OutPointer()];

/**
 * A tensor that ONNX Runtime allocated, copied.
 * @param name of the output, for errors
 */
export function copyValue(library: Library, name: string, value: bigint): Tensor {
  const { dtype, shape } = readValueType(library, value);
  if (dtype === undefined) throw new Error(`output "${name}" is of a type that tensors here cannot have`);
  const bytes = bytesOfShape(dtype, shape);
  if (bytes === 0) return { dtype, shape, data: arrayOver(dtype, new ArrayBuffer(0)) };
  const address = out.handle((data) => library.api.getTensorMutableData(value, data));
  // A view takes longer to make than a few bytes to decode.
  const memory: ArrayBuffer =
    bytes <= SMALL_BYTES ? koffi.decode(address, 'uint8_t', bytes).buffer : koffi.view(address, bytes).slice(0);
  return { dtype, shape, data: arrayOver(dtype, memory) };
}

/** Type and sizes of an OrtValue* that holds a tensor. */
export function readValueType({ api }: Library, value: bigint): { dtype: DType | undefined; shape: number[] } {
  out.memory[0] = 0n;
  rankOf.memory[0] = 0n;
  api.getTensorElementTypeAndShapeDataReference(value, out.memory, sizesAt.memory, rankOf.memory);
  const rank = rankOf.number();
  const dims: ArrayLike<number | bigint> = rank === 0 ? [] : koffi.decode(sizesAt.take(), 'int64_t', rank);
  return { dtype: dtypeOfElement(out.number()), shape: Array.from(dims, Number) };
}
