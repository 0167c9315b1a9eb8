import type { BlockFormat } from './quantize.ts';
import { assembleModule, I32, ins, type WasmFunction, wasm } from './wasm-assembler.ts';

const { get, set } = ins;
const [FROM, PACKED, SCALES, END] = [0, 1, 2, 3];
/** v128 locals: the largest and smallest values, the factor, what is worked on, and a sum that shows values that are not finite. */
const [HIGH, LOW, FACTOR, A, SUM] = [4, 5, 6, 7, 8];
const VECTORS = 5;

/** Puts the other halves, then the other neighbours, beside each lane. */
const SWAP_HALVES = ins.shuffle([8, 9, 10, 11, 12, 13, 14, 15, 0, 1, 2, 3, 4, 5, 6, 7]);
const SWAP_NEIGHBOURS = ins.shuffle([4, 5, 6, 7, 0, 1, 2, 3, 12, 13, 14, 15, 8, 9, 10, 11]);
/**
 * Four bf16 become four f32 by two zero bytes below each: 0 … 15 are zeros, 16 … 31 the vector. In this order of bytes the
 * shuffle is one instruction.
 */
const WIDEN = [0, 8].map((first) =>
  ins.shuffle([0, 2, 4, 6].map((byte) => first + byte).flatMap((byte) => [byte, byte + 1, 16 + byte, 17 + byte])),
);
/** f32 numbers from 1.5 · 2^23 on are whole: added to a small number, it rounds it, to even at ties. */
const ROUNDER = 12582912;
const splat = (value: number): number[] => [...ins.f32Const(value), ...ins.splat32];
const advance = (pointer: number, bytes: number): number[] => [
  ...get(pointer),
  ...ins.i32Const(bytes),
  ...ins.i32Add,
  ...set(pointer),
];

/**
 * quantize(from, packed, scales, end of from): whole blocks of f32 or bf16 → bytes and scales, the rule of quantize.ts in f32
 * arithmetic. A block with a value that is not finite gets a scale that is not finite.
 */
function quantizeFunction({ bits, blockSize }: BlockFormat, dtype: 'f32' | 'bf16'): WasmFunction {
  const bytes = dtype === 'f32' ? 4 : 2;
  /** Values 4n … 4n+3 of the block as f32. */
  const four = (n: number): number[] =>
    dtype === 'f32'
      ? [...get(FROM), ...ins.loadAt(16 * n)]
      : [...splat(0), ...get(FROM), ...ins.loadAt(16 * (n >> 1)), ...(WIDEN[n & 1] ?? [])];
  const vectors = Array.from({ length: blockSize / 4 }, (_, n) => n);
  const steps = 2 ** (bits - 1);
  /** i32 of values 4n … 4n+3: x · factor + steps, rounded; 0 … 2 · steps stands in the low bits of the sum with ROUNDER. */
  const level = (n: number): number[] => [
    ...[...four(n), ...get(FACTOR), ...ins.mul32, ...splat(ROUNDER + steps), ...ins.add32],
    ...[...ins.i32Const(511), ...ins.splatI32, ...ins.and],
  ];
  /** Sixteen levels as bytes; the one beyond 8 bits saturates. */
  const sixteen = (n: number): number[] => [
    ...[...level(n), ...level(n + 1), ...ins.narrow32],
    ...[...level(n + 2), ...level(n + 3), ...ins.narrow32, ...ins.narrow16],
  ];
  const stored = (n: number): number[] => {
    if (bits === 8) return [...get(PACKED), ...sixteen(n), ...ins.storeAt(4 * n)];
    return [
      ...[...sixteen(n), ...ins.i32Const(15), ...ins.splatI8, ...ins.minU8, ...set(A)],
      ...get(PACKED),
      // Two neighbours share 16 bits, low + 256 · high: the high one comes down to bits 4 … 7.
      ...[...get(A), ...get(A), ...ins.i32Const(4), ...ins.shiftRightU16, ...ins.or],
      ...[...ins.i32Const(255), ...ins.splatI16, ...ins.and, ...set(A), ...get(A), ...get(A), ...ins.narrow16],
      ...ins.storeLow8(2 * n),
    ];
  };
  return {
    name: 'quantize',
    params: [I32, I32, I32, I32],
    vectors: VECTORS,
    body: ins.loop(
      [
        ...[...four(0), ...set(HIGH), ...get(HIGH), ...set(LOW), ...get(HIGH), ...set(SUM)],
        ...vectors
          .slice(1)
          .flatMap((n) => [
            ...[...four(n), ...set(A)],
            ...[...get(HIGH), ...get(A), ...ins.max32, ...set(HIGH)],
            ...[...get(LOW), ...get(A), ...ins.min32, ...set(LOW)],
            ...[...get(SUM), ...get(A), ...ins.add32, ...set(SUM)],
          ]),
        ...[HIGH, LOW].flatMap((vector) => {
          const op = vector === HIGH ? ins.max32 : ins.min32;
          // shuffle takes two operands; only the first is looked at.
          return [SWAP_HALVES, SWAP_NEIGHBOURS].flatMap((swap) => [
            ...[...get(vector), ...get(vector), ...get(vector), ...swap, ...op, ...set(vector)],
          ]);
        }),
        // The one of larger magnitude, over -steps.
        ...[...get(HIGH), ...get(LOW)],
        ...[...get(HIGH), ...get(LOW), ...ins.neg32, ...ins.gt32, ...ins.select],
        ...[...splat(-1 / steps), ...ins.mul32],
        // Σ x · 0 is 0, or not a number where a value is not finite; across lanes as above.
        ...[...get(SUM), ...get(SUM), ...get(SUM), ...SWAP_HALVES, ...ins.add32, ...set(SUM)],
        ...[...get(SUM), ...get(SUM), ...get(SUM), ...SWAP_NEIGHBOURS, ...ins.add32, ...splat(0), ...ins.mul32],
        ...[...ins.add32, ...set(A)],
        ...[...get(SCALES), ...get(A), ...ins.storeLow4(0)],
        // 1 / scale, and 0 for a block of zeros.
        ...[...splat(1), ...get(A), ...ins.div32, ...get(A), ...splat(0), ...ins.eq32, ...ins.andNot, ...set(FACTOR)],
        ...vectors.filter((n) => n % 4 === 0).flatMap(stored),
        ...advance(FROM, blockSize * bytes),
        ...advance(PACKED, (blockSize * bits) / 8),
        ...advance(SCALES, 4),
      ],
      [...get(FROM), ...get(END), ...ins.i32LtU],
    ),
  };
}

export type QuantizeKernel = (from: number, packed: number, scales: number, end: number) => void;

/** The kernel over a memory of its own. */
export function compileQuantizer(
  format: BlockFormat,
  dtype: 'f32' | 'bf16',
  memoryBytes: number,
): { readonly memory: ArrayBuffer; readonly quantize: QuantizeKernel } {
  const memory = new wasm.Memory({ initial: Math.ceil(memoryBytes / 65536) });
  const module = new wasm.Module(assembleModule([quantizeFunction(format, dtype)]));
  const { exports } = new wasm.Instance(module, { env: { memory } });
  return { memory: memory.buffer, quantize: exports.quantize as QuantizeKernel };
}
