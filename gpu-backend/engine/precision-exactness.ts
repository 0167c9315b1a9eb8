import * as g from '../graph/builder.ts';
import { Graph } from '../graph/graph.ts';
import { one } from '../graph/ops/infer.ts';
import { blockSizes } from '../io/quantize.ts';
import { f32, Session, type Tensor } from '../runtime/session.ts';
import { WEIGHT_FORMATS, type WeightFormat } from './precision.ts';

/**
 * Products of the largest 8-bit numbers there are. Without VNNI instructions x86 multiplies unsigned by signed bytes in pairs and adds
 * them in 16 bits: 255 · 127 · 2 does not fit and is cut to 32,767 (VPMADDUBSW), which no average input shows.
 */
const WIDTH = 512;
const OUTPUTS = 48;
/** Kernels differ by the number of rows. */
const ROWS = [1, 4, 24] as const;
const TOLERANCE = 1e-3;

/** By what is computed wrongly on this machine: what was expected and what came. */
export interface KernelFaults {
  readonly weights: Partial<Readonly<Record<WeightFormat, string>>>;
  /** Of int8 keys and values. */
  readonly kv: string | null;
}

/** Runs the product kernels of all formats over the ends of their ranges and compares with sums made by hand. */
export async function findKernelFaults(threads: number): Promise<KernelFaults> {
  const weights: Partial<Record<WeightFormat, string>> = {};
  const constant = await faultOfInt8('signed', 'param', threads);
  if (constant !== null) weights.w8a8 = constant;
  const mixed = constant ?? (await faultOfBlocks(8, 32, threads));
  if (mixed !== null) weights['w8a8/32'] = mixed;
  // Keys and values change with every run, so that other kernels may read them than weights.
  const kv = (await faultOfInt8('signed', 'data', threads)) ?? (await faultOfInt8('unsigned', 'data', threads));
  for (const format of WEIGHT_FORMATS) {
    if (format === 'f32' || format.startsWith('w8a8')) continue;
    const [kind, blockSize = '64'] = format.split('/');
    const fault = await faultOfBlocks(kind === 'int4' ? 4 : 8, Number(blockSize), threads);
    if (fault !== null) weights[format] = fault;
  }
  return { weights, kv };
}

async function faultOfInt8(
  range: 'signed' | 'unsigned',
  kind: 'param' | 'data',
  threads: number,
): Promise<string | null> {
  const zero = range === 'signed' ? 128 : 0;
  const steps = range === 'signed' ? 127 : 255;
  const graph = new Graph();
  const scale = graph.constant(Float32Array.of(1), []);
  const b = graph.input('b', 'i8', [WIDTH, OUTPUTS], kind);
  for (const rows of ROWS) {
    const a = graph.input(`a${rows}`, 'u8', [rows, WIDTH]);
    graph.output(`y${rows}`, one(graph.emit('matmulInt8', [a, b, scale], { range })));
  }
  // Columns take turns: all +127, all -127, and pairs that cancel out.
  const column = (k: number, n: number): number => (n % 3 === 0 ? 127 : n % 3 === 1 ? -127 : k % 2 === 0 ? 127 : -127);
  const data = Int8Array.from({ length: WIDTH * OUTPUTS }, (_, i) => column(Math.floor(i / OUTPUTS), i % OUTPUTS));
  const second = new Map<string, Tensor>([['b', { dtype: 'i8', shape: [WIDTH, OUTPUTS], data }]]);
  const session = await Session.create(graph, { threads, ...(kind === 'param' ? { initializers: second } : {}) });
  try {
    // Rows take turns too: the largest number, the smallest.
    const value = (m: number): number => (m % 2 === 0 ? 255 : 255 - 2 * steps + (range === 'unsigned' ? 255 : 0));
    const feeds = Object.fromEntries(
      ROWS.map((rows): [string, Tensor] => [
        `a${rows}`,
        {
          dtype: 'u8',
          shape: [rows, WIDTH],
          data: Uint8Array.from({ length: rows * WIDTH }, (_, i) => value(Math.floor(i / WIDTH))),
        },
      ]),
    );
    const results = await session.run(kind === 'param' ? feeds : { ...feeds, ...Object.fromEntries(second) });
    const most = (255 - zero) * 127 * (WIDTH / steps);
    for (const rows of ROWS) {
      const fault = firstFault(results[`y${rows}`]?.data as Float32Array, most, (m, n) => {
        let sum = 0;
        for (let k = 0; k < WIDTH; k++) sum += (value(m) - zero) * column(k, n);
        return sum / steps;
      });
      if (fault !== null) return `8-bit products of ${rows} row${rows === 1 ? '' : 's'} are wrong: ${fault}`;
    }
    return null;
  } finally {
    await session.release();
  }
}

async function faultOfBlocks(bits: 4 | 8, blockSize: number, threads: number): Promise<string | null> {
  const { blocks, bytes } = blockSizes(WIDTH, { bits, blockSize });
  const graph = new Graph();
  const packed = graph.input('packed', 'u8', [OUTPUTS, blocks, bytes / blocks], 'param');
  const scales = graph.input('scales', 'f32', [OUTPUTS, blocks], 'param');
  for (const rows of ROWS) {
    const x = graph.input(`x${rows}`, 'f32', [rows, WIDTH]);
    graph.output(`y${rows}`, g.linearNBits(graph, x, packed, scales, { bits, blockSize, accuracyLevel: 4 }));
  }
  // The numbers of a block are stored from 0 up, half of the range being zero: rows of the smallest and of the largest.
  const [least, most] = bits === 4 ? [-8, 7] : [-128, 127];
  const outputs = (n: number): number => (n % 2 === 0 ? least : most);
  const byte = (n: number): number => (bits === 4 ? (n % 2 === 0 ? 0 : 255) : n % 2 === 0 ? 0 : 255);
  const perOutput = bytes;
  const initializers = new Map<string, Tensor>([
    [
      'packed',
      {
        dtype: 'u8',
        shape: [OUTPUTS, blocks, bytes / blocks],
        data: Uint8Array.from({ length: OUTPUTS * perOutput }, (_, i) => byte(Math.floor(i / perOutput))),
      },
    ],
    ['scales', f32(new Float32Array(OUTPUTS * blocks).fill(1), [OUTPUTS, blocks])],
  ]);
  const session = await Session.create(graph, { threads, initializers });
  try {
    const sign = (m: number): number => (m % 2 === 0 ? 1 : -1);
    const feeds = Object.fromEntries(
      ROWS.map((rows): [string, Tensor] => [
        `x${rows}`,
        f32(
          Float32Array.from({ length: rows * WIDTH }, (_, i) => sign(Math.floor(i / WIDTH))),
          [rows, WIDTH],
        ),
      ]),
    );
    const results = await session.run(feeds);
    for (const rows of ROWS) {
      const fault = firstFault(
        results[`y${rows}`]?.data as Float32Array,
        -least * WIDTH,
        (m, n) => sign(m) * outputs(n) * WIDTH,
      );
      if (fault !== null) return `${bits}-bit products of ${rows} row${rows === 1 ? '' : 's'} are wrong: ${fault}`;
    }
    return null;
  } finally {
    await session.release();
  }
}

function firstFault(got: Float32Array, most: number, want: (row: number, output: number) => number): string | null {
  for (const [i, value] of got.entries()) {
    const wanted = want(Math.floor(i / OUTPUTS), i % OUTPUTS);
    if (!(Math.abs(value - wanted) <= TOLERANCE * most))
      return `expected ${Math.round(wanted)}, received ${Math.round(value)} (saturated?)`;
  }
  return null;
}
