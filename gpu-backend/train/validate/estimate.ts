/**
 * What training would take on this machine: steps and tokens are counted by the functions that training goes by, time and memory are measured on a few real
 * steps of each stage, in a process of their own.
 */
import { fork } from 'node:child_process';
import { mkdir } from 'node:fs/promises';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import type { TrainingEstimate } from '../../../shared/contract/datasets.ts';
import type { Stage } from '../../../shared/contract/training.ts';
import type { VlmConfig } from '../../models/config.ts';
import { familyOf } from '../../models/family.ts';
import { expectedWeights, readConfig } from '../../models/load.ts';
import { trainGraph } from '../../models/train-graph.ts';
import { type Selection, selectExamples } from '../examples.ts';
import { planStage, type StagePlan } from '../stage-plan.ts';
import { stepsOf } from '../stage-run.ts';
import type { FromMeasure, MeasureStart } from './estimate-protocol.ts';
import { sampleEntries, writeSample } from './estimate-sample.ts';
import type { ExampleTable } from './examples.ts';
import { type CheckedList, exampleOf } from './summary.ts';

/** Steps that are measured; the first is left out of the rate, since sessions are made in it. */
const STEPS = 3;
/** Micro-batches of a measured step, at least: one may be special. */
const MICRO_BATCHES = 2;

export interface EstimateOptions {
  readonly baseDir: string;
  readonly tunedDir?: string;
  readonly workDir: string;
  readonly threads: number;
  /** Name of the machine in the estimate. */
  readonly backend: string;
  /** For each stage; a step that has not ended by then is not waited for. Default 30 s. */
  readonly budgetMs?: number;
  readonly signal?: AbortSignal;
}

/** @returns the estimate, or why there is none */
export async function estimateTraining(
  lists: readonly CheckedList[],
  stages: readonly Stage[],
  table: ExampleTable,
  options: EstimateOptions,
): Promise<TrainingEstimate | string> {
  const config = readConfig(options.baseDir);
  const names = [...expectedWeights(config).keys()];
  const rows: TrainingEstimate['stages'] = [];
  const pictures = new Set<number>();
  let [seconds, startMs, pictureMs, tokens] = [0, 0, 0, 0];
  for (const [i, stage] of stages.entries()) {
    const list = lists[stage.data];
    if (list === undefined) return `stage ${i + 1} has no data`;
    const plan = planStage(config, names, stage, i, true);
    const selection = await selectOf(list, table, plan);
    if (selection.entries.length === 0) return `stage ${i + 1} has no usable example`;
    const tokensOf = (entry: number): number => table.tokens(exampleOf(list, entry));
    let epochTokens = 0;
    for (const entry of selection.entries) {
      epochTokens += tokensOf(entry);
      for (const picture of table.pictures(exampleOf(list, entry))) pictures.add(picture);
    }
    const measured = await measureStage(list, selection, tokensOf, plan, i, options);
    if (typeof measured === 'string') return `stage ${i + 1} could not be measured: ${measured}`;
    const stageTokens = epochTokens * stage.n_epochs;
    const stageSeconds = stageTokens / measured.tokensPerSecond;
    rows.push({
      train: stage.train,
      steps: stepsOf(plan, selection.entries.length),
      tokens: stageTokens,
      trained_parameters: trainedParameters(config, plan),
      memory_bytes: measured.peakBytes,
      seconds: stageSeconds,
    });
    startMs = Math.max(startMs, measured.startMs);
    pictureMs = Math.max(pictureMs, measured.pictureMs);
    seconds += stageSeconds;
    tokens += stageTokens;
  }
  return {
    steps: rows.reduce((sum, row) => sum + row.steps, 0),
    tokens,
    memory_bytes: Math.max(...rows.map(({ memory_bytes }) => memory_bytes)),
    // Opening the model, and each picture once through the vision tower.
    seconds: seconds + (startMs + pictures.size * pictureMs) / 1000,
    tokens_per_second: tokens / seconds,
    stages: rows,
    backend: options.backend,
  };
}

function selectOf(list: CheckedList, table: ExampleTable, plan: StagePlan): Promise<Selection> {
  const tokens = Int32Array.from({ length: list.store.records }, (_, r) => table.tokens(list.first + r));
  return selectExamples({ store: list.store, tokens }, plan);
}

