import { cp } from 'node:fs/promises';
import { join } from 'node:path';
import * as g from '../../graph/builder.ts';
import { mulDims, symbol } from '../../graph/dim.ts';
import { gradients } from '../../graph/grad.ts';
import { Graph } from '../../graph/graph.ts';
import { writeSafetensors } from '../../io/safetensors-write.ts';
import type { LlavaConfig } from '../../models/config.ts';
import { familyOf } from '../../models/family.ts';
import { loadCheckpoint } from '../../models/load.ts';
import { visionGraph } from '../../models/vlm.ts';
import { Weights } from '../../models/weights.ts';
import { f32, Session, type Tensor } from '../../runtime/session.ts';
import { learningRateAt, progressOf } from '../schedule.ts';
import { ParameterState } from '../state.ts';
import { Rng } from './random.ts';
import type { RealData } from './real.ts';
import { drawBox, pixelsOf } from './tower.ts';

/** Length of the code of a column, and of a row, beside that of a feature row in the mean. */
const codeShare = 0.35;
const sampledBoxes = 64;

export interface PlaceStageOptions {
  readonly config: LlavaConfig;
  /** Of the whole model, by canonical name. */
  readonly weights: ReadonlyMap<string, Tensor>;
  readonly seed: number;
  readonly steps: number;
  /** Pictures of a step. Default 48. */
  readonly boxes?: number;
  /** Default 1e-3, cosine down to 2 %. */
  readonly peak?: number;
  readonly threads?: number;
  readonly real?: RealData;
  readonly signal?: AbortSignal;
  /** @param error what the features miss, as a share of their variance */
  readonly onStep?: (step: number, error: number) => void;
}

/**
 * Makes a trained tower and its projector tell where each of their features is. What stage 0 asks for is the same wherever it is, so the column of an
 * object could be read off its features, linearly, in half of the cases. Here they learn to give the features that they gave, plus a code of the patch's column
 * and one of its row, in directions in which features hardly differ: the decoder goes on as it was and finds them beside.
 * @returns the tower's and the projector's weights, by canonical name
 */
export async function placedTower(options: PlaceStageOptions): Promise<Map<string, Float32Array>> {
  const { config, weights, seed, steps, boxes: count = 48, peak = 1e-3, threads = 2, real } = options;
  const side = config.vision.imageSize;
  const hidden = config.text.hidden;
  const teacher = visionGraph(config);
  const teaching = await Session.create(teacher.graph, { threads });
  const taught = Object.fromEntries([...teacher.weights.keys()].map((name) => [name, weights.get(name) as Tensor]));
  const featuresOf = async (pixels: Tensor): Promise<Float32Array> => {
    const { image_features } = await teaching.run({ ...taught, pixel_values: pixels }, ['image_features']);
    return image_features?.data as Float32Array;
  };
  const draw = (step: number, many: number) => {
    const rng = new Rng(seed + 15_485_863, step);
    return pixelsOf(
      Array.from({ length: many }, () => drawBox(rng, real)),
      side,
    );
  };
  const sample = await featuresOf(draw(0, sampledBoxes));
  const { codes_PD, variance } = placeCodes(sample, hidden, side / config.vision.patchSize, seed);

  const { graph, names } = studentGraph(config);
  const session = await Session.create(graph, { threads });
  const state = new ParameterState([...names].map(([name, shape]) => ({ name, shape })));
  for (const p of state.parameters) p.value.set(weights.get(p.name)?.data as Float32Array);
  for (let step = 1; step <= steps && options.signal?.aborted !== true; step++) {
    const pixels = draw(step, count);
    const target = await featuresOf(pixels);
    for (let i = 0; i < target.length; i++)
      target[i] = (target[i] as number) + (codes_PD[i % codes_PD.length] as number);
    const rows = target.length / hidden;
    const feeds: Record<string, Tensor> = {
      pixel_values: pixels,
      target: f32(target, [rows, hidden]),
      scale: f32(Float32Array.of(1 / (rows * variance)), []),
    };
    for (const p of state.parameters) feeds[p.name] = f32(p.value, p.shape);
    const out = await session.run(feeds, ['loss', ...state.parameters.map((p) => `grad.${p.name}`)]);
    for (const p of state.parameters) p.grad.set(out[`grad.${p.name}`]?.data as Float32Array);
    const rate = learningRateAt({ kind: 'cosine', peak, warmupShare: 0.05, floorShare: 0.02 }, progressOf(step, steps));
    state.update(() => rate, { maxNorm: 1, adamw: { beta2: 0.99, weightDecay: 0 } });
    options.onStep?.(step, out.loss?.data[0] as number);
  }
  await Promise.all([session.release(), teaching.release()]);
  return new Map(state.parameters.map((p) => [p.name, Float32Array.from(p.value)]));
}

/**
 * Writes a model folder like `from`, whose tower and projector tell places.
 * @throws Error where it is no model with a tower and a projector as LLaVA's
 */
