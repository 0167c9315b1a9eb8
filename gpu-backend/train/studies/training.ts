import { join } from 'node:path';
import type { VlmConfig } from '../../models/config.ts';
import { trainGraph } from '../../models/train-graph.ts';
import { loadNewestCheckpoint, type Progress, saveCheckpoint } from '../checkpoint.ts';
import { MuonState, preparing } from '../muon.ts';
import { ParallelComputer } from '../parallel.ts';
import { learningRateAt, progressOf } from '../schedule.ts';
import { ParameterState } from '../state.ts';
import { createTrainSession, type TrainSessionSpec } from '../train-session.ts';
import { type DataSource, type GradientComputer, sessionComputer, train } from '../trainer.ts';
import type { Mix, Questions } from './dialogues.ts';
import type { Encoder, Form } from './forms.ts';
import type { StudyRecipe } from './recipe.ts';

/** A part of a run with one mixture and one set of weights that move; the schedule begins again with each. */
export interface TrainPart {
  readonly steps: number;
  readonly mix: Mix;
  readonly form: Form;
  /** `projector`: all other weights stand still. */
  readonly moves: 'all' | 'projector';
}

/** What a step is made of: so many dialogues, or dialogues until they have so many answer tokens. */
export type StepSize = { readonly dialogues: number } | { readonly answerTokens: number };

export interface TrainRunOptions {
  /** Folder of the run's checkpoints. */
  readonly out: string;
  readonly config: VlmConfig;
  readonly recipe: StudyRecipe;
  readonly encoder: Encoder;
  readonly questions: Questions;
  /** Weights at step 0, all that the config expects. */
  readonly start: ReadonlyMap<string, Float32Array>;
  readonly parts: readonly TrainPart[];
  readonly stepSize: StepSize;
  /** Different dialogues of the run: their numbers start again from 0 behind the last. Absent: as many as it reads. */
  readonly pool?: number;
  readonly seed: number;
  readonly threads: number;
  readonly padId: number;
  readonly signal?: AbortSignal;
  /** Seconds between checkpoints. Default 60. */
  readonly checkpointS?: number;
  readonly onStep?: (step: number, totalSteps: number, loss: number) => void;
}

/** What a run took, restarts included. */
export interface TrainTotals {
  readonly steps: number;
  readonly dialogues: number;
  readonly answerTokens: number;
  /** Tokens through the decoder, image tokens included, padding not. */
  readonly tokens: number;
  /** Processor time of all threads, s. A part that a kill lost is not in it. */
  readonly cpuS: number;
  /** Mean over the last tenth of the steps. */
  readonly loss: number;
}

/**
 * Trains from the start, or goes on from the newest checkpoint in `out`; a run that was stopped ends with the same weights as one that was not.
 * @returns undefined when it was aborted, with a checkpoint
 * @throws Error when the run diverged
 */
export async function trainRun(
  options: TrainRunOptions,
): Promise<{ state: ParameterState; totals: TrainTotals } | undefined> {
  const { config, recipe, threads, parts } = options;
  const spec: TrainSessionSpec = { config, options: { train: 'all', images: 'pixels' }, threads: 1 };
  const { trainable, weights } = trainGraph(config, spec.options);
  const specs = trainable.map((name) => ({ name, shape: weights.get(name) ?? [] }));
  const state = recipe.optimizer === 'muon' ? await MuonState.create(specs, 1) : new ParameterState(specs);
  for (const { name, value } of state.parameters) {
    const start = options.start.get(name);
    if (start?.length !== value.length)
      throw new Error(`expected ${value.length} start values of ${name}, got ${start?.length ?? 'none'}`);
    value.set(start);
  }
  const checkpoints = join(options.out, 'checkpoints');
  const resumed = await loadNewestCheckpoint(checkpoints, state);
  const sums = new RunSums(resumed?.progress);
  const totalSteps = parts.reduce((sum, part) => sum + part.steps, 0);
  const tailFrom = totalSteps - Math.ceil(totalSteps / 10);
  const computer = await openComputer(spec, state, threads);
  let checkpointAt = performance.now();
  try {
    const { outcome } = await train({
      state,
      computer: state instanceof MuonState ? preparing(computer, state, recipe.maxNorm) : computer,
      data: dataOf(options, sums.steps),
      totalSteps,
      learningRate: (step) => {
        const { part, stepInPart } = partAt(parts, step);
        return learningRateAt(recipe.schedule, progressOf(stepInPart, part.steps));
      },
      // A tensor of rate 0 stands still bit for bit; its moments follow its gradients and are warm when it begins to move.
      rateFactor: (name) => {
        const { part } = partAt(parts, sums.steps + 1);
        if (part.moves === 'projector' && !name.startsWith('multi_modal_projector.')) return 0;
        return name.startsWith('vision_tower.') ? recipe.towerRate : 1;
      },
      adamw: { weightDecay: recipe.weightDecay, beta2: recipe.beta2 },
      maxNorm: recipe.maxNorm,
      microBatchTokens: recipe.microBatchTokens,
      threads,
      padId: options.padId,
      ...(resumed === undefined ? {} : { resume: resumed.progress }),
      ...(options.signal === undefined ? {} : { signal: options.signal }),
      onStep: ({ step, loss, tokens, supervisedTokens }, { cursor }) => {
        sums.add({ step, cursor, loss: step > tailFrom ? loss : undefined, tokens, answerTokens: supervisedTokens });
        options.onStep?.(step, totalSteps, loss);
      },
      isCheckpointDue: () => performance.now() - checkpointAt > (options.checkpointS ?? 60) * 1000,
      saveCheckpoint: async (progress) => {
        checkpointAt = performance.now();
        await saveCheckpoint(checkpoints, state, { ...progress, extra: sums.extra() }, { keep: 1 });
      },
    });
    if (outcome === 'diverged')
      throw new Error(`the run in ${options.out} diverged: its loss or gradient is not finite; try a lower rate`);
    return outcome === 'complete' ? { state, totals: sums.totals() } : undefined;
  } finally {
    computer.release?.();
    await (computer as Partial<ParallelComputer>).close?.();
  }
}

