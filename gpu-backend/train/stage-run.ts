import { existsSync } from 'node:fs';
import { readdir, stat } from 'node:fs/promises';
import { join } from 'node:path';
import { sha256File } from '../io/digest.ts';
import { asFrozenBase } from '../models/frozen-weights.ts';
import { initAdapter } from '../models/presets.ts';
import type { BaseModel } from './base-model.ts';
import type { CollatedBatch } from './batch.ts';
import {
  checkpointName,
  loadCheckpoint,
  numberOf,
  type Progress,
  saveCheckpoint,
  verifyCheckpoint,
} from './checkpoint.ts';
import { BestSoFar, type Measurement } from './early-stopping.ts';
import type { CheckpointFile, CheckpointPlace, FineTuneHooks, FineTuneMetrics, FineTuneSpec } from './finetune-spec.ts';
import { learningRateAt, progressOf } from './schedule.ts';
import { epochs, measure, type StageData } from './stage-data.ts';
import type { StagePlan } from './stage-plan.ts';
import { StageSessions } from './stage-sessions.ts';
import { afterStage, readValues, type Values, writeTuned, writeValues } from './stage-weights.ts';
import { ParameterState } from './state.ts';
import { type StepMetrics, train } from './trainer.ts';

/** What a checkpoint says beside its progress in its stage. */
export interface JobProgress {
  /** Index of the stage. */
  readonly stage: number;
  /** Steps of the stages before it. */
  readonly offset: number;
  readonly trainedTokens: number;
  /** Time trained, over all tries. */
  readonly trainedMs: number;
  /** The stage has ended with this checkpoint, perhaps before its last step. */
  readonly isStageEnd: boolean;
  readonly best?: Measurement | undefined;
  /** Measurements since the best one. */
  readonly sinceBest?: number | undefined;
}

export interface StageRun {
  readonly spec: FineTuneSpec;
  readonly hooks: FineTuneHooks;
  readonly base: BaseModel;
  readonly plan: StagePlan;
  readonly training: StageData;
  readonly validation: StageData | undefined;
  /** Steps of earlier stages, and of all stages as planned. */
  readonly offset: number;
  readonly totalSteps: number;
  readonly checkpointEvery: number;
  readonly trainedTokens: number;
  readonly trainedMs: number;
  /** Folder of a checkpoint of this stage to go on from. */
  readonly resumeDir: string | undefined;
}

export interface StageResult {
  /** `enough`: as complete as whoever looks at the checkpoints wants it; no further stage is. */
  readonly outcome: 'complete' | 'enough' | 'aborted' | 'diverged' | 'time_limit';
  /** Last step, through all stages. */
  readonly step: number;
  readonly trainedTokens: number;
  readonly trainedMs: number;
  /** The model that a further stage starts from; only of a complete one. */
  readonly next: () => BaseModel;
}

export const stepsOf = ({ stage }: StagePlan, examples: number): number =>
  Math.ceil(examples / stage.batch_size) * stage.n_epochs;

