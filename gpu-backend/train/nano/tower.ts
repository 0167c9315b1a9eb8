import * as g from '../../graph/builder.ts';
import { mulDims, symbol } from '../../graph/dim.ts';
import { gradients } from '../../graph/grad.ts';
import { Graph, type Value } from '../../graph/graph.ts';
import type { LlavaConfig } from '../../models/config.ts';
import { initWeights } from '../../models/presets.ts';
import { visionTower } from '../../models/vit.ts';
import { Weights } from '../../models/weights.ts';
import { f32, ints, Session, type Tensor } from '../../runtime/session.ts';
import { learningRateAt, progressOf } from '../schedule.ts';
import { ParameterState } from '../state.ts';
import { boxPixels } from './encode.ts';
import { randomScatter, randomTower } from './generate.ts';
import { touchesAnyWall, touchesWall } from './phrases.ts';
import { Rng } from './random.ts';
import type { RealData } from './real.ts';
import { type Box, boxSidePx, colors, renderBox, shapes, sizesPx } from './scene.ts';

/**
 * Stage 0, what a published Mantis gets from SigLIP: a vision tower that already sees. The tower learns to say, for every
 * cell of 10 px, which object has its centre there (nothing, or one of 27 looks) and where in the cell. Objects keep a
 * pixel apart and are at least 10 px wide, so no two centres share a cell. The probe that reads the answers is thrown away.
 */
const cellPx = 10;
const looks = 1 + shapes.length * colors.length * sizesPx.length;
const outputsPerCell = looks + 2 * cellPx;
const walls = ['left', 'right', 'top', 'bottom'] as const;
/**
 * What is counted in each patch: objects by look, those at a wall by look, and by wall and color or shape. A linear probe has to
 * read these, so that their sums over patches and looks, which is what people talk about, are one attention and one matrix away.
 */
const tallies = 2 * (looks - 1) + walls.length * (colors.length + shapes.length);

export interface TowerTargets {
  /** [cells] 0 or the look, cells in the order patch by patch. */
  readonly looks: Int32Array;
  /** [objects] cell index, then the centre's offset in it, px. */
  readonly cells: Int32Array;
  readonly dx: Int32Array;
  readonly dy: Int32Array;
  /** [patches, tallies] objects whose centre is in the patch. */
  readonly counts: Float32Array;
}

/** Answers for some boxes. Cells are numbered box by box, patch by patch, row-major inside the patch. */
export function towerTargets(boxes: readonly Box[], patchPx: number): TowerTargets {
  const side = boxSidePx / patchPx;
  const perPatch = patchPx / cellPx;
  const perBox = (boxSidePx / cellPx) ** 2;
  const lookOf = new Int32Array(boxes.length * perBox);
  const [cells, dx, dy]: [number[], number[], number[]] = [[], [], []];
  const counts = new Float32Array(boxes.length * side * side * tallies);
  boxes.forEach((box, b) => {
    for (const o of box.objects) {
      const [cx, cy] = [Math.min(o.x + o.size / 2, boxSidePx - 1), Math.min(o.y + o.size / 2, boxSidePx - 1)];
      const [column, row] = [Math.floor(cx / cellPx), Math.floor(cy / cellPx)];
      const patch = Math.floor(row / perPatch) * side + Math.floor(column / perPatch);
      const cell = b * perBox + patch * perPatch ** 2 + (row % perPatch) * perPatch + (column % perPatch);
      const [shape, color] = [shapes.indexOf(o.shape), colors.indexOf(o.color)];
      const look = (shape * colors.length + color) * sizesPx.length + sizesPx.indexOf(o.size);
      lookOf[cell] = 1 + look;
      const at = (b * side * side + patch) * tallies;
      const count = (i: number): void => {
        counts[at + i] = (counts[at + i] as number) + 1;
      };
      count(look);
      if (touchesAnyWall(o)) count(looks - 1 + look);
      for (const [w, wall] of walls.entries()) {
        if (!touchesWall(o, wall)) continue;
        const first = 2 * (looks - 1) + w * (colors.length + shapes.length);
        count(first + color);
        count(first + colors.length + shape);
      }
      cells.push(cell);
      dx.push(cx % cellPx);
      dy.push(cy % cellPx);
    }
  });
  return { looks: lookOf, cells: Int32Array.from(cells), dx: Int32Array.from(dx), dy: Int32Array.from(dy), counts };
}

