import { readdir, stat } from 'node:fs/promises';
import { join } from 'node:path';
import { sha256File } from '../io/digest.ts';
import { writeSafetensors } from '../io/safetensors-write.ts';
import { fromFloat32 } from '../io/tensor.ts';
import { writeAdapter } from '../models/adapter.ts';
import { familyOf } from '../models/family.ts';
import { initAdapter } from '../models/presets.ts';
import type { LoraSpec } from '../models/weights.ts';
import { f32, type Tensor } from '../runtime/session.ts';
import { type BaseModel, loadBaseModel } from './base-model.ts';
import { type ChatExample, DatasetError } from './chat-dataset.ts';
import { SampleMaker } from './chat-samples.ts';
import { loadCheckpoint, type Progress, saveCheckpoint } from './checkpoint.ts';
import { FeatureStore } from './feature-store.ts';
import { Rng } from './nano/random.ts';
import { learningRateAt, progressOf } from './schedule.ts';
import { type FineTuneStage, StageSessions } from './stage-sessions.ts';
import { ParameterState } from './state.ts';
import { type DataSource, microBatches, type StepMetrics, train } from './trainer.ts';

export interface FineTuneSpec {
  /** Checkpoint folder of the base model. */
  readonly baseDir: string;
  /** Folder of an earlier fine-tune of the same base to start from. */
  readonly tunedDir?: string;
  /** Chat JSONL files on disk. */
  readonly trainingFile: string;
  readonly validationFile?: string;
  readonly epochs: number;
  /** Examples of one optimizer step. */
  readonly batchSize: number;
  /** Factor on the stage's default learning rate. */
  readonly learningRateMultiplier: number;
  readonly stage: FineTuneStage;
  /** Default r 16, alpha 32, no DoRA; read for `lora` alone. */
  readonly lora?: { readonly r: number; readonly alpha: number; readonly dora?: boolean | undefined };
  /** Steps between checkpoints. Default: ten checkpoints. */
  readonly checkpointEvery?: number;
  readonly seed: number;
  /** Kernel threads. Default 1. */
  readonly threads?: number;
  /** Checkpoints are written here, as `step-XXXXXXXX/`. */
  readonly outDir: string;
  /** Folder of a checkpoint of the same job to go on from. */
  readonly resumeDir?: string;
}

/** Metrics under the names OpenAI uses. Losses in nats a token, accuracies 0…1. */
export interface FineTuneMetrics {
  readonly step: number;
  readonly totalSteps: number;
  readonly epoch: number;
  readonly train_loss: number;
  readonly train_mean_token_accuracy: number;
  readonly full_valid_loss?: number;
  readonly full_valid_mean_token_accuracy?: number;
  readonly grad_norm: number;
  readonly learning_rate: number;
  readonly tokens_per_second: number;
}

export interface CheckpointFile {
  readonly name: string;
  readonly bytes: number;
  readonly sha256: string;
}

export interface FineTuneHooks {
  /** Bytes of a picture that is not a data URL (a file id). Without it such pictures are an error of the dataset. */
  readonly readImage?: (reference: string) => Promise<Uint8Array>;
  readonly onEvent?: (level: 'info' | 'warn' | 'error', message: string) => void | Promise<void>;
  readonly onMetrics?: (metrics: FineTuneMetrics) => void | Promise<void>;
  /**
   * A checkpoint is whole on disk. Its folder is what `resumeDir` takes and what serving lays over the base: an adapter
   * folder or changed tensors, the trainer's state, a manifest.
   */
  readonly onCheckpoint?: (
    dir: string,
    step: number,
    metrics: FineTuneMetrics,
    files: readonly CheckpointFile[],
  ) => void | Promise<void>;
  /** Aborting ends the job after the step in progress, with a checkpoint. */
  readonly signal?: AbortSignal;
}

export type FineTuneResult =
  | { readonly outcome: 'succeeded' | 'stopped'; readonly finalStep: number; readonly trainedTokens: number }
  | { readonly outcome: 'failed'; readonly code: string; readonly message: string; readonly trainedTokens: number };

const MICRO_BATCH_TOKENS = 1500;
const DEFAULT_LORA = { r: 16, alpha: 32 };

/**
 * Default peak learning rate. At 4096 features the Mantis recipes (1e-3 projector, 2e-4 adapters, 1e-5 full); narrower
 * decoders take larger steps. The exponents are fitted between that width and nano's 160 (2.3e-3 adapters, 5e-4 full).
 */