/** Trains one stage from its start or from a checkpoint of it. Everything about it is a function of the run's fields. */
export async function runStage(run: StageRun): Promise<StageResult> {
  const { spec, hooks, base, plan, training, validation, offset, checkpointEvery } = run;
  const say = hooks.onEvent ?? (() => {});
  const longest = Math.max(training.selection.longest, validation?.selection.longest ?? 0);
  const sessions = new StageSessions(base, plan, longest, spec.threads ?? 1);
  try {
    const state = await startState(sessions, run);
    const start = startValues(run, state);
    setStart(state, start);
    const resume = run.resumeDir === undefined ? undefined : await loadCheckpoint(run.resumeDir, state);
    const before = resume?.extra as unknown as JobProgress | undefined;

    const count = training.selection.entries.length;
    const stageSteps = stepsOf(plan, count);
    const stepsPerEpoch = stageSteps / plan.stage.n_epochs;
    await say('info', introduction(run, state, stageSteps, resume));
    let { trainedTokens, trainedMs } = run;
    const began = performance.now() - trainedMs;
    const measured = new BestSoFar(plan.earlyStopping, state, before, run.resumeDir);
    let hasStopped = before?.isStageEnd === true;
    let isEnough = false;
    const isEpochEnd = (local: number): boolean => local % stepsPerEpoch === 0;
    const isRegular = (local: number): boolean =>
      (offset + local) % checkpointEvery === 0 || (spec.epochCheckpoints === true && isEpochEnd(local));
    let computed = { positions: 0, tokens: 0 };
    let last: FineTuneMetrics | undefined;
    const limit = new AbortController();
    const maxMs = (spec.maxDurationS ?? Number.POSITIVE_INFINITY) * 1000;

    const onStep = async (metrics: StepMetrics): Promise<void> => {
      trainedTokens += metrics.tokens;
      trainedMs = performance.now() - began;
      last = toMetrics(metrics, run, stepsPerEpoch, 1 - computed.tokens / computed.positions);
      const isDue = isRegular(metrics.step) || metrics.step === stageSteps;
      if (validation !== undefined && validation.selection.entries.length > 0 && isDue) {
        hooks.onPhase?.('measuring');
        const { loss, accuracy } = await measure(sessions, state, validation, plan.microBatchTokens, hooks.pace);
        last = { ...last, full_valid_loss: loss, full_valid_mean_token_accuracy: accuracy };
        hasStopped = measured.take({ step: offset + metrics.step, loss, accuracy }, state);
        hooks.onPhase?.('stepping');
      }
      if (!metrics.applied)
        await say('warn', `Step ${last.step} had a loss or gradient that is not finite and was left out.`);
      await hooks.onMetrics?.(last);
      const { best } = measured;
      if ((hasStopped || metrics.step === stageSteps) && best !== undefined && measured.restore(state)) {
        const valid = { full_valid_loss: best.loss, full_valid_mean_token_accuracy: best.accuracy };
        last = { ...last, ...valid };
        await say(
          'info',
          `${hasStopped ? `The stage stops early after step ${last.step}: the validation loss did not fall below ${best.loss.toFixed(4)}` : 'The lowest validation loss was that'} of step ${best.step}, whose weights it ends with.`,
        );
      }
      if (trainedMs >= maxMs) limit.abort();
    };

    const saveAs = async (progress: Progress): Promise<void> => {
      hooks.onPhase?.('saving');
      const local = numberOf(progress);
      const step = offset + local;
      const extra: JobProgress = {
        stage: plan.index,
        offset,
        trainedTokens,
        trainedMs,
        isStageEnd: hasStopped || local === stageSteps,
        best: measured.best,
        sinceBest: measured.since,
      };
      const dir = await saveCheckpoint(
        spec.outDir,
        state,
        { ...progress, extra: { ...extra } },
        {
          number: step,
          ...(spec.keep === undefined ? {} : { keep: spec.keep }),
          alsoKeep: [offset + (progress.good ?? 0)],
          addFiles: async (folder) => {
            await writeTuned(folder, base, plan, state);
            await measured.write(folder, step, state);
            // Later stages cannot make their start again from the base model.
            if (plan.index > 0 && (progress.good ?? 0) === 0 && !extra.isStageEnd)
              await writeValues(folder, 'start', start, state);
          },
        },
      );
      const place: CheckpointPlace = {
        isRegular: isRegular(local) || extra.isStageEnd,
        isEpochEnd: isEpochEnd(local),
        isJobEnd: extra.isStageEnd && plan.index === spec.stages.length - 1,
      };
      if (last !== undefined) {
        const verdict = await hooks.onCheckpoint?.(dir, step, last, await listFiles(dir), place);
        if (verdict === 'enough') isEnough = true;
      }
      hooks.onPhase?.('stepping');
    };

    const microBatchTokens = Math.max(1, Math.floor(plan.microBatchTokens * (spec.microBatchShare ?? 1)));
    const signals = [limit.signal, ...(hooks.signal === undefined ? [] : [hooks.signal])];
    hooks.onPhase?.('stepping');
    const result = await train({
      state,
      computer: sessions.computer(),
      data: epochs(training, plan, spec.seed),
      totalSteps: hasStopped ? numberOf(resume ?? { step: 0, skipped: 0, cursor: 0 }) : stageSteps,
      learningRate: (step) => learningRateAt(plan.schedule, progressOf(step, stageSteps)),
      rateFactor: plan.rateFactor,
      adamw: { weightDecay: plan.weightDecay },
      maxNorm: plan.maxGradNorm,
      microBatchTokens,
      padId: 0,
      plan: (samples, tokens) => {
        const batches = sessions.batches(samples, tokens);
        computed = sizesOf(batches);
        return batches;
      },
      ...(resume === undefined ? {} : { resume }),
      signal: AbortSignal.any(signals),
      isCheckpointDue: isRegular,
      isDone: () => hasStopped || isEnough,
      rollBack: async (good) => {
        if (good === 0) {
          setStart(state, start);
          state.resetMoments();
        } else await loadCheckpoint(await checkpointOf(run, offset + good), state);
      },
      ...(hooks.pace === undefined ? {} : { pace: hooks.pace }),
      onTrouble: ({ message }) => say('warn', message),
      onStep,
      saveCheckpoint: saveAs,
    });
    const isOver = numberOf(result.progress) >= stageSteps;
    const isLate = result.outcome === 'aborted' && limit.signal.aborted && hooks.signal?.aborted !== true;
    return {
      outcome: isEnough ? 'enough' : !isLate ? result.outcome : isOver ? 'complete' : 'time_limit',
      step: offset + numberOf(result.progress),
      trainedTokens,
      trainedMs,
      next: () => afterStage(base, plan, state),
    };
  } catch (error) {
    if (!(error instanceof NoWayBack)) throw error;
    await say('error', `There is no way back to the last good weights: ${error.message}.`);
    return {
      outcome: 'diverged',
      step: offset,
      trainedTokens: run.trainedTokens,
      trainedMs: run.trainedMs,
      next: () => base,
    };
  } finally {
    await sessions.release();
  }
}