/** Loss and gradients of tower and probe over pixels [N, 3, H, W]. */
function towerGraph(config: LlavaConfig): { graph: Graph; weights: Map<string, readonly number[]> } {
  const graph = new Graph();
  const w = new Weights(graph);
  const side = config.vision.imageSize;
  const perPatch = (config.vision.patchSize / cellPx) ** 2;
  const pixels = graph.input('pixel_values', 'f32', [symbol('N'), 3, side, side]);
  const x = visionTower(w, config, pixels);
  const width = perPatch * outputsPerCell;
  const scores = g.linear(graph, x, w.get('probe.weight', [width, config.vision.hidden]), w.get('probe.bias', [width]));
  const cells = mulDims(mulDims(symbol('N'), config.tokensPerImage), perPatch);
  const perCell = g.reshape(graph, scores, [cells, outputsPerCell]);
  const part = (v: Value, from: number, to: number): Value => g.slice(graph, v, 1, from, to);
  const objects = g.gather(graph, perCell, graph.input('cells', 'i64', [symbol('K')]));
  const target = (name: string): Value => graph.input(name, 'i64', [name === 'looks' ? cells : symbol('K')]);
  const lookWeights = graph.input('look_weights', 'f32', [cells]);
  const offsetWeights = graph.input('offset_weights', 'f32', [symbol('K')]);
  const lookScores = part(perCell, 0, looks);
  const [xScores, yScores] = [part(objects, looks, looks + cellPx), part(objects, looks + cellPx, outputsPerCell)];
  const counted = g.linear(
    graph,
    x,
    w.get('probe.count_weight', [tallies, config.vision.hidden]),
    w.get('probe.count_bias', [tallies]),
  );
  const patches = mulDims(symbol('N'), config.tokensPerImage);
  const error = g.sub(
    graph,
    g.reshape(graph, counted, [patches, tallies]),
    graph.input('counts', 'f32', [patches, tallies]),
  );
  const squares = g.reduceSum(graph, g.mul(graph, error, error), [0, 1]);
  const countLoss = g.mul(graph, squares, graph.input('count_weight', 'f32', []));
  const loss = g.add(
    graph,
    g.add(graph, countLoss, g.crossEntropy(graph, lookScores, target('looks'), lookWeights)),
    g.add(
      graph,
      g.crossEntropy(graph, xScores, target('dx'), offsetWeights),
      g.crossEntropy(graph, yScores, target('dy'), offsetWeights),
    ),
  );
  const params = graph.inputs.filter((i) => i.kind === 'param');
  graph.output('loss', loss);
  gradients(
    graph,
    loss,
    params.map((p) => p.value),
  ).forEach((grad, i) => graph.output(`grad.${params[i]?.name}`, grad));
  graph.output('look_scores', lookScores);
  graph.output('x_scores', xScores);
  graph.output('y_scores', yScores);
  graph.output('counted', counted);
  return { graph, weights: new Map(params.map((p) => [p.name, p.value.shape as number[]])) };
}

const argmaxRow = (scores: Float32Array, row: number, width: number): number => {
  let best = 0;
  for (let j = 1; j < width; j++)
    if ((scores[row * width + j] as number) > (scores[row * width + best] as number)) best = j;
  return best;
};

/** Shares of the boxes' objects found with their look, placed to the pixel, and of whole boxes without any mistake of look. */
export interface TowerScores {
  readonly found: number;
  readonly placed: number;
  readonly exactBoxes: number;
  /** Boxes whose sums over all patches are right, rounded, for every tally. */
  readonly countedBoxes: number;
}

function score(out: Readonly<Record<string, Tensor>>, targets: TowerTargets, boxes: number): TowerScores {
  const lookScores = out.look_scores?.data as Float32Array;
  const perBox = targets.looks.length / boxes;
  const wrong = new Set<number>();
  targets.looks.forEach((want, cell) => {
    if (argmaxRow(lookScores, cell, looks) !== want) wrong.add(cell);
  });
  const badBoxes = new Set([...wrong].map((cell) => Math.floor(cell / perBox)));
  let [found, placed] = [0, 0];
  targets.cells.forEach((cell, k) => {
    if (wrong.has(cell)) return;
    found++;
    const x = argmaxRow(out.x_scores?.data as Float32Array, k, cellPx);
    const y = argmaxRow(out.y_scores?.data as Float32Array, k, cellPx);
    if (x === targets.dx[k] && y === targets.dy[k]) placed++;
  });
  const objects = targets.cells.length;
  const counted = out.counted?.data as Float32Array;
  const perBoxCounts = targets.counts.length / boxes;
  let rightBoxes = 0;
  for (let b = 0; b < boxes; b++) {
    const sums = new Float64Array(tallies);
    const wanted = new Float64Array(tallies);
    for (let i = 0; i < perBoxCounts; i++) {
      sums[i % tallies] = (sums[i % tallies] as number) + (counted[b * perBoxCounts + i] as number);
      wanted[i % tallies] = (wanted[i % tallies] as number) + (targets.counts[b * perBoxCounts + i] as number);
    }
    if (sums.every((sum, i) => Math.round(sum) === wanted[i])) rightBoxes++;
  }
  return {
    found: found / objects,
    placed: placed / objects,
    exactBoxes: 1 - badBoxes.size / boxes,
    countedBoxes: rightBoxes / boxes,
  };
}

