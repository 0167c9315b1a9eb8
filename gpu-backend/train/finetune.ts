import { createHash } from 'node:crypto';
import { readdir, readFile, stat } from 'node:fs/promises';
import { join } from 'node:path';
import { sha256File } from '../io/digest.ts';
import { writeSafetensors } from '../io/safetensors-write.ts';
import { fromFloat32 } from '../io/tensor.ts';
import { writeAdapter } from '../models/adapter.ts';
import { initAdapter } from '../models/presets.ts';
import type { TrainMode } from '../models/train-graph.ts';
import { LLAMA_LINEARS, type LoraSpec } from '../models/weights.ts';
import { f32, type Session, type Tensor } from '../runtime/session.ts';
import { LayoutError, layoutConversation } from '../text/layout.ts';
import { ImageError } from '../vision/image-error.ts';
import { preprocessImage } from '../vision/preprocess.ts';
import { type BaseModel, loadBaseModel } from './base-model.ts';
import type { CollatedBatch, TrainingSample } from './batch.ts';
import { type ChatExample, DatasetError, dataUrlBytes, parseChatDataset } from './chat-dataset.ts';
import { loadCheckpoint, type Progress, saveCheckpoint } from './checkpoint.ts';
import { FeatureStore } from './feature-store.ts';
import { Rng } from './nano/random.ts';
import { learningRateAt, progressOf } from './schedule.ts';
import { ParameterState } from './state.ts';
import { createTrainSession, type TrainSession } from './train-session.ts';
import {
  countCorrect,
  type DataSource,
  type GradientComputer,
  microBatches,
  type StepMetrics,
  sessionComputer,
  train,
} from './trainer.ts';

/** Which weights move: the projector; low-rank adapters on the decoder; projector and decoder. The vision tower never does. */
export type FineTuneStage = 'projector' | 'lora' | 'full';

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
  /** Default r 16, alpha 32; read for `lora` alone. */
  readonly lora?: { readonly r: number; readonly alpha: number };
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

/**
 * Up to this many entries, the `lora` stage trains the output head too. A small vocabulary, fully trained, holds tokens that
 * never occurred: the head has learnt to rule them out, and adapters cannot bring them back (after 48 steps on answers of
 * new words the loss was still 4.5 nats a token). It is a few hundred kB beside the adapter.
 */
