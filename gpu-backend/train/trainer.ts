import { faultPoint } from '../io/fault-point.ts';
import type { Session, Tensor } from '../runtime/session.ts';
import type { AdamWOptions, DecayRule } from './adamw.ts';
import {
  type CollatedBatch,
  collate,
  type ImageSource,
  planForThreads,
  supervisedWeight,
  type TrainingSample,
} from './batch.ts';
import { numberOf, type Progress } from './checkpoint.ts';
import { GradientRun } from './gradient-run.ts';
import { isAllocationFailure, OutOfMemory } from './memory.ts';
import type { ParameterState } from './state.ts';
import { saveWithPatience } from './storage.ts';

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
  next(cursor: number): Promise<{ readonly samples: readonly TrainingSample<ImageSource>[]; readonly cursor: number }>;
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
  /** Gives up what it holds of its session. */
  release?(): void;
}

/**
 * One session in this process, see GradientRun.
 * @param feedsOf data inputs of the graph for a micro-batch
 * @param trained parameters this graph has gradients of, where it has not all
 * @param joined their order, where they are one output
 */
export function sessionComputer(
  session: Session,
  frozen: Readonly<Record<string, Tensor>>,
  feedsOf: (batch: CollatedBatch) => Readonly<Record<string, Tensor>>,
  trained?: readonly string[],
  joined?: readonly string[],
): GradientComputer {
  const run = new GradientRun(session, frozen, { trained, wantsLogits: true, joined });
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
    release: () => run.release(),
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
  /** Skipped steps in a row after which the run is rolled back, the second time given up as diverged. Default 5. */
  readonly maxSkippedInARow?: number;
  /**
   * Puts parameters, moments and `state.step` back to the checkpoint of a number (`Progress.good`); 0 is the start. Without it nothing is rolled
   * back.
   */
  readonly rollBack?: (number: number) => Promise<void>;
  /** Awaited before every micro-batch: where others wait for the processor, they go first. */
  readonly pace?: () => void | Promise<void>;
  /** Told what went wrong and was got over. */
  readonly onTrouble?: (trouble: Trouble) => void | Promise<void>;
  /** Waits between tries to save where the disk is full. Default STORAGE_PAUSES_MS. */
  readonly storagePausesMs?: readonly number[];
  /** How samples of a step become micro-batches of at most so many tokens. Default `microBatches`. */
  readonly plan?: (samples: readonly TrainingSample<ImageSource>[], microBatchTokens: number) => CollatedBatch[];
  readonly now?: () => number;
}

/** `code` is that of the error the job would end with if it went on. */
export interface Trouble {
  readonly code: 'storage_full' | 'out_of_memory' | 'diverged';
  readonly message: string;
}

/** What is left of the learning rate after a rollback. */
const RATE_AFTER_ROLLBACK = 0.5;

export interface TrainResult {
  readonly outcome: 'complete' | 'aborted' | 'diverged';
  readonly progress: Progress;
}

