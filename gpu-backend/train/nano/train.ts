import { appendFile, mkdir, readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { sha256File } from '../../io/digest.ts';
import { readNlvrExamples } from '../../io/nlvr.ts';
import { loadCheckpoint, type WeightMap } from '../../models/load.ts';
import { initWeights } from '../../models/presets.ts';
import { trainGraph } from '../../models/train-graph.ts';
import type { Placement } from '../../runtime/device.ts';
import type { Tensor } from '../../runtime/session.ts';
import { parseTokenizer } from '../../text/tokenizer.ts';
import { loadNewestCheckpoint, saveCheckpoint } from '../checkpoint.ts';
import { MuonState, preparing } from '../muon.ts';
import { ParallelComputer } from '../parallel.ts';
import { learningRateAt, progressOf } from '../schedule.ts';
import { type ParameterSpec, ParameterState } from '../state.ts';
import type { TrainSessionSpec } from '../train-session.ts';
import { type StepMetrics, type TrainResult, train } from '../trainer.ts';
import { nanoTokenizer } from './corpus.ts';
import { Curve } from './curve.ts';
import { NanoData, nanoData, nanoLayout } from './data.ts';
import { DataThreads } from './data-threads.ts';
import { decodePng } from './decode-png.ts';
import { exportNano } from './export.ts';
import { type PlanEntry, StepPlan } from './plan.ts';
import { loadRealData, partsOf } from './real.ts';
import { NANO_CONTINUED, NANO_RECIPE, type NanoRecipe, nanoModelConfig } from './recipe.ts';
import { trainedTower } from './tower-stage.ts';

export interface NanoTrainOptions {
  /** Folder of the run: checkpoints, log, and the model in `model/`. The same command on the same folder goes on. */
  readonly out: string;
  /** NLVR folder (train, train-images and dev splits). Without it: generated pictures and sentences only. */
  readonly nlvrDir?: string;
  /** Model folder (`model/` of an earlier run, or the shipped one) whose weights this run starts from, in place of random ones and a tower. */
  readonly from?: string;
  /** Optimizer steps of the run; or the plan of an earlier run, to repeat it. Default 4000. */
  readonly steps?: number | readonly PlanEntry[];
  /** Unix time in ms by which the run shall be complete: the number of steps is then estimated and revised. */
  readonly finishBy?: number;
  readonly seed?: number;
  /** Threads that compute gradients, each on its own micro-batches; with an accelerator, that make the data. Default 2. */
  readonly threads?: number;
  /** Where gradients are computed. Default: the processor. */
  readonly placement?: Placement;
  readonly recipe?: NanoRecipe;
  /** Default 5. */
  readonly checkpointMinutes?: number;
  /** Minutes between points of the evaluation curve. Default 6. */
  readonly curveMinutes?: number;
  /** Questions a point of the curve is made of. Default 60 for each skill and 240 of NLVR dev. */
  readonly curveItems?: { readonly perSkill: number; readonly nlvr: number };
  readonly signal?: AbortSignal;
  readonly onProgress?: (progress: NanoProgress) => void;
  readonly onMessage?: (message: string) => void;
}

export interface NanoProgress {
  readonly metrics: StepMetrics;
  readonly totalSteps: number;
  readonly tokensPerSecond: number;
  readonly remainingMs: number;
}

/** Written beside the checkpoints; what a resumed run must agree with. */
interface RunFile {
  readonly seed: number;
  readonly recipe: NanoRecipe;
  readonly plan: readonly PlanEntry[];
  /** SHA-256 of the model.safetensors that the run started from. Absent: random weights. */
  readonly from?: string;
}

/**
 * Largest micro-batch on an accelerator, tokens with padding: a step is one run where it fits. What a run costs there is starting its
 * kernels, not the tokens.
 */
const ACCELERATOR_BATCH_TOKENS = 32_768;

/** Estimates of the length use the mean time of about this many steps, and are made this often: load on the machine swings. */
const ESTIMATE_STEPS = 250;

/**
 * Trains the nano model from random weights, or goes on where the run in `out` stopped. Data are made on the fly and depend on
 * seed, plan and step alone.
 */
export async function trainNano(options: NanoTrainOptions): Promise<TrainResult> {
  const say = options.onMessage ?? (() => {});
  await mkdir(options.out, { recursive: true });
  const run = await openRun(options);
  const { recipe, seed } = run;
  const plan = new StepPlan(run.plan);
  const isTowerTrained = recipe.towerSteps > 0 || run.from !== undefined;
  const tokenizerJson = await openTokenizer(options, recipe);
  const tokenizer = parseTokenizer(tokenizerJson);
  const config = nanoModelConfig(recipe, tokenizer);
  const layout = nanoLayout(recipe, tokenizer);

  const { placement } = options;
  const isAccelerated = placement !== undefined && placement.device !== 'cpu';
  const spec: TrainSessionSpec = {
    config,
    options: { train: 'all', images: 'pixels' },
    threads: 1,
    ...(isAccelerated ? { placement, joinGradients: true } : {}),
  };
  const { trainable, weights } = trainGraph(config, spec.options);
  const specs = trainable.map((name) => ({ name, shape: weights.get(name) ?? [] }));
  const threads = options.threads ?? 2;
  const state = recipe.optimizer === 'muon' ? await MuonState.create(specs, threads) : new ParameterState(specs);
  const initial = initWeights(config, seed);
  const checkpoints = join(options.out, 'checkpoints');
  const resumed = await loadNewestCheckpoint(checkpoints, state, (path, reason) =>
    say(`checkpoint ${path} is passed over: ${reason.message}`),
  );
  say(
    `${(state.elementCount / 1e6).toFixed(2)} M parameters, ${config.tokensPerImage} tokens a picture, ` +
      (resumed === undefined
        ? options.from === undefined
          ? 'from random weights'
          : `from ${options.from}`
        : `resumed at step ${resumed.progress.step}`),
  );

  if (options.nlvrDir !== undefined) say('reading NLVR training pictures');
  const real = options.nlvrDir === undefined ? undefined : await loadRealData(options.nlvrDir, decodePng);
  if (resumed === undefined) {
    if (options.from !== undefined) {
      const { weights: earlier } = loadCheckpoint(options.from);
      for (const p of state.parameters) p.value.set(requireTensor(earlier, p, options.from).data as Float32Array);
    } else {
      for (const p of state.parameters) p.value.set(initial.get(p.name)?.data as Float32Array);
    }
    const tower = options.from === undefined ? await trainedTower(options, recipe, config, seed, real) : new Map();
    if (tower === undefined) return { outcome: 'aborted', progress: { step: 0, skipped: 0, cursor: 0 } };
    for (const [name, value] of tower) state.get(name).value.set(value);
  }
  const curve = await Curve.create({
    config,
    layout,
    decodePng,
    ...(options.nlvrDir === undefined ? {} : { nlvrDir: options.nlvrDir }),
    itemsPerSkill: options.curveItems?.perSkill ?? 60,
    nlvrItems: options.curveItems?.nlvr ?? 240,
    threads: 2,
  });
  const dataSpec = { recipe, seed, isContinued: run.from !== undefined };
  const totalAt = (cursor: number): number => plan.totalAt(cursor / recipe.dialogues + 1) * recipe.dialogues;
  const dataThreads = isAccelerated
    ? new DataThreads({ spec: dataSpec, real: real && partsOf(real), tokenizerJson }, threads)
    : undefined;
  const data =
    dataThreads?.source(recipe.dialogues, totalAt) ??
    nanoData(new NanoData(dataSpec, real, layout), recipe.dialogues, totalAt);
  // One session fills a card; its thread leaves this one free to make the next step's data.
  const computer = new ParallelComputer(spec, state, isAccelerated ? 1 : threads);
  const log = join(options.out, 'log.jsonl');
  const clock = {
    start: performance.now(),
    checkpoint: performance.now(),
    curve: performance.now(),
    stepMs: 0,
    steps: 0,
  };
  const scoreCurve = async (step: number): Promise<void> => {
    const begin = performance.now();
    const scores = await curve.score(state);
    clock.curve = performance.now();
    await appendFile(
      log,
      `${JSON.stringify({ curve: step, minutes: minutesSince(clock.start), ...rounded(scores) })}\n`,
    );
    say(`step ${step} ${showScores(scores)} (${((clock.curve - begin) / 1000).toFixed(1)} s)`);
  };
  const exportModel = (): Promise<void> =>
    exportNano(join(options.out, 'model'), state, { config, tokenizerJson, template: recipe.template });
  try {
    const result = await train({
      state,
      computer: state instanceof MuonState ? preparing(computer, state, recipe.maxNorm) : computer,
      data,
      totalSteps: Number.POSITIVE_INFINITY,
      isDone: (step) => step >= plan.totalAt(step),
      learningRate: (step) => learningRateAt(recipe.schedule, progressOf(step, plan.totalAt(step))),
      rateFactor: (name) => (isTowerTrained && name.startsWith('vision_tower.') ? recipe.towerRate : 1),
      adamw: { weightDecay: recipe.weightDecay, beta2: recipe.beta2 },
      maxNorm: recipe.maxNorm,
      microBatchTokens: isAccelerated ? ACCELERATOR_BATCH_TOKENS : recipe.microBatchTokens,
      threads: isAccelerated ? 1 : threads,
      padId: config.text.padToken ?? 0,
      ...(resumed === undefined ? {} : { resume: resumed.progress }),
      ...(options.signal === undefined ? {} : { signal: options.signal }),
      onStep: async (metrics) => {
        clock.steps++;
        clock.stepMs += (metrics.ms - clock.stepMs) / Math.min(clock.steps, ESTIMATE_STEPS);
        const { step } = metrics;
        if (options.finishBy !== undefined && clock.steps % ESTIMATE_STEPS === 60) {
          const remaining = Math.floor((options.finishBy - Date.now()) / clock.stepMs);
          // The next steps' data are already made, so a new estimate holds from the one after.
          const made = dataThreads === undefined ? 1 : threads;
          plan.revise(step + made + 1, step + Math.max(made + 1, remaining));
          await writeRun(options.out, { ...run, plan: plan.entries });
        }
        if (step % 10 === 0 || step === 1)
          await appendFile(
            log,
            `${JSON.stringify({ ...shortMetrics(metrics), minutes: minutesSince(clock.start) })}\n`,
          );
        const totalSteps = plan.totalAt(step);
        options.onProgress?.({
          metrics,
          totalSteps,
          tokensPerSecond: (metrics.tokens / metrics.ms) * 1000,
          remainingMs: (totalSteps - step) * clock.stepMs,
        });
        if (performance.now() - clock.curve > (options.curveMinutes ?? 6) * 60_000) {
          await scoreCurve(step);
          await exportModel();
        }
      },
      isCheckpointDue: () => performance.now() - clock.checkpoint > (options.checkpointMinutes ?? 5) * 60_000,
      saveCheckpoint: async (progress) => {
        clock.checkpoint = performance.now();
        await writeRun(options.out, { ...run, plan: plan.entries });
        await saveCheckpoint(checkpoints, state, progress, { keep: 2 });
      },
    });
    if (result.outcome === 'complete') await scoreCurve(result.progress.step);
    await exportModel();
    return result;
  } finally {
    await Promise.all([computer.close(), dataThreads?.close()]);
  }
}

/** Reads the run in a folder, or writes a new one. @throws when the folder holds a run of another recipe or seed */
async function openRun(options: NanoTrainOptions): Promise<RunFile> {
  const path = join(options.out, 'run.json');
  const text = await readFile(path, 'utf8').catch((error: NodeJS.ErrnoException) => {
    if (error.code === 'ENOENT') return undefined;
    throw error;
  });
  const recipe = options.recipe ?? (options.from === undefined ? NANO_RECIPE : NANO_CONTINUED);
  const seed = options.seed ?? 1;
  if (text === undefined) {
    const { steps = 4000 } = options;
    const plan = typeof steps === 'number' ? [{ fromStep: 1, totalSteps: steps }] : steps;
    const from = options.from === undefined ? undefined : await sha256File(join(options.from, 'model.safetensors'));
    const run: RunFile = { seed, recipe, plan, ...(from === undefined ? {} : { from }) };
    await writeRun(options.out, run);
    return run;
  }
  const run = JSON.parse(text) as RunFile;
  if (run.seed !== seed || JSON.stringify(run.recipe) !== JSON.stringify(recipe))
    throw new Error(`${path} is a run of another recipe or seed; give another --out, or remove the folder`);
  return run;
}

function requireTensor(weights: WeightMap, { name, shape }: ParameterSpec, from: string): Tensor {
  const tensor = weights.get(name);
  if (!(tensor?.data instanceof Float32Array) || tensor.shape.join() !== shape.join())
    throw new Error(
      `${from}: expected ${name} in f32 of [${shape.join()}], got ${tensor ? `[${tensor.shape.join()}]` : 'none'}`,
    );
  return tensor;
}

async function writeRun(out: string, run: RunFile): Promise<void> {
  await writeFile(join(out, 'run.json'), `${JSON.stringify(run, null, 1)}\n`);
}

/** The run's vocabulary: learnt once, or that of the run it starts from; then kept with the run. */
async function openTokenizer({ out, from, nlvrDir }: NanoTrainOptions, recipe: NanoRecipe): Promise<unknown> {
  const path = join(out, 'tokenizer.json');
  const text = await readFile(path, 'utf8').catch((error: NodeJS.ErrnoException) => {
    if (error.code === 'ENOENT') return undefined;
    throw error;
  });
  if (text !== undefined) return JSON.parse(text);
  if (from !== undefined) {
    const earlier = await readFile(join(from, 'tokenizer.json'), 'utf8');
    await writeFile(path, earlier);
    return JSON.parse(earlier);
  }
  const examples = nlvrDir === undefined ? [] : await readNlvrExamples(nlvrDir, 'train');
  const file = nanoTokenizer([...new Set(examples.map((e) => e.statement))], recipe.vocab);
  await writeFile(path, JSON.stringify(file));
  return file;
}

const minutesSince = (start: number): number => Number(((performance.now() - start) / 60_000).toFixed(2));
const rounded = (scores: Readonly<Record<string, number>>): Record<string, number> =>
  Object.fromEntries(Object.entries(scores).map(([name, value]) => [name, Number(value.toFixed(4))]));
const showScores = (scores: Readonly<Record<string, number>>): string =>
  Object.entries(scores)
    .map(([name, value]) => `${name} ${(100 * value).toFixed(1)} %`)
    .join(', ');

function shortMetrics(m: StepMetrics): Record<string, number | boolean> {
  return {
    step: m.step,
    loss: Number(m.loss.toFixed(5)),
    tokenAccuracy: Number(m.tokenAccuracy.toFixed(4)),
    gradNorm: Number(m.gradNorm.toFixed(4)),
    learningRate: Number(m.learningRate.toPrecision(4)),
    tokens: m.tokens,
    ms: Math.round(m.ms),
    ...(m.applied ? {} : { applied: false }),
  };
}
