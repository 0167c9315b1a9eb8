import type { Session, Tensor } from '../runtime/session.ts';
import type { AdamWOptions, DecayRule } from './adamw.ts';
import {
  type CollatedBatch,
  collate,
  planForThreads,
  type SampleImage,
  supervisedWeight,
  type TrainingSample,
} from './batch.ts';
import type { Progress } from './checkpoint.ts';
import { GradientRun } from './gradient-run.ts';
import type { ParameterState } from './state.ts';

/** What one optimizer step measured. */
export interface StepMetrics {
  /** Optimizer step, from 1; counts skipped steps too. */
  readonly step: number;
  /** Mean cross-entropy over the supervised tokens, nats. */
  readonly loss: number;
  /** Share of supervised tokens predicted right (greedy). */
  readonly tokenAccuracy: number;
  /** Global gradient norm before clipping. */
  readonly gradNorm: number;
  readonly learningRate: number;
  /** Tokens of the step without padding, and the supervised ones among them. */
  readonly tokens: number;
  readonly supervisedTokens: number;
  /** False when a non-finite gradient made the step void. */
  readonly applied: boolean;
  readonly ms: number;
}

/** Training data as a function of position, so that a resumed run sees what it would have seen. */
export interface DataSource {
  /** Samples of the optimizer step that begins at `cursor`, and where the next one begins. */
  next(cursor: number): Promise<{ readonly samples: readonly TrainingSample<SampleImage>[]; readonly cursor: number }>;
}

export interface StepTotals {
  readonly loss: number;
  readonly correct: number;
  readonly supervised: number;
  readonly tokens: number;
}

/** Computes gradients of micro-batches and adds them to a state. */
export interface GradientComputer {
  accumulate(state: ParameterState, batches: readonly CollatedBatch[]): Promise<StepTotals>;
}

/**
 * One session in this process, see GradientRun.
 * @param feedsOf data inputs of the graph for a micro-batch
 * @param trained parameters this graph has gradients of, where it has not all
 */
export function sessionComputer(
  session: Session,
  frozen: Readonly<Record<string, Tensor>>,
  feedsOf: (batch: CollatedBatch) => Readonly<Record<string, Tensor>>,
  trained?: readonly string[],
): GradientComputer {
  const run = new GradientRun(session, frozen, { trained, wantsLogits: true });
  return {
    async accumulate(state, batches) {
      let totals: StepTotals = { loss: 0, correct: 0, supervised: 0, tokens: 0 };
      for (const batch of batches) {
        const { loss, logits } = await run.add(state, feedsOf(batch), batch.rows.length);
        const correct = countCorrect(logits, batch.targets);
        totals = addTotals(totals, { loss, correct, supervised: batch.rows.length, tokens: batch.tokens });
      }
      return totals;
    },
  };
}

/** Sums of two parts of a step. */
export function addTotals(a: StepTotals, b: StepTotals): StepTotals {
  return {
    loss: a.loss + b.loss,
    correct: a.correct + b.correct,
    supervised: a.supervised + b.supervised,
    tokens: a.tokens + b.tokens,
  };
}

/** Rows of logits [R, V] whose largest value is at the target. */
export function countCorrect(logits: Tensor | undefined, targets: Int32Array): number {
  if (logits === undefined) return Number.NaN;
  const width = logits.shape[1] ?? 0;
  const data = logits.data as Float32Array;
  let correct = 0;
  for (let r = 0; r < targets.length; r++) {
    const start = r * width;
    const top = data[start + (targets[r] as number)] as number;
    let best = true;
    for (let i = start; best && i < start + width; i++) best = (data[i] as number) <= top;
    if (best) correct++;
  }
  return correct;
}

export interface TrainOptions {
  readonly state: ParameterState;
  readonly computer: GradientComputer;
  readonly data: DataSource;
  /** Optimizer steps of the whole run, skipped ones included. */
  readonly totalSteps: number;
  /** Learning rate of step 1 … totalSteps, for all tensors or by name. */
  readonly learningRate: (step: number) => number;
  /** Factor on the learning rate of single tensors. Default 1 for all. */
  readonly rateFactor?: (name: string) => number;
  readonly adamw?: Partial<AdamWOptions>;
  readonly decay?: DecayRule;
  /** Largest global gradient norm. Default 1. */
  readonly maxNorm?: number;
  /** Largest micro-batch, tokens with padding. Default 1500. */
  readonly microBatchTokens?: number;
  /** Threads of the gradient computer: micro-batches are cut so that they finish together. Default 1. */
  readonly threads?: number;
  /** Decay of the moving average of the weights, where the state keeps one. */
  readonly averageDecay?: number;
  readonly padId: number;
  /** Sequence lengths are rounded up to a multiple of this. Default 1. */
  readonly lengthMultiple?: number;
  /** Where to go on; default the start. */
  readonly resume?: Progress;
  readonly onStep?: (metrics: StepMetrics, progress: Progress) => void | Promise<void>;
  /** Asked after every step; true makes a checkpoint. */
  readonly isCheckpointDue?: (step: number) => boolean;
  readonly saveCheckpoint?: (progress: Progress) => Promise<void>;
  /** Aborting ends the run after the step in progress, with a checkpoint. */
  readonly signal?: AbortSignal;
  /** Asked after every step; true ends the run early as if it were complete. */
  readonly isDone?: (step: number) => boolean;
  /** Skipped steps in a row after which the run is given up as diverged. Default 10. */
  readonly maxSkippedInARow?: number;
  readonly now?: () => number;
}