/** Micro-batches of one optimizer step; their weights add up to one. Samples without supervised tokens are left out. */
export function microBatches(
  samples: readonly TrainingSample<ImageSource>[],
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
 * function of parameters, moments and progress, so a run resumed from a checkpoint equals an uninterrupted one.
 *
 * A step whose loss or gradient is not finite is left out. After `maxSkippedInARow` of them the weights go back to the last good
 * checkpoint, data and steps go on behind the bad ones, and the learning rate is halved; the second time the run has diverged.
 * Where memory is short, micro-batches are halved; where the disk is full, saving waits.
 *
 * @throws OutOfMemory, StorageFull
 */
export async function train(options: TrainOptions): Promise<TrainResult> {
  const { state, data, totalSteps } = options;
  const now = options.now ?? (() => performance.now());
  const trouble = async (code: Trouble['code'], message: string): Promise<void> => {
    await options.onTrouble?.({ code, message });
  };
  let progress: Progress = options.resume ?? { step: 0, skipped: 0, cursor: 0 };
  let upcoming: ReturnType<DataSource['next']> | undefined;
  let saved = numberOf(progress);
  /** Regular checkpoints are where a rollback goes to; others come when somebody wants the machine. */
  const save = async (isRegular: boolean): Promise<void> => {
    const number = numberOf(progress);
    if (isRegular && (progress.skippedInARow ?? 0) === 0) progress = { ...progress, good: number };
    await saveWithPatience(async () => await options.saveCheckpoint?.(progress), {
      ...(options.storagePausesMs === undefined ? {} : { pausesMs: options.storagePausesMs }),
      ...(options.signal === undefined ? {} : { signal: options.signal }),
      onFull: (message, pauseMs) =>
        trouble(
          'storage_full',
          `No room for the checkpoint of step ${number} (${message}); the next try is in ${pauseMs / 1000} s.`,
        ),
    });
    saved = number;
  };
  /** @returns false when that has been done already or cannot be */
  const rollBack = async (reason: string): Promise<boolean> => {
    if (options.rollBack === undefined || progress.rateScale !== undefined) return false;
    const number = numberOf(progress);
    const good = progress.good ?? 0;
    await options.rollBack(good);
    const { skippedInARow: _, ...rest } = progress;
    progress = { ...rest, step: state.step, skipped: number - state.step, rateScale: RATE_AFTER_ROLLBACK };
    await trouble(
      'diverged',
      `${reason} The weights are those of step ${good} again; training goes on after step ${number} with ${RATE_AFTER_ROLLBACK} of the learning rate.`,
    );
    return true;
  };
  while (numberOf(progress) < totalSteps) {
    const step = numberOf(progress) + 1;
    const begin = now();
    const { samples, cursor } = await (upcoming ?? data.next(progress.cursor));
    const computing = gradientsOf(samples, progress, options, trouble);
    // The next step's data is made while other threads compute. A failure shows where it is awaited.
    if (step < totalSteps) upcoming = data.next(cursor);
    upcoming?.catch(() => {});
    const { totals, microBatchTokens } = await computing;
    const learningRate = options.learningRate(step) * (progress.rateScale ?? 1);
    const { norm, applied } = update(options, totals, learningRate);
    if (applied && options.averageDecay !== undefined) state.updateAverages(options.averageDecay);
    progress = {
      ...progress,
      step: progress.step + (applied ? 1 : 0),
      skipped: progress.skipped + (applied ? 0 : 1),
      cursor,
      skippedInARow: applied ? 0 : (progress.skippedInARow ?? 0) + 1,
      ...(microBatchTokens === undefined ? {} : { microBatchTokens }),
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
    const skipped = progress.skippedInARow ?? 0;
    if (skipped >= (options.maxSkippedInARow ?? 5)) {
      const reason = `${skipped} steps in a row had a loss or gradient that is not finite.`;
      if (!(await rollBack(reason))) return { outcome: 'diverged', progress };
    }
    if (options.isDone?.(step) === true) break;
    const isStopped = options.signal?.aborted === true;
    if (isStopped || options.isCheckpointDue?.(step) === true) {
      const broken = state.nonFinite();
      // Not worth a checkpoint; who goes on from the last one comes here again.
      if (broken !== undefined && isStopped) return { outcome: 'aborted', progress };
      if (broken !== undefined && !(await rollBack(`After step ${step}, ${broken} is not finite.`)))
        return { outcome: 'diverged', progress };
      await save(options.isCheckpointDue?.(step) === true);
      // Whoever saw the checkpoint may have had enough, or been told to stop.
      if (options.isDone?.(step) === true) break;
      if (options.signal?.aborted === true) return { outcome: 'aborted', progress };
    }
  }
  if (state.nonFinite() !== undefined) return { outcome: 'diverged', progress };
  if (saved !== numberOf(progress)) await save(false);
  return { outcome: 'complete', progress };
}

/** One step from the gradients held; none where the loss or a gradient is not finite. */
function update(
  { state, rateFactor, maxNorm = 1, adamw, decay }: TrainOptions,
  totals: StepTotals,
  learningRate: number,
): { norm: number; applied: boolean } {
  faultPoint('update');
  if (!Number.isFinite(totals.loss)) return { norm: state.gradientNorm(), applied: false };
  return state.update(rateFactor === undefined ? learningRate : (name) => learningRate * rateFactor(name), {
    maxNorm,
    ...(adamw === undefined ? {} : { adamw }),
    ...(decay === undefined ? {} : { decay }),
  });
}

/**
 * Gradients of a step's samples, in the state. Where memory is short: again in micro-batches of half the size.
 * @returns `microBatchTokens` where it had to be made smaller, for this step and all later ones
 * @throws OutOfMemory when they cannot be made smaller
 */
async function gradientsOf(
  samples: readonly TrainingSample<ImageSource>[],
  progress: Progress,
  options: TrainOptions,
  trouble: (code: 'out_of_memory', message: string) => Promise<void>,
): Promise<{ totals: StepTotals; microBatchTokens: number | undefined }> {
  const { state, computer, threads = 1 } = options;
  const plan =
    options.plan ??
    ((list, microBatchTokens) =>
      microBatches(list, {
        padId: options.padId,
        lengthMultiple: options.lengthMultiple ?? 1,
        threads,
        microBatchTokens,
      }));
  let limit = progress.microBatchTokens;
  let batches = plan(samples, limit ?? options.microBatchTokens ?? 1500);
  for (;;) {
    state.zeroGradients();
    try {
      let totals: StepTotals = { loss: 0, correct: 0, supervised: 0, tokens: 0 };
      // One at a time unless several threads share them; those with pictures first, as one call would take them.
      const parts = threads > 1 ? [batches] : imagesFirst(batches).map((batch) => [batch]);
      for (const part of parts) {
        await options.pace?.();
        const isVoid = faultPoint('micro-batch');
        totals = addTotals(totals, await computer.accumulate(state, part));
        if (isVoid) totals = { ...totals, loss: Number.NaN };
      }
      return { totals, microBatchTokens: limit };
    } catch (error) {
      if (!isAllocationFailure(error)) throw error;
      const reason = error instanceof Error ? error.message : String(error);
      const largest = sizeOf(batches);
      limit = Math.floor(largest / 2);
      batches = plan(samples, limit);
      if (sizeOf(batches) >= largest)
        throw new OutOfMemory(`a micro-batch of one row of ${largest} tokens does not fit the memory: ${reason}`);
      await trouble(
        'out_of_memory',
        `A micro-batch of ${largest} tokens did not fit the memory (${reason}); from here on one has at most ${limit}. ` +
          'A step adds up as many as it needs: its result is the same up to rounding.',
      );
    }
  }
}

/** Tokens of the largest micro-batch, padding included. */
const sizeOf = (batches: readonly CollatedBatch[]): number => Math.max(0, ...batches.map((b) => b.batch * b.length));

const imagesFirst = (batches: readonly CollatedBatch[]): CollatedBatch[] => [
  ...batches.filter((b) => b.images.length > 0),
  ...batches.filter((b) => b.images.length === 0),
];
