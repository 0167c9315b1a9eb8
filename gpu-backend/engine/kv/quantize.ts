/**
 * Quantising keys and values on their way into an int8 cache: symmetric, one scale per row (token and head),
 * scale = max|x| / 127, q = x / scale rounded to the nearest, halves to even. Rows whose largest number is below 1e-30 become
 * zeros. A row with a number that is not finite gets a scale that is not, and zeros: whatever attends to it shows it, instead
 * of a silently wrong number taking its place.
 *
 * The arithmetic is f32 in both implementations, to the bit: whether a prompt came in one chunk or in many cannot be seen.
 */
import { assembleModule, I32, ins, leb, type WasmFunction, wasm } from '../../io/wasm-assembler.ts';

/** A small memory in which rows are quantised: caller fills `floats`, calls `run`, reads `quantized` and `scales`. */
export interface QuantizeStage {
  /** [row, D] */
  readonly floats: Float32Array;
  /** [row, D] */
  readonly quantized: Int8Array;
  /** [row] */
  readonly scales: Float32Array;
  /** Numbers that fit at a time. */
  readonly size: number;
  /** Quantises the first `rows` rows of `D` numbers each. */
  run(rows: number, D: number): void;
}

/** 128 KiB of f32: stays in the second-level cache between filling and reading. */
const STAGE_NUMBERS = 32_768;
const SMALLEST = 1e-30;

const { get, set } = ins;
const simd = (code: number): number[] => [0xfd, ...leb(code)];
const nearest32 = simd(0x6a);
const truncate32 = simd(0xf8);
const narrow16Signed = simd(0x65);
const maxI32 = simd(0xb8);
const moveTo = (to: number, from: number): number[] => [...get(from), ...set(to)];
const add = (local: number, bytes: number): number[] => [
  ...get(local),
  ...ins.i32Const(bytes),
  ...ins.i32Add,
  ...set(local),
];
/** The vector's lanes turned by `bytes`. */
const rotated = (local: number, bytes: number): number[] => [
  ...get(local),
  ...get(local),
  ...ins.shuffle(Array.from({ length: 16 }, (_, index) => (index + bytes) % 16)),
];

/**
 * quantize(floats, quantized, scales, end of floats, bytes of a row, -, -); rows of 16·n numbers.
 * The sizes of f32 numbers compare like their bits, and there anything not finite is largest.
 */
const quantizeFunction: WasmFunction = {
  name: 'quantize',
  params: Array.from({ length: 7 }, () => I32), // 5: end of the row, 6: cursor
  vectors: 6, // 7: largest, 8: inverse of the scale, 9: bits of a size, 10: 127, 11: smallest, 12: zero
  body: [
    ...[...ins.i32Const(0x7fffffff), ...ins.splatI32, ...set(9)],
    ...[...ins.f32Const(127), ...ins.splat32, ...set(10), ...ins.f32Const(SMALLEST), ...ins.splat32, ...set(11)],
    ...ins.loop(
      [
        ...[...get(0), ...get(4), ...ins.i32Add, ...set(5), ...moveTo(6, 0), ...moveTo(7, 12)],
        ...ins.loop(
          [
            ...[0, 16, 32, 48].flatMap((at) => [
              ...[...get(7), ...get(6), ...ins.loadAt(at), ...get(9), ...ins.and, ...maxI32, ...set(7)],
            ]),
            ...add(6, 64),
          ],
          [...get(6), ...get(5), ...ins.i32LtU],
        ),
        ...[...get(7), ...rotated(7, 8), ...maxI32, ...set(7), ...get(7), ...rotated(7, 4), ...maxI32, ...set(7)],
        ...[...get(2), ...get(7), ...get(10), ...ins.div32, ...ins.storeLow4(0), ...add(2, 4)],
        ...[...get(10), ...get(7), ...ins.div32, ...get(7), ...get(11), ...ins.gt32, ...ins.and, ...set(8)],
        ...moveTo(6, 0),
        ...ins.loop(
          [
            ...get(1),
            ...[0, 32].flatMap((at) => [
              ...[...get(6), ...ins.loadAt(at), ...get(8), ...ins.mul32, ...nearest32, ...truncate32],
              ...[...get(6), ...ins.loadAt(at + 16), ...get(8), ...ins.mul32, ...nearest32, ...truncate32],
              ...ins.narrow32,
            ]),
            ...[...narrow16Signed, ...ins.storeAt(0), ...add(1, 16), ...add(6, 64)],
          ],
          [...get(6), ...get(5), ...ins.i32LtU],
        ),
        ...moveTo(0, 5),
      ],
      [...get(0), ...get(3), ...ins.i32LtU],
    ),
  ],
};

type QuantizeExport = (floats: number, quantized: number, scales: number, end: number, rowBytes: number) => void;

/** The definition, in plain typed arrays; also for rows whose length is no multiple of 16. */
export function quantizeReference(
  floats: Float32Array,
  quantized: Int8Array,
  scales: Float32Array,
  rows: number,
  D: number,
): void {
  const { fround } = Math;
  // Adding and taking away 1.5·2^23 leaves an f32 with no bits behind the point: the nearest integer, halves to even.
  const magic = 12_582_912;
  for (let row = 0; row < rows; row++) {
    let max = 0;
    let finite = true;
    for (let at = row * D; at < (row + 1) * D; at++) {
      const size = Math.abs(floats[at]!);
      if (size > max) max = size;
      else if (Number.isNaN(size)) finite = false;
    }
    if (!finite || max === Number.POSITIVE_INFINITY) {
      quantized.fill(0, row * D, (row + 1) * D);
      scales[row] = finite ? max : Number.NaN;
      continue;
    }
    const inverse = max > fround(SMALLEST) ? fround(127 / max) : 0;
    for (let at = row * D; at < (row + 1) * D; at++)
      quantized[at] = fround(fround(fround(floats[at]! * inverse) + magic) - magic);
    scales[row] = max / 127;
  }
}

let stage: QuantizeStage | undefined;

/** The thread's stage. About 0.3 ns a number where the loop above takes 3 ns. */
export function quantizeStage(): QuantizeStage {
  if (stage !== undefined) return stage;
  const memory = new wasm.Memory({ initial: 3 });
  const { exports } = new wasm.Instance(new wasm.Module(assembleModule([quantizeFunction])), { env: { memory } });
  const quantize = exports.quantize as QuantizeExport;
  const floats = new Float32Array(memory.buffer, 0, STAGE_NUMBERS);
  const quantized = new Int8Array(memory.buffer, 4 * STAGE_NUMBERS, STAGE_NUMBERS);
  const scales = new Float32Array(memory.buffer, 5 * STAGE_NUMBERS, STAGE_NUMBERS / 4);
  stage = {
    floats,
    quantized,
    scales,
    size: STAGE_NUMBERS,
    run: (rows, D) => {
      if (D % 16 === 0) quantize(0, quantized.byteOffset, scales.byteOffset, 4 * rows * D, 4 * D);
      else quantizeReference(floats, quantized, scales, rows, D);
    },
  };
  return stage;
}
