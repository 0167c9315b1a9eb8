import type { Graph } from '../graph/graph.ts';
import { planeSizes } from '../graph/ops/planes.ts';
import { type BlockFormat, blockSizes, dequantizeRow, Quantizers } from '../io/quantize.ts';
import { bytesOf, convertFloats } from '../io/tensor.ts';
import { f32, type Tensor } from '../runtime/session.ts';
import {
  blockFormat,
  chooseStorage,
  type Part,
  type Precision,
  partOf,
  SCALE_SUFFIX,
  type Storage,
} from './storage.ts';

/*
 * Weights that do not move while adapters or a projector are trained (QLoRA, Dettmers et al., 2023: a quantised base under adapters in
 * full precision). They are fed to the graph in the precision they are stored in and widened where they are used, forward and backward.
 *
 * Codes and scales are those of serving (io/quantize.ts, the same quantiser and parts): what is trained at int8 or int4 finds the very
 * same base again where it is served with `MANTIS_PRECISION=int8` or `int4`. As there, matrices that are no linear layers
 * (embeddings) are f16, norms and biases f32, and `int4` gives the decoder's layers int4, the head and the projector int8.
 */

/** Codes of a linear layer [P, blockSize] u8, in the order of graph/ops/planes.ts; its scales are `SCALE_SUFFIX` [rows · blocks]. */
export const CODES_SUFFIX = '.weight_codes';

/** Values that share a scale: what serving uses by default. */
export const FROZEN_BLOCK_SIZE = 32;

export interface FrozenStorage {
  readonly storage: Storage;
  /** Weights that move keep f32. By canonical name. */
  readonly isTrained: (name: string) => boolean;
}

/** How serving stores a model at this precision; undefined at f32, where nothing is stored otherwise. */
export function storageOfBase(precision: Precision): Storage | undefined {
  return precision === 'f32' ? undefined : chooseStorage({ precision, blockSize: FROZEN_BLOCK_SIZE });
}

let quantizers: Quantizers | undefined;

/** Codes and scales of a weight [rows, width] as dequantizePlanes reads them. @throws Error naming a row that is not finite */
export function quantizePlanes(
  floats: Float32Array,
  rows: number,
  width: number,
  format: BlockFormat,
): { readonly codes: Uint8Array; readonly scales: Float32Array } {
  const { blocks: perRow, bytes } = blockSizes(width, format);
  const packed = new Uint8Array(rows * bytes);
  const scales = new Float32Array(rows * perRow);
  quantizers ??= new Quantizers();
  quantizers.of(width, format, 'f32').quantize(bytesOf(floats), packed, scales);
  if (format.bits === 8) return { codes: packed, scales };
  const { blockSize } = format;
  const { blocks, planeRows } = planeSizes({ ...format, rows, width });
  const codes = new Uint8Array(planeRows * blockSize);
  for (let block = 0; block < blocks; block++) {
    const isLow = block < planeRows;
    let to = (isLow ? block : block - planeRows) * blockSize;
    const from = (block * blockSize) / 2;
    for (let i = from; i < from + blockSize / 2; i++) {
      const pair = packed[i] as number;
      if (isLow) {
        codes[to++]! |= pair & 15;
        codes[to++]! |= pair >> 4;
      } else {
        codes[to++]! |= (pair & 15) << 4;
        codes[to++]! |= pair & 240;
      }
    }
  }
  return { codes, scales };
}

/** Weight [out, in] of a frozen linear layer as the graph computes with it: f32 values of its codes. */
export function asFrozenLinear(weight: Tensor, storage: Storage, part: Part): Tensor {
  const [rows = 0, width = 0] = weight.shape;
  const format = blockFormat(storage, part);
  const floats = weight.data as Float32Array;
  if (storage.precision[part] === 'f32') return weight;
  if (format === undefined) {
    const halves = convertFloats({ dtype: 'f32', shape: weight.shape, data: bytesOf(floats) }, 'f16');
    const wide = convertFloats({ dtype: 'f16', shape: weight.shape, data: halves }, 'f32');
    return f32(new Float32Array(wide.buffer, wide.byteOffset, floats.length), weight.shape);
  }
  const { blocks, bytes } = blockSizes(width, format);
  const packed = new Uint8Array(rows * bytes);
  const scales = new Float32Array(rows * blocks);
  quantizers ??= new Quantizers();
  quantizers.of(width, format, 'f32').quantize(bytesOf(floats), packed, scales);
  const values = new Float32Array(rows * width);
  for (let r = 0; r < rows; r++)
    dequantizeRow(values.subarray(r * width, (r + 1) * width), format, packed, r * bytes, scales, r * blocks);
  return f32(values, weight.shape);
}