const SMALL_VOCABULARY = 8192;
const HEAD = 'language_model.lm_head.weight';

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
    spec.stage === 'lora' ? { ...DEFAULT_LORA, ...spec.lora, targets: [...LLAMA_LINEARS] } : undefined;
  const threads = spec.threads ?? 1;
  const features = await FeatureStore.create(base.config, base.weights, { threads });
  const sessions = new StageSessions(base, spec.stage, lora, threads);
  try {
    const samples = new SampleMaker(base, features, hooks.readImage);
    const training = await samples.prepare(spec.trainingFile, spec.stage);
    const validation =
      spec.validationFile === undefined ? undefined : await samples.prepare(spec.validationFile, spec.stage);
    if (training.examples.length === 0)
      return fail(
        'no_usable_examples',
        `none of the ${training.total} examples has an image, and the projector learns from images alone`,
      );
    if (training.examples.length < training.total)
      await say('warn', `${training.total - training.examples.length} examples without images are left out.`);

    const seen = await samples.look([...training.examples, ...(validation?.examples ?? [])], hooks.signal);
    if (seen > 0) await say('info', `${seen} pictures seen; their features are kept.`);

    const { session } = await sessions.get(true);
    const state = new ParameterState(
      session.graph.trainable.map((name) => ({ name, shape: session.graph.weights.get(name) ?? [] })),
    );
    const adapter = lora === undefined ? undefined : initAdapter(base.config, lora, spec.seed);
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

interface Prepared {
  readonly examples: readonly ChatExample[];
  readonly total: number;
}

/** Turns chat examples into samples: layout by the model's template, features of their pictures. */
class SampleMaker {
  constructor(
    private readonly base: BaseModel,
    private readonly features: FeatureStore,
    private readonly readImage: FineTuneHooks['readImage'],
  ) {}

  /** Reads a file and checks every example's length before anything is trained. @throws DatasetError */
  async prepare(path: string, stage: FineTuneStage): Promise<Prepared> {
    const all = parseChatDataset(await readFile(path, 'utf8'));
    for (const example of all) this.layout(example);
    const examples = stage === 'projector' ? all.filter((e) => e.images.length > 0) : all;
    return { examples, total: all.length };
  }

  /**
   * Decodes and encodes pictures before the first step, so that a broken one fails the job at once; it stops early when they do
   * not all fit the store (they would only push each other out) or on `signal`.
   * @returns number of pictures of the examples looked at @throws DatasetError
   */
  async look(examples: readonly ChatExample[], signal: AbortSignal | undefined): Promise<number> {
    let count = 0;
    for (const example of examples) {
      if (signal?.aborted === true || this.features.isFull) break;
      count += (await this.make(example)).images.length;
    }
    return count;
  }

  private layout(example: ChatExample): ReturnType<typeof layoutConversation> {
    let layout: ReturnType<typeof layoutConversation>;
    try {
      layout = layoutConversation(example.messages, this.base.layout);
    } catch (error) {
      if (error instanceof LayoutError) throw new DatasetError(example.line, error.path, error.message);
      throw error;
    }
    const limit = this.base.config.text.maxPositions;
    if (layout.ids.length > limit)
      throw new DatasetError(
        example.line,
        'messages',
        `the example takes ${layout.ids.length} tokens, the model's context holds ${limit}; shorten or split it`,
      );
    return layout;
  }

  async make(example: ChatExample): Promise<TrainingSample> {
    const layout = this.layout(example);
    const images: Float32Array[] = [];
    for (const slot of layout.images) {
      const reference = example.images[slot.image] ?? '';
      const bytes = dataUrlBytes(reference);
      const key = bytes === undefined ? reference : createHash('sha256').update(bytes).digest('hex');
      images.push(
        await this.features.get(key, async () => {
          const file = bytes ?? (await this.readImage?.(reference));
          if (file === undefined)
            throw new DatasetError(
              example.line,
              'image_url',
              `expected a data URL or a known file id, got ${reference.slice(0, 80)}`,
            );
          try {
            return (await preprocessImage(file, this.base.recipe)).pixels_CHW;
          } catch (error) {
            if (error instanceof ImageError) throw new DatasetError(example.line, 'image_url', error.message);
            throw error;
          }
        }),
      );
    }
    return { layout, images };
  }
}

/** Training sessions of a stage; batches without any picture need a graph of their own, made when first met. */
class StageSessions {
  private readonly made = new Map<boolean, Promise<{ session: TrainSession; computer: GradientComputer }>>();

  constructor(
    private readonly base: BaseModel,
    private readonly stage: FineTuneStage,
    private readonly lora: LoraSpec | undefined,
    private readonly threads: number,
  ) {}

  get(withImages: boolean): Promise<{ session: TrainSession; computer: GradientComputer }> {
    let entry = this.made.get(withImages);
    if (entry === undefined) {
      entry = this.create(withImages);
      this.made.set(withImages, entry);
    }
    return entry;
  }

  private async create(withImages: boolean): Promise<{ session: TrainSession; computer: GradientComputer }> {
    const train: TrainMode = this.stage;
    const session = await createTrainSession({
      config: this.base.config,
      options: {
        train,
        images: withImages ? 'towerFeatures' : 'none',
        // Recomputing layers pays where activations, not weights, fill the memory.
        checkpointing: this.base.config.text.hidden >= 1024 ? 'layer' : 'none',
        ...(this.lora === undefined ? {} : { lora: this.lora, alsoTrain: this.trainsHead() ? [HEAD] : [] }),
      },
      threads: this.threads,
    });
    const trained = new Set(session.graph.trainable);
    const frozen: Record<string, Tensor> = {};
    for (const name of session.graph.weights.keys()) {
      const tensor = this.base.weights.get(name);
      if (!trained.has(name) && tensor !== undefined) frozen[name] = tensor;
    }
    return { session, computer: sessionComputer(session.session, frozen, session.feeds, session.graph.trainable) };
  }

  private trainsHead(): boolean {
    return this.base.config.text.vocab <= SMALL_VOCABULARY && this.base.weights.has(HEAD);
  }

  computer(): GradientComputer {
    return {
      accumulate: async (state, batches) => {
        const totals = { loss: 0, correct: 0, supervised: 0, tokens: 0 };
        for (const withImages of [true, false]) {
          const own = batches.filter((b) => b.images.length > 0 === withImages);
          if (own.length === 0) continue;
          const part = await (await this.get(withImages)).computer.accumulate(state, own);
          totals.loss += part.loss;
          totals.correct += part.correct;
          totals.supervised += part.supervised;
          totals.tokens += part.tokens;
        }
        return totals;
      },
    };
  }

  /** Loss and right tokens of micro-batches whose weights add up to one. */
  async evaluate(
    state: ParameterState,
    batches: readonly CollatedBatch[],
  ): Promise<{ loss: number; correct: number; supervised: number }> {
    const sum = { loss: 0, correct: 0, supervised: 0 };
    for (const batch of batches) {
      const { session } = await this.get(batch.images.length > 0);
      const feeds: Record<string, Tensor> = { ...session.feeds(batch) };
      for (const name of session.graph.weights.keys()) {
        const tensor = this.base.weights.get(name);
        if (tensor !== undefined) feeds[name] = tensor;
      }
      for (const name of session.graph.trainable) {
        const p = state.get(name);
        feeds[name] = f32(p.value, p.shape);
      }
      const results = await (session.session as Session).run(feeds, ['loss', 'logits']);
      sum.loss += Number(results.loss?.data[0]);
      sum.correct += countCorrect(results.logits, batch.targets);
      sum.supervised += batch.rows.length;
    }
    return sum;
  }

  async release(): Promise<void> {
    for (const entry of this.made.values()) await (await entry).session.session.release();
  }
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
  const adapter = [...trained].filter(([name]) => /\.lora_[AB]\.weight$/.test(name));
  if (lora !== undefined) await writeAdapter(dir, { lora, weights: new Map(adapter) });
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
