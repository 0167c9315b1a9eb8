import { blockSizes, Quantizers } from '../io/quantize.ts';
import { bytesOf, convertFloats } from '../io/tensor.ts';
import type { Tensor } from '../runtime/session.ts';
import { INT8_SUFFIX, JOINED, PACKED_SUFFIX, SCALE_SUFFIX, type Storage } from './storage.ts';
import type { ModelGraph } from './vlm.ts';

/** One column scale symmetric int8: q = round(w / scale), scale = max|w| / 127 of the output. */
const INT8_STEPS = 127;

/**
 * The weights that a graph declares, stored as it declares them, from f32 weights: what a session takes as its constants.
 * @param weights by canonical name, [out, in]
 * @param known what was made before for another graph of the model; left out of the result
 * @throws Error naming the first weight that is missing or of another shape
 */
export function servingWeights(
  { graph }: Pick<ModelGraph, 'graph'>,
  weights: ReadonlyMap<string, Tensor>,
  storage?: Pick<Storage, 'precision' | 'blockSize'>,
  known: ReadonlyMap<string, Tensor> = new Map(),
): Map<string, Tensor> {
  const stored = new Map<string, Tensor>();
  const quantizers = new Quantizers();
  const shapes = new Map(graph.inputs.map(({ name, value }) => [name, value.shape]));
  for (const { name, kind, value } of graph.inputs) {
    if (kind !== 'param' || stored.has(name) || known.has(name)) continue;
    const shape = value.shape as readonly number[];
    const module = [PACKED_SUFFIX, INT8_SUFFIX].find((suffix) => name.endsWith(suffix));
    if (name.endsWith(SCALE_SUFFIX)) continue; // made together with the values
    if (module === undefined) {
      const floats = floatsOf(weights, name, shape);
      stored.set(name, value.dtype === 'f16' ? halves(floats, shape) : { dtype: 'f32', shape, data: floats });
      continue;
    }
    const base = name.slice(0, -module.length);
    const scaleName = base + SCALE_SUFFIX;
    const scaleShape = shapes.get(scaleName) as readonly number[];
    if (module === INT8_SUFFIX) {
      const [width, out] = shape as readonly [number, number];
      const { values, scales } = int8Columns(floatsOf(weights, `${base}.weight`, [out, width]), out, width);
      stored.set(name, { dtype: 'i8', shape, data: values });
      stored.set(scaleName, { dtype: 'f32', shape: scaleShape, data: scales });
      continue;
    }
    if (storage === undefined) throw new Error(`${name} is quantised, but no storage says how`);
    const [out, blocks, blockBytes] = shape as readonly [number, number, number];
    const format = { blockSize: storage.blockSize, bits: (blockBytes * 8) / storage.blockSize === 4 ? 4 : 8 } as const;
    const [first = ''] = sourcesOf(`${base}.weight`);
    const width = weights.get(first)?.shape[1] ?? 0;
    const floats = floatsOf(weights, `${base}.weight`, [out, width]);
    if (blockSizes(width, format).blocks !== blocks)
      throw new Error(`${base}.weight is ${width} wide, the graph expects ${blocks} blocks of ${format.blockSize}`);
    const packed = new Uint8Array(out * blocks * blockBytes);
    const scales = new Float32Array(out * blocks);
    quantizers.of(width, format, 'f32').quantize(bytesOf(floats), packed, scales);
    stored.set(name, { dtype: 'u8', shape, data: packed });
    stored.set(scaleName, { dtype: 'f32', shape: scaleShape, data: scales });
  }
  return stored;
}

/** Names of the weights that one of a graph consists of: those of joined layers are one behind the other. */
function sourcesOf(name: string): readonly string[] {
  const [start, end] = [name.slice(0, -'.weight'.length).lastIndexOf('.') + 1, name.lastIndexOf('.')];
  const layers = name.slice(start, end).split(JOINED);
  return layers.length === 1 ? [name] : layers.map((layer) => name.slice(0, start) + layer + name.slice(end));
}

function floatsOf(weights: ReadonlyMap<string, Tensor>, name: string, shape: readonly number[]): Float32Array {
  const sources = sourcesOf(name);
  if (sources.length === 1) return ownFloats(weights, name, shape);
  const [rows = 0, width = 0] = shape;
  const joined = new Float32Array(rows * width);
  let at = 0;
  for (const source of sources) {
    const floats = ownFloats(weights, source, [weights.get(source)?.shape[0] ?? 0, width]);
    if (at + floats.length > joined.length) throw new Error(`${sources.join(' and ')} have more than ${rows} rows`);
    joined.set(floats, at);
    at += floats.length;
  }
  if (at !== joined.length) throw new Error(`${sources.join(' and ')} have ${at / width} rows, expected ${rows}`);
  return joined;
}

function ownFloats(weights: ReadonlyMap<string, Tensor>, name: string, shape: readonly number[]): Float32Array {
  const tensor = weights.get(name);
  if (tensor === undefined) throw new Error(`the weights lack ${name}, expected ${shape.join('x')}`);
  if (tensor.shape.join() !== shape.join())
    throw new Error(`weight ${name}: expected ${shape.join('x')}, received ${tensor.shape.join('x')}`);
  if (!(tensor.data instanceof Float32Array)) throw new Error(`weight ${name}: expected f32, received ${tensor.dtype}`);
  return tensor.data;
}

function halves(floats: Float32Array, shape: readonly number[]): Tensor {
  const bytes = convertFloats({ dtype: 'f32', shape, data: bytesOf(floats) }, 'f16');
  return { dtype: 'f16', shape, data: new Uint16Array(bytes.buffer, bytes.byteOffset, bytes.byteLength / 2) };
}

/** Rows of a weight [out, in] as columns [in, out] of int8; in tiles, so that neither side is walked against the cache. */
function int8Columns(
  weight: Float32Array,
  out: number,
  width: number,
): { readonly values: Int8Array; readonly scales: Float32Array } {
  const values = new Int8Array(width * out);
  const scales = new Float32Array(out);
  const factors = new Float32Array(out);
  for (let o = 0; o < out; o++) {
    let most = 0;
    for (let i = o * width; i < (o + 1) * width; i++) {
      const magnitude = Math.abs(weight[i]!);
      if (!(magnitude <= most)) most = magnitude; // also when it is NaN
    }
    if (!Number.isFinite(most)) throw new Error(`row ${o}: expected finite values, found one that is not`);
    scales[o] = most / INT8_STEPS;
    factors[o] = most === 0 ? 0 : INT8_STEPS / most;
  }
  const tile = 32;
  for (let o0 = 0; o0 < out; o0 += tile)
    for (let i0 = 0; i0 < width; i0 += tile) {
      const [oEnd, iEnd] = [Math.min(out, o0 + tile), Math.min(width, i0 + tile)];
      for (let i = i0; i < iEnd; i++)
        for (let o = o0; o < oEnd; o++) values[i * out + o] = Math.round(weight[o * width + i]! * factors[o]!);
    }
  return { values, scales };
}