export function defaultLearningRate(stage: FineTuneStage, hidden: number): number {
  const narrowness = Math.max(1, 4096 / hidden);
  if (stage === 'projector') return 1e-3;
  return stage === 'lora' ? 2e-4 * narrowness ** 0.75 : 1e-5 * narrowness ** 1.2;
}

/**
 * Fine-tunes a model on a chat file. The result depends on the spec alone: a job resumed from any of its checkpoints ends with
 * the same bits as one that was never interrupted (CPU, same number of threads).
 *
 * Errors of the dataset and divergence come back as `failed` with a code; defects throw.
 */
export async function runFineTune(spec: FineTuneSpec, hooks: FineTuneHooks = {}): Promise<FineTuneResult> {
  const say = hooks.onEvent ?? (() => {});
  let trainedTokens = 0;
  const fail = (code: string, message: string): FineTuneResult => ({ outcome: 'failed', code, message, trainedTokens });
  const base = loadBaseModel(spec.baseDir, spec.tunedDir);
  const lora: LoraSpec | undefined =
    spec.stage === 'lora'
      ? {
          r: spec.lora?.r ?? DEFAULT_LORA.r,
          alpha: spec.lora?.alpha ?? DEFAULT_LORA.alpha,
          targets: familyOf(base.config).decoderLinears,
          ...(spec.lora?.dora === true ? { dora: true } : {}),
        }
      : undefined;
  const threads = spec.threads ?? 1;
  const features = await FeatureStore.create(base.config, base.weights, { threads });
  const sessions = new StageSessions(base, spec.stage, lora, threads);
  try {
    // The projector learns from images alone.
    const needsImages = spec.stage === 'projector';
    const samples = new SampleMaker(base, features, hooks.readImage);
    const training = await samples.prepare(spec.trainingFile, needsImages);
    const validation =
      spec.validationFile === undefined ? undefined : await samples.prepare(spec.validationFile, needsImages);
    if (training.examples.length === 0)
      return fail(
        'no_usable_examples',
        `none of the ${training.total} examples has an image, and the projector learns from images alone`,
      );
    if (training.examples.length < training.total)
      await say('warn', `${training.total - training.examples.length} examples without images are left out.`);

    const seen = await samples.look([...training.examples, ...(validation?.examples ?? [])], hooks.signal);
    if (seen > 0) await say('info', `${seen} pictures seen; what is made of them is kept.`);

    const { session } = await sessions.get(true);
    const state = new ParameterState(
      session.graph.trainable.map((name) => ({ name, shape: session.graph.weights.get(name) ?? [] })),
    );
    const adapter = lora === undefined ? undefined : initAdapter(base.config, lora, spec.seed, base.weights);
    for (const p of state.parameters) {
      const start = base.weights.get(p.name) ?? adapter?.get(p.name);
      if (start === undefined) throw new Error(`there is no value to start ${p.name} from`);
      p.value.set(start.data as Float32Array);
    }
    const resume = spec.resumeDir === undefined ? undefined : await loadCheckpoint(spec.resumeDir, state);
    trainedTokens = Number(resume?.extra?.trainedTokens ?? 0);

    const count = training.examples.length;
    const stepsPerEpoch = Math.ceil(count / spec.batchSize);
    const totalSteps = stepsPerEpoch * spec.epochs;
    const checkpointEvery = spec.checkpointEvery ?? Math.max(1, Math.ceil(totalSteps / 10));
    const peak = defaultLearningRate(spec.stage, base.config.text.hidden) * spec.learningRateMultiplier;
    const schedule = { kind: 'cosine', peak, warmupShare: 0.05, floorShare: 0.02 } as const;
    await say(
      'info',
      `${resume === undefined ? 'Training' : `Resuming at step ${resume.step + resume.skipped} of`} ${spec.stage}: ${count} examples, ` +
        `${totalSteps} steps, ${state.elementCount} trained parameters, peak learning rate ${peak.toPrecision(3)}.`,
    );
    const padId = base.config.text.padToken ?? base.config.text.eosTokens[0] ?? 0;
    const computer = sessions.computer();
    const shape = { padId, lengthMultiple: 1, microBatchTokens: MICRO_BATCH_TOKENS };
    let last: FineTuneMetrics | undefined;
    const result = await train({
      state,
      computer,
      data: epochData(training.examples, samples, spec),
      totalSteps,
      learningRate: (step) => learningRateAt(schedule, progressOf(step, totalSteps)),
      adamw: { weightDecay: spec.stage === 'full' ? 0.01 : 0 },
      microBatchTokens: shape.microBatchTokens,
      padId,
      ...(resume === undefined ? {} : { resume }),
      ...(hooks.signal === undefined ? {} : { signal: hooks.signal }),
      isCheckpointDue: (step) => step % checkpointEvery === 0,
      onStep: async (metrics) => {
        trainedTokens += metrics.tokens;
        last = toMetrics(metrics, totalSteps, stepsPerEpoch);
        const isReported = metrics.step % checkpointEvery === 0 || metrics.step === totalSteps;
        if (validation !== undefined && validation.examples.length > 0 && isReported) {
          const sets = await Promise.all(validation.examples.map((e) => samples.make(e)));
          const { loss, correct, supervised } = await sessions.evaluate(state, microBatches(sets, shape));
          last = { ...last, full_valid_loss: loss, full_valid_mean_token_accuracy: correct / supervised };
        }
        if (!metrics.applied) await say('warn', `Step ${metrics.step} had a non-finite gradient and was left out.`);
        await hooks.onMetrics?.(last);
      },
      saveCheckpoint: async (progress: Progress) => {
        const dir = await saveCheckpoint(
          spec.outDir,
          state,
          { ...progress, extra: { trainedTokens } },
          { addFiles: (folder) => writeTuned(folder, base, state, lora) },
        );
        const step = progress.step + progress.skipped;
        if (last !== undefined) await hooks.onCheckpoint?.(dir, step, last, await listFiles(dir));
      },
    });
    if (result.outcome === 'diverged')
      return fail('diverged', 'ten steps in a row had non-finite gradients; try a smaller learning_rate_multiplier');
    return {
      outcome: result.outcome === 'complete' ? 'succeeded' : 'stopped',
      finalStep: result.progress.step + result.progress.skipped,
      trainedTokens,
    };
  } catch (error) {
    if (error instanceof DatasetError) return fail('invalid_training_file', error.message);
    throw error;
  } finally {
    await sessions.release();
    await features.release();
  }
}