export interface TowerOptions {
  readonly config: LlavaConfig;
  readonly seed: number;
  readonly steps: number;
  /** Boxes of one step. Default 64. */
  readonly boxes?: number;
  /** Peak learning rate; cosine down to 2 %. Default 2e-3. */
  readonly peak?: number;
  readonly threads?: number;
  /** Weights to start from, by canonical name; those it lacks are random. */
  readonly from?: ReadonlyMap<string, Float32Array>;
  /** First steps in which the probe alone learns, so that a random one does not disturb a tower that sees. Default 0. */
  readonly probeSteps?: number;
  /** Half of the boxes come from the NLVR training pictures where they are given. */
  readonly real?: RealData;
  readonly signal?: AbortSignal;
  readonly onStep?: (step: number, loss: number, scores: TowerScores | undefined) => void;
}

/** A box to look at: half of them from the NLVR training pictures where they are given. */
export function drawBox(rng: Rng, real: RealData | undefined): Box {
  const pool = real?.sets ?? [];
  if (pool.length > 0 && rng.chance(0.5)) {
    const box = rng.pick(rng.pick(pool));
    if (box !== undefined && box.objects.length > 0) return box;
  }
  return rng.chance(0.3) ? randomTower(rng) : randomScatter(rng);
}

/** [boxes, 3, side, side] as the model takes them. */
export function pixelsOf(boxes: readonly Box[], side: number): Tensor {
  const pixels = new Float32Array(boxes.length * 3 * side * side);
  boxes.forEach((box, i) => pixels.set(boxPixels(renderBox(box), side), i * 3 * side * side));
  return f32(pixels, [boxes.length, 3, side, side]);
}

/** Trains the tower from random weights; its weights by canonical name. Depends on seed and steps alone. */
export async function pretrainTower(options: TowerOptions): Promise<Map<string, Float32Array>> {
  const { config, seed, steps, boxes: count = 64, peak = 2e-3, real } = options;
  const { graph, weights } = towerGraph(config);
  const session = await Session.create(graph, { threads: options.threads ?? 2 });
  const state = new ParameterState([...weights].map(([name, shape]) => ({ name, shape })));
  const initial = initWeights(config, seed);
  const noise = new Rng(seed, 1);
  for (const p of state.parameters) {
    const start = options.from?.get(p.name) ?? (initial.get(p.name)?.data as Float32Array | undefined);
    if (start !== undefined) p.value.set(start);
    else if (p.name === 'probe.weight') p.value.forEach((_, i) => (p.value[i] = 0.04 * (noise.unit() - 0.5)));
  }
  const patchPx = config.vision.patchSize;
  for (let step = 1; step <= steps && options.signal?.aborted !== true; step++) {
    const rng = new Rng(seed + 7_919, step);
    const boxes = Array.from({ length: count }, () => drawBox(rng, real));
    const pixels = pixelsOf(boxes, config.vision.imageSize);
    const targets = towerTargets(boxes, patchPx);
    const objects = targets.cells.length;
    const feeds: Record<string, Tensor> = {
      pixel_values: pixels,
      looks: ints(targets.looks, [targets.looks.length]),
      look_weights: f32(
        Float32Array.from(targets.looks, (l) => (l === 0 ? 0.2 : 1) / objects),
        [targets.looks.length],
      ),
      cells: ints(targets.cells, [objects]),
      dx: ints(targets.dx, [objects]),
      dy: ints(targets.dy, [objects]),
      counts: f32(targets.counts, [targets.counts.length / tallies, tallies]),
      count_weight: f32(Float32Array.of(1 / objects), []),
      offset_weights: f32(new Float32Array(objects).fill(0.5 / objects), [objects]),
    };
    for (const p of state.parameters) feeds[p.name] = f32(p.value, p.shape);
    const scored = step % 200 === 0 || step === steps;
    const grads = state.parameters.map((p) => `grad.${p.name}`);
    const out = await session.run(feeds, [
      'loss',
      ...grads,
      ...(scored ? ['look_scores', 'x_scores', 'y_scores', 'counted'] : []),
    ]);
    for (const p of state.parameters) p.grad.set(out[`grad.${p.name}`]?.data as Float32Array);
    const rate = learningRateAt({ kind: 'cosine', peak, warmupShare: 0.02, floorShare: 0.02 }, progressOf(step, steps));
    const isProbeOnly = step <= (options.probeSteps ?? 0);
    state.update((name) => (isProbeOnly && !name.startsWith('probe.') ? 0 : rate), {
      maxNorm: 1,
      adamw: { beta2: 0.99, weightDecay: 0.02 },
    });
    options.onStep?.(step, out.loss?.data[0] as number, scored ? score(out, targets, count) : undefined);
  }
  await session.release();
  return new Map(
    state.parameters.filter((p) => !p.name.startsWith('probe.')).map((p) => [p.name, Float32Array.from(p.value)]),
  );
}