/** What the stage trains in its data: where that has no pictures, nothing of what they pass through. */
async function startState(sessions: StageSessions, { training }: StageRun): Promise<ParameterState> {
  const { session } = await sessions.get(training.selection.hasImages);
  return new ParameterState(
    session.graph.trainable.map((name) => ({ name, shape: session.graph.weights.get(name) ?? [] })),
  );
}

/** What the trained weights begin with, whatever they are now. */
function startValues({ base, plan, spec, resumeDir }: StageRun, state: ParameterState): Values {
  const { lora, basePrecision } = plan;
  const origin = lora?.dora === true ? asFrozenBase(base.weights, basePrecision, lora.targets) : undefined;
  const adapter = lora === undefined ? undefined : initAdapter(base.config, lora, spec.seed, origin);
  const kept = resumeDir === undefined ? undefined : readValues(resumeDir, 'start');
  return new Map(
    state.parameters.map(({ name }) => {
      const value =
        kept?.get(name) ?? ((base.weights.get(name) ?? adapter?.get(name))?.data as Float32Array | undefined);
      if (value === undefined) throw new Error(`there is no value to start ${name} from`);
      return [name, value];
    }),
  );
}

/** Weights that begin with these values and have not been trained yet. */
function setStart(state: ParameterState, values: Values): void {
  for (const p of state.parameters) {
    p.value.set(values.get(p.name) ?? []);
    p.firstMoment.fill(0);
    p.secondMoment.fill(0);
  }
  state.step = 0;
}

/** The weights of a checkpoint to roll back to are nowhere to be had. */
class NoWayBack extends Error {
  override readonly name = 'NoWayBack';
}

async function checkpointOf({ spec, hooks, resumeDir }: StageRun, number: number): Promise<string> {
  const local = join(spec.outDir, checkpointName(number));
  if (existsSync(local)) return local;
  if (resumeDir !== undefined) {
    const progress = await verifyCheckpoint(resumeDir);
    if (numberOf(progress) + (progress.extra as unknown as JobProgress).offset === number) return resumeDir;
  }
  const fetched = await hooks.fetchCheckpoint?.(number);
  if (fetched == null) throw new NoWayBack(`the checkpoint of step ${number} is gone`);
  return fetched;
}

function introduction(
  { plan, spec, offset, totalSteps, training }: StageRun,
  state: ParameterState,
  stageSteps: number,
  resume: Progress | undefined,
): string {
  const { stage, index, schedule, packing, basePrecision } = plan;
  const which = spec.stages.length > 1 ? `stage ${index + 1} of ${spec.stages.length}, ` : '';
  const base = basePrecision === 'f32' ? '' : ` over a base in ${basePrecision}`;
  const at = resume === undefined ? 'Training' : `Resuming at step ${offset + numberOf(resume)} of ${totalSteps},`;
  return (
    `${at} ${which}${stage.train}${base}: ${training.selection.entries.length} examples, ${stageSteps} steps, ` +
    `${state.elementCount} trained parameters, peak learning rate ${schedule.peak.toPrecision(3)}${packing === undefined ? '' : ', packed'}.`
  );
}

function sizesOf(batches: readonly CollatedBatch[]): { positions: number; tokens: number } {
  return {
    positions: batches.reduce((sum, b) => sum + b.batch * b.length, 0),
    tokens: batches.reduce((sum, b) => sum + b.tokens, 0),
  };
}

function toMetrics(
  m: StepMetrics,
  { offset, totalSteps, plan }: StageRun,
  stepsPerEpoch: number,
  paddingShare: number,
): FineTuneMetrics {
  return {
    step: offset + m.step,
    totalSteps,
    stage: plan.index,
    train: plan.stage.train,
    epoch: Math.ceil(m.step / stepsPerEpoch),
    train_loss: m.loss,
    train_mean_token_accuracy: m.tokenAccuracy,
    grad_norm: m.gradNorm,
    learning_rate: m.learningRate,
    tokens: m.tokens,
    supervised_tokens: m.supervisedTokens,
    padding_share: paddingShare,
    tokens_per_second: (m.tokens / m.ms) * 1000,
  };
}

async function listFiles(dir: string): Promise<CheckpointFile[]> {
  const names = (await readdir(dir)).sort();
  return Promise.all(
    names.map(async (name) => ({
      name,
      bytes: (await stat(join(dir, name))).size,
      sha256: await sha256File(join(dir, name)),
    })),
  );
}