/** Elements of what moves, by the graph that training would run. */
function trainedParameters(config: VlmConfig, plan: StagePlan): number {
  const { lora, alsoTrain, freeze, trainsVision } = plan;
  const images = familyOf(config).hasTower && !trainsVision ? 'towerFeatures' : 'pixels';
  const graph = trainGraph(config, {
    train: plan.stage.train,
    images,
    alsoTrain,
    freeze,
    checkpointing: 'none',
    ...(lora === undefined ? {} : { lora }),
  });
  const size = (name: string): number => (graph.weights.get(name) ?? []).reduce((product, side) => product * side, 1);
  return graph.trainable.reduce((sum, name) => sum + size(name), 0);
}

interface Measured {
  readonly tokensPerSecond: number;
  readonly peakBytes: number;
  /** Until the first step had ended, less that step's own time. */
  readonly startMs: number;
  readonly pictureMs: number;
}

async function measureStage(
  list: CheckedList,
  selection: Selection,
  tokensOf: (entry: number) => number,
  plan: StagePlan,
  index: number,
  options: EstimateOptions,
): Promise<Measured | string> {
  const workDir = join(options.workDir, `estimate-${index}`);
  await mkdir(workDir, { recursive: true });
  const meanTokens = selection.entries.reduce((sum, entry) => sum + tokensOf(entry), 0) / selection.entries.length;
  // A step's gradients are sums over micro-batches: more of them take time and no memory.
  const enough = Math.ceil((MICRO_BATCHES * plan.microBatchTokens) / meanTokens);
  const batchSize = Math.max(1, Math.min(plan.stage.batch_size, enough));
  const entries = sampleEntries(selection.entries, tokensOf, Math.min(STEPS * batchSize, selection.entries.length));
  const data = await writeSample(list.store, entries, join(workDir, 'sample.jsonl'));
  const epochs = Math.ceil((STEPS * batchSize) / entries.length);
  const { early_stopping: _unused, ...stage } = plan.stage;
  const start: MeasureStart = {
    baseDir: options.baseDir,
    tunedDir: options.tunedDir ?? null,
    stage: { ...stage, batch_size: batchSize, n_epochs: epochs, data: 0 },
    data,
    workDir,
    threads: options.threads,
  };
  return await watch(start, options);
}

function watch(start: MeasureStart, { budgetMs = 30_000, signal }: EstimateOptions): Promise<Measured | string> {
  const child = fork(fileURLToPath(new URL('./estimate-child.ts', import.meta.url)), {
    execArgv: ['--import', import.meta.resolve('tsx')],
    serialization: 'advanced',
    stdio: ['ignore', 'ignore', 'inherit', 'ipc'],
  });
  const rates: number[] = [];
  let [startMs, peakBytes, pictureMs] = [0, 0, 0];
  let failure: string | null = null;
  const kill = () => void child.kill('SIGKILL');
  const timer = setTimeout(kill, budgetMs);
  signal?.addEventListener('abort', kill, { once: true });
  const began = performance.now();
  child.on('message', (message: FromMeasure) => {
    if (message.type === 'step') {
      // What came before the first step was done, its own computing aside.
      if (rates.length === 0) startMs = performance.now() - began;
      rates.push(message.tokensPerSecond);
      peakBytes = message.peakBytes;
    } else if (message.type === 'done') peakBytes = message.peakBytes;
    else if (message.type === 'pictures') pictureMs = message.msEach;
    else failure = message.message;
  });
  child.send(start);
  return new Promise((resolve, reject) => {
    child.once('exit', (code, died) => {
      clearTimeout(timer);
      signal?.removeEventListener('abort', kill);
      if (signal?.aborted) return reject(signal.reason);
      if (failure !== null) return resolve(failure);
      const usual = rates.length > 1 ? rates.slice(1) : rates;
      const rate = [...usual].sort((a, b) => a - b)[usual.length >> 1];
      if (rate === undefined)
        return resolve(
          died === 'SIGKILL' && performance.now() - began >= budgetMs
            ? `a step takes longer than ${budgetMs / 1000} s`
            : `the trainer died (${died ?? `exit code ${code}`})`,
        );
      resolve({ tokensPerSecond: rate, peakBytes, startMs, pictureMs });
    });
  });
}