function toMetrics(m: StepMetrics, totalSteps: number, stepsPerEpoch: number): FineTuneMetrics {
  return {
    step: m.step,
    totalSteps,
    epoch: Math.ceil(m.step / stepsPerEpoch),
    train_loss: m.loss,
    train_mean_token_accuracy: m.tokenAccuracy,
    grad_norm: m.gradNorm,
    learning_rate: m.learningRate,
    tokens_per_second: (m.tokens / m.ms) * 1000,
  };
}

/** Batches of an epoch's random order; the order depends on seed and epoch alone. The cursor counts examples. */
function epochData(examples: readonly ChatExample[], samples: SampleMaker, spec: FineTuneSpec): DataSource {
  const count = examples.length;
  let order: { readonly epoch: number; readonly list: readonly ChatExample[] } | undefined;
  return {
    next: async (cursor) => {
      const epoch = Math.floor(cursor / count);
      if (order?.epoch !== epoch) order = { epoch, list: new Rng(spec.seed, epoch).shuffle(examples) };
      const end = Math.min(cursor + spec.batchSize, (epoch + 1) * count);
      const chosen = order.list.slice(cursor - epoch * count, end - epoch * count);
      return { samples: await Promise.all(chosen.map((e) => samples.make(e))), cursor: end };
    },
  };
}

/** Writes what serving needs: a PEFT adapter, or the changed tensors under canonical names. */
async function writeTuned(
  dir: string,
  base: BaseModel,
  state: ParameterState,
  lora: LoraSpec | undefined,
): Promise<void> {
  const trained = new Map(state.parameters.map((p) => [p.name, f32(p.value, p.shape)]));
  const changed = new Map<string, Tensor>();
  for (const name of base.carried) {
    const tensor = base.weights.get(name);
    if (tensor !== undefined) changed.set(name, tensor);
  }
  const adapter = [...trained].filter(([name]) => /\.(lora_[AB]\.weight|lora_magnitude_vector)$/.test(name));
  if (lora !== undefined) await writeAdapter(dir, { lora, weights: new Map(adapter) }, { family: base.config.family });
  for (const [name, tensor] of trained) if (base.weights.has(name)) changed.set(name, tensor);
  if (changed.size > 0)
    await writeSafetensors(
      join(dir, 'model.safetensors'),
      [...changed].map(([name, t]) => [name, fromFloat32(t.data as Float32Array, t.shape)] as const),
      { format: 'pt' },
    );
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
