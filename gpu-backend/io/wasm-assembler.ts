/**
 * A few dozen lines of WebAssembly encoding (https://webassembly.github.io/spec/core/binary/), enough for loops over
 * one memory with 128-bit SIMD: the optimizer and quantiser kernels are written in TypeScript and need no compiler and no
 * binary file.
 */

/** The part of the WebAssembly API used here; Node has it, the ES library types do not name it. */
interface WebAssemblyApi {
  Memory: new (descriptor: { initial: number; maximum?: number }) => WasmMemory;
  Module: new (bytes: Uint8Array) => object;
  Instance: new (
    module: object,
    imports: Readonly<Record<string, Readonly<Record<string, unknown>>>>,
  ) => {
    readonly exports: Readonly<Record<string, unknown>>;
  };
}

export interface WasmMemory {
  readonly buffer: ArrayBuffer;
}

export const wasm = (globalThis as unknown as { WebAssembly: WebAssemblyApi }).WebAssembly;

export const I32 = 0x7f;
export const F32 = 0x7d;
export const F64 = 0x7c;
const V128 = 0x7b;

/** LEB128 of an unsigned number; `signed`: as a reader of signed LEB128 takes it. */
export function leb(value: number, signed = false): number[] {
  const out: number[] = [];
  let rest = value >>> 0;
  do {
    const low = rest & 0x7f;
    rest >>>= 7;
    out.push(rest === 0 && !(signed && low >= 0x40) ? low : low | 0x80);
  } while (rest !== 0);
  if (signed && (out.at(-1) ?? 0) >= 0x80) out.push(0);
  return out;
}

const simd = (code: number): number[] => [0xfd, ...leb(code)];

/** Instructions as byte lists; concatenate with flat(). */
export const ins = {
  get: (local: number): number[] => [0x20, ...leb(local)],
  set: (local: number): number[] => [0x21, ...leb(local)],
  /** Of a number from 0 on; the constant is signed LEB128, so bit 6 of the last byte must be 0. */
  i32Const: (value: number): number[] => [0x41, ...leb(value, true)],
  i32Add: [0x6a],
  i32LtU: [0x49],
  f64Add: [0xa0],
  /** v128.load / v128.store at (address) + offset, 16-byte aligned. */
  load: [...simd(0x00), 4, 0],
  store: [...simd(0x0b), 4, 0],
  /** v128.load at (address) + offset. */
  loadAt: (offsetBytes: number): number[] => [...simd(0x00), 0, ...leb(offsetBytes)],
  /** The low 4, 8 or all 16 bytes of a vector stored at (address) + offset. */
  storeLow4: (offsetBytes: number): number[] => [...simd(0x5a), 0, ...leb(offsetBytes), 0],
  storeLow8: (offsetBytes: number): number[] => [...simd(0x5b), 0, ...leb(offsetBytes), 0],
  storeAt: (offsetBytes: number): number[] => [...simd(0x0b), 0, ...leb(offsetBytes)],
  f32Const: (value: number): number[] => [0x43, ...new Uint8Array(Float32Array.of(value).buffer)],
  /** Bytes 0 … 15 of the first and 16 … 31 of the second operand, by index. */
  shuffle: (bytes: readonly number[]): number[] => [...simd(0x0d), ...bytes],
  splat32: simd(0x13),
  splat64: simd(0x14),
  add32: simd(0xe4),
  sub32: simd(0xe5),
  mul32: simd(0xe6),
  div32: simd(0xe7),
  sqrt32: simd(0xe3),
  neg32: simd(0xe1),
  /** second < first ? second : first, and first < second ? second : first: one instruction, for numbers only. */
  min32: simd(0xea),
  max32: simd(0xeb),
  eq32: simd(0x41),
  gt32: simd(0x44),
  and: simd(0x4e),
  /** first & ~second */
  andNot: simd(0x4f),
  or: simd(0x50),
  /** Bits of the first where the third is 1, of the second elsewhere. */
  select: simd(0x52),
  /** Two vectors of i32 → one of i16, signed saturation; two of i16 → one of u8, unsigned saturation. */
  narrow32: simd(0x85),
  narrow16: simd(0x66),
  minU8: simd(0x77),
  splatI8: simd(0x0f),
  splatI16: simd(0x10),
  splatI32: simd(0x11),
  shiftRightU16: simd(0x8d),
  add64: simd(0xf0),
  mul64: simd(0xf2),
  /** The two low f32 lanes as f64. */
  promoteLow: simd(0x5f),
  lane64: (lane: number): number[] => [...simd(0x21), lane],
  /** High half of a vector moved to its low half. */
  highToLow: [...simd(0x0d), 8, 9, 10, 11, 12, 13, 14, 15, 8, 9, 10, 11, 12, 13, 14, 15],
  /** Repeats `body` while the i32 that `condition` leaves is not 0; the body runs at least once. */
  loop: (body: readonly number[], condition: readonly number[]): number[] => [
    0x03,
    0x40,
    ...body,
    ...condition,
    0x0d,
    0,
    0x0b,
  ],
} as const;

export interface WasmFunction {
  readonly name: string;
  readonly params: readonly number[];
  readonly result?: number;
  /** Number of v128 locals; their indices follow the parameters. */
  readonly vectors: number;
  readonly body: readonly number[];
}

const section = (id: number, items: readonly (readonly number[])[]): number[] => {
  const content = [...leb(items.length), ...items.flat()];
  return [id, ...leb(content.length), ...content];
};
const text = (value: string): number[] => [...leb(value.length), ...new TextEncoder().encode(value)];

/** A module that imports memory `env.memory` and exports the functions. */
export function assembleModule(functions: readonly WasmFunction[]): Uint8Array {
  const types = functions.map((f) => [
    0x60,
    ...leb(f.params.length),
    ...f.params,
    ...(f.result === undefined ? [0] : [1, f.result]),
  ]);
  const bodies = functions.map((f) => {
    const code = [...(f.vectors === 0 ? [0] : [1, ...leb(f.vectors), V128]), ...f.body, 0x0b];
    return [...leb(code.length), ...code];
  });
  return Uint8Array.from([
    ...[0x00, 0x61, 0x73, 0x6d, 1, 0, 0, 0],
    ...section(1, types),
    ...section(2, [[...text('env'), ...text('memory'), 0x02, 0x00, ...leb(0)]]),
    ...section(
      3,
      functions.map((_, i) => leb(i)),
    ),
    ...section(
      7,
      functions.map((f, i) => [...text(f.name), 0x00, ...leb(i)]),
    ),
    ...section(10, bodies),
  ]);
}