export interface TrainResult {
  readonly outcome: 'complete' | 'aborted' | 'diverged';
  readonly progress: Progress;
}

/** Micro-batches of one optimizer step; their weights add up to one. Samples without supervised tokens are left out. */
export function microBatches(
  samples: readonly TrainingSample<SampleImage>[],
  options: {
    readonly padId: number;
    readonly lengthMultiple: number;
    readonly microBatchTokens: number;
    /** Threads that share the micro-batches. Default 1. */
    readonly threads?: number;
  },
): CollatedBatch[] {
  const useful = samples.filter((s) => supervisedWeight([s]) > 0);
  const totalWeight = supervisedWeight(useful);
  return planForThreads(useful, (s) => s.layout.ids.length, options.microBatchTokens, options.threads ?? 1).map(
    (group) => collate(group, { padId: options.padId, multiple: options.lengthMultiple, totalWeight }),
  );
}

/**
 * The training loop: gradients of a step's micro-batches are added up, clipped, and applied with AdamW. Everything is a
 * function of parameters, moments, step and data cursor, so a run resumed from a checkpoint equals an uninterrupted one.
 */
export async function train(options: TrainOptions): Promise<TrainResult> {
  const { state, computer, data, totalSteps } = options;
  const now = options.now ?? (() => performance.now());
  const rateFactor = options.rateFactor;
  const shape = {
    padId: options.padId,
    lengthMultiple: options.lengthMultiple ?? 1,
    microBatchTokens: options.microBatchTokens ?? 1500,
    threads: options.threads ?? 1,
  };
  let progress: Progress = options.resume ?? { step: 0, skipped: 0, cursor: 0 };
  let skippedInARow = 0;
  let upcoming: ReturnType<DataSource['next']> | undefined;
  let saved = progress.step + progress.skipped;
  const save = async (): Promise<void> => {
    saved = progress.step + progress.skipped;
    await options.saveCheckpoint?.(progress);
  };
  while (progress.step + progress.skipped < totalSteps) {
    const step = progress.step + progress.skipped + 1;
    const begin = now();
    const { samples, cursor } = await (upcoming ?? data.next(progress.cursor));
    const batches = microBatches(samples, shape);
    state.zeroGradients();
    const computing = computer.accumulate(state, batches);
    // The next step's data is made while other threads compute. A failure shows where it is awaited.
    if (step < totalSteps) upcoming = data.next(cursor);
    upcoming?.catch(() => {});
    const totals = await computing;
    const learningRate = options.learningRate(step);
    const { norm, applied } = state.update(
      rateFactor === undefined ? learningRate : (name) => learningRate * rateFactor(name),
      {
        maxNorm: options.maxNorm ?? 1,
        ...(options.adamw === undefined ? {} : { adamw: options.adamw }),
        ...(options.decay === undefined ? {} : { decay: options.decay }),
      },
    );
    if (applied && options.averageDecay !== undefined) state.updateAverages(options.averageDecay);
    skippedInARow = applied ? 0 : skippedInARow + 1;
    progress = {
      step: progress.step + (applied ? 1 : 0),
      skipped: progress.skipped + (applied ? 0 : 1),
      cursor,
      ...(progress.extra === undefined ? {} : { extra: progress.extra }),
    };
    const metrics: StepMetrics = {
      step,
      loss: totals.loss,
      tokenAccuracy: totals.correct / totals.supervised,
      gradNorm: norm,
      learningRate,
      tokens: totals.tokens,
      supervisedTokens: totals.supervised,
      applied,
      ms: now() - begin,
    };
    await options.onStep?.(metrics, progress);
    if (skippedInARow >= (options.maxSkippedInARow ?? 10)) return { outcome: 'diverged', progress };
    if (options.isDone?.(step) === true) break;
    if (options.signal?.aborted === true) {
      await save();
      return { outcome: 'aborted', progress };
    }
    if (options.isCheckpointDue?.(step) === true) await save();
  }
  if (saved !== progress.step + progress.skipped) await save();
  return { outcome: 'complete', progress };
}