/** Several threads have each a session of their own; one needs none beside this. */
async function openComputer(spec: TrainSessionSpec, state: ParameterState, threads: number): Promise<GradientComputer> {
  if (threads > 1) return new ParallelComputer(spec, state, threads);
  const { session, feeds } = await createTrainSession(spec);
  const inner = sessionComputer(session, {}, feeds);
  return {
    accumulate: (given, batches) => inner.accumulate(given, batches),
    release: () => {
      inner.release?.();
      void session.release();
    },
  };
}

function partAt(parts: readonly TrainPart[], step: number): { part: TrainPart; stepInPart: number } {
  let before = 0;
  for (const part of parts) {
    if (step <= before + part.steps) return { part, stepInPart: step - before };
    before += part.steps;
  }
  const last = parts.at(-1);
  if (last === undefined) throw new Error('expected a run of at least one part, got none');
  return { part: last, stepInPart: last.steps };
}

/** Dialogues in their order; which step they belong to is decided by their sizes alone, so a resumed run cuts them alike. */
function dataOf({ encoder, questions, parts, stepSize, pool, seed }: TrainRunOptions, stepsDone: number): DataSource {
  // The trainer asks once a step, in order.
  let step = stepsDone;
  return {
    next: async (cursor) => {
      const { mix, form } = partAt(parts, ++step).part;
      const samples: ReturnType<Encoder['dialogue']>[] = [];
      let answerTokens = 0;
      const isFull = (): boolean =>
        'dialogues' in stepSize ? samples.length >= stepSize.dialogues : answerTokens >= stepSize.answerTokens;
      let at = cursor;
      for (; !isFull(); at++) {
        const sample = encoder.dialogue(questions.dialogue(seed, pool === undefined ? at : at % pool, mix), form);
        for (const weight of sample.layout.weights) if (weight > 0) answerTokens++;
        samples.push(sample);
      }
      return { samples, cursor: at };
    },
  };
}

/** What has been done so far, kept in the checkpoints. */
class RunSums {
  steps: number;
  private dialogues: number;
  private answerTokens: number;
  private tokens: number;
  private lossSum: number;
  private lossCount: number;
  private readonly cpuBefore: number;
  private readonly cpuStart = process.cpuUsage();

  constructor(progress: Progress | undefined) {
    const { extra = {} } = progress ?? {};
    const kept = (name: string): number => (typeof extra[name] === 'number' ? extra[name] : 0);
    this.steps = kept('steps');
    this.dialogues = kept('dialogues');
    this.answerTokens = kept('answerTokens');
    this.tokens = kept('tokens');
    this.lossSum = kept('lossSum');
    this.lossCount = kept('lossCount');
    this.cpuBefore = kept('cpuS');
  }

  /** @param loss of a step that counts for the mean at the end */
  add(done: { step: number; cursor: number; loss: number | undefined; tokens: number; answerTokens: number }): void {
    this.steps = done.step;
    this.dialogues = done.cursor;
    this.tokens += done.tokens;
    this.answerTokens += done.answerTokens;
    if (done.loss === undefined) return;
    this.lossSum += done.loss;
    this.lossCount++;
  }

  extra(): Record<string, number> {
    const { steps, dialogues, answerTokens, tokens, lossSum, lossCount } = this;
    return { steps, dialogues, answerTokens, tokens, lossSum, lossCount, cpuS: this.cpuS() };
  }

  totals(): TrainTotals {
    const { steps, dialogues, answerTokens, tokens, lossSum, lossCount } = this;
    return { steps, dialogues, answerTokens, tokens, cpuS: this.cpuS(), loss: lossSum / Math.max(1, lossCount) };
  }

  private cpuS(): number {
    const { user, system } = process.cpuUsage(this.cpuStart);
    return this.cpuBefore + (user + system) / 1e6;
  }
}