/**
 * The base that an adapter starts from: its adapted layers are worth what their codes are (DoRA begins with the lengths of their rows).
 * @param targets last parts of the names of adapted modules
 */
export function asFrozenBase(
  weights: ReadonlyMap<string, Tensor>,
  precision: Precision,
  targets: readonly string[],
): ReadonlyMap<string, Tensor> {
  const storage = storageOfBase(precision);
  if (storage === undefined) return weights;
  const adapted = [...weights].filter(([name]) => targets.some((t) => name.endsWith(`.${t}.weight`)));
  return new Map(adapted.map(([name, tensor]) => [name, asFrozenLinear(tensor, storage, partOf(name))]));
}

/**
 * The frozen weights of a graph, stored as it declares them.
 * @param weightOf f32 weight by canonical name; read once a weight, so that it may come from a file
 * @param known what was made before for another graph of the same model; new tensors are added
 * @param isTrained weights that are fed from elsewhere
 * @throws Error naming the weight that is missing or of another shape
 */
export function storeFrozen(
  graph: Graph,
  weightOf: (name: string) => Tensor | undefined,
  isTrained: (name: string) => boolean,
  known: Map<string, Tensor> = new Map(),
): Record<string, Tensor> {
  const feeds: Record<string, Tensor> = {};
  const read = (name: string): Tensor => {
    const tensor = weightOf(name);
    if (tensor === undefined) throw new Error(`the base model has no weight ${name}`);
    return tensor;
  };
  const params = graph.inputs.filter(({ kind, name }) => kind === 'param' && !isTrained(name));
  const shapes = new Map(params.map(({ name, value }) => [name, value.shape as readonly number[]]));
  for (const { name, value } of params) {
    if (known.has(name) || name.endsWith(SCALE_SUFFIX)) continue;
    const shape = value.shape as readonly number[];
    if (name.endsWith(CODES_SUFFIX)) {
      const module = name.slice(0, -CODES_SUFFIX.length);
      const source = read(`${module}.weight`);
      const [rows = 0, width = 0] = source.shape;
      const [planeRows = 0, blockSize = 0] = shape;
      const scaleShape = shapes.get(module + SCALE_SUFFIX) ?? [];
      const bits = planeRows === scaleShape[0] ? 8 : 4;
      const { codes, scales } = quantizePlanes(source.data as Float32Array, rows, width, { bits, blockSize });
      if (codes.length !== planeRows * blockSize || scales.length !== scaleShape[0])
        throw new Error(
          `${module}.weight is [${source.shape}], the graph expects ${planeRows} rows of ${blockSize} codes`,
        );
      known.set(name, { dtype: 'u8', shape, data: codes });
      known.set(module + SCALE_SUFFIX, { dtype: 'f32', shape: scaleShape, data: scales });
      continue;
    }
    const source = read(name);
    if (source.shape.join() !== shape.join())
      throw new Error(`weight ${name}: expected [${shape}], received [${source.shape}]`);
    const floats = source.data as Float32Array;
    // Taken out once: the data of a weight that lies on disk are read at each look.
    if (value.dtype !== 'f16') known.set(name, f32(floats, shape));
    else {
      const bytes = convertFloats({ dtype: 'f32', shape, data: bytesOf(floats) }, 'f16');
      const data = new Uint16Array(bytes.buffer, bytes.byteOffset, bytes.byteLength / 2);
      known.set(name, { dtype: 'f16', shape, data });
    }
  }
  for (const { name } of params) {
    const tensor = known.get(name);
    if (tensor !== undefined) feeds[name] = tensor;
  }
  return feeds;
}