export async function placeModel(
  from: string,
  out: string,
  options: Omit<PlaceStageOptions, 'config' | 'weights'>,
): Promise<void> {
  const { config, weights } = loadCheckpoint(from);
  if (config.family !== 'llava') throw new Error(`${from}: expected a LLaVA-type model, found ${config.family}`);
  const made = await placedTower({ ...options, config, weights });
  if (options.signal?.aborted === true) return;
  // What a card and a record say is of the weights they lie beside.
  await cp(from, out, { recursive: true, filter: (path) => !/[\\/](README\.md|run\.json)$/.test(path) });
  await writeSafetensors(
    join(out, 'model.safetensors'),
    [...weights].map(([name, { shape, data }]) => [
      name,
      { dtype: 'f32', shape, data: made.get(name) ?? (data as Float32Array) },
    ]),
  );
}

/** Inputs: weights, `pixel_values`, `target` [F, D], `scale`; outputs: `loss` = scale · Σ (features − target)², and `grad.` of each weight. */
function studentGraph(config: LlavaConfig): { graph: Graph; names: ReadonlyMap<string, readonly number[]> } {
  const graph = new Graph();
  const w = new Weights(graph);
  const features = familyOf(config).imageFeatures(w, config, 'pixels', false);
  const rows = mulDims(symbol('N'), config.tokensPerImage);
  const error = g.sub(graph, features, graph.input('target', 'f32', [rows, config.text.hidden]));
  const squares = g.reduceSum(graph, g.mul(graph, error, error), [0, 1]);
  const loss = g.mul(graph, squares, graph.input('scale', 'f32', []));
  const params = graph.inputs.filter(({ kind }) => kind === 'param');
  graph.output('loss', loss);
  gradients(
    graph,
    loss,
    params.map(({ value }) => value),
  ).forEach((grad, i) => graph.output(`grad.${params[i]?.name}`, grad));
  return { graph, names: new Map(params.map(({ name, value }) => [name, value.shape as readonly number[]])) };
}

/**
 * Codes of the places of a square picture of side × side patches, row by row: [patches, hidden].
 * @param sample feature rows [., hidden] of whole pictures
 * @returns also the variance of a row: the mean square distance to the mean row
 */
export function placeCodes(
  sample: Float32Array,
  hidden: number,
  side: number,
  seed: number,
): { readonly codes_PD: Float32Array; readonly variance: number } {
  const rows = sample.length / hidden;
  const mean = new Float64Array(hidden);
  let length = 0;
  for (let r = 0; r < rows; r++) {
    let squares = 0;
    for (let d = 0; d < hidden; d++) {
      const value = sample[r * hidden + d] as number;
      mean[d] = (mean[d] as number) + value / rows;
      squares += value * value;
    }
    length += Math.sqrt(squares) / rows;
  }
  const centred = Float64Array.from(sample, (value, i) => value - (mean[i % hidden] as number));
  const variance = centred.reduce((sum, value) => sum + value * value, 0) / rows;
  const directions = quietDirections(centred, hidden, 2 * side, seed);
  const codes_PD = new Float32Array(side * side * hidden);
  for (let patch = 0; patch < side * side; patch++)
    for (const one of [directions[patch % side], directions[side + Math.floor(patch / side)]])
      for (let d = 0; d < hidden; d++)
        codes_PD[patch * hidden + d] =
          (codes_PD[patch * hidden + d] as number) + codeShare * length * (one?.[d] as number);
  return { codes_PD, variance };
}

/** Orthonormal directions in which rows hardly differ, by orthogonal iteration with I − C / λ of the covariance C, λ its largest eigenvalue. */
function quietDirections(centred: Float64Array, hidden: number, count: number, seed: number): Float64Array[] {
  const rows = centred.length / hidden;
  const covariance = new Float64Array(hidden * hidden);
  for (let r = 0; r < rows; r++)
    for (let a = 0; a < hidden; a++) {
      const value = (centred[r * hidden + a] as number) / rows;
      for (let b = 0; b < hidden; b++)
        covariance[a * hidden + b] =
          (covariance[a * hidden + b] as number) + value * (centred[r * hidden + b] as number);
    }
  const bound = largestEigenvalue(covariance, hidden);
  const rng = new Rng(seed, 2);
  let basis = Array.from({ length: count }, () => Float64Array.from({ length: hidden }, () => rng.unit() - 0.5));
  for (let round = 0; round < 300; round++) {
    basis = basis.map((v) => {
      const product = times(covariance, v);
      return v.map((value, d) => value - (product[d] as number) / bound);
    });
    for (const [i, v] of basis.entries()) {
      for (const other of basis.slice(0, i)) {
        const along = dot(v, other);
        for (let d = 0; d < hidden; d++) v[d] = (v[d] as number) - along * (other[d] as number);
      }
      const norm = Math.sqrt(dot(v, v));
      for (let d = 0; d < hidden; d++) v[d] = (v[d] as number) / norm;
    }
  }
  return basis;
}

const dot = (a: Float64Array, b: Float64Array): number =>
  a.reduce((sum, value, i) => sum + value * (b[i] as number), 0);

const times = (matrix: Float64Array, v: Float64Array): Float64Array =>
  v.map((_, row) => dot(matrix.subarray(row * v.length, (row + 1) * v.length), v));

function largestEigenvalue(matrix: Float64Array, size: number): number {
  let v = new Float64Array(size).fill(1 / Math.sqrt(size));
  let value = 0;
  for (let round = 0; round < 50; round++) {
    const next = times(matrix, v);
    value = Math.sqrt(dot(next, next));
    v = next.map((one) => one / value);
  }
  return value;
}
