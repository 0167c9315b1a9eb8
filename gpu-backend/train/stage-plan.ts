import { LIMITS } from '../../shared/contract/limits.ts';
import type { BasePrecision, ModelPart, Stage } from '../../shared/contract/training.ts';
import type { VlmConfig } from '../models/config.ts';
import { familyOf } from '../models/family.ts';
import { contextTokens } from '../models/llama.ts';
import { isTrainable } from '../models/train-graph.ts';
import type { LoraSpec } from '../models/weights.ts';
import type { RowBudget } from './packing.ts';
import type { LearningRateSchedule } from './schedule.ts';

/** An option that this model cannot do, or that contradicts another; refused before any work. The message names it. */
export class StageError extends Error {
  override readonly name = 'StageError';
}

/** A stage with everything decided that it left open, for one model. */
export interface StagePlan {
  readonly stage: Stage;
  /** Index among the job's stages. */
  readonly index: number;
  readonly lora: LoraSpec | undefined;
  /** Weights that move besides those of `stage.train`, and those of it that do not, by canonical name. */
  readonly alsoTrain: readonly string[];
  readonly freeze: readonly string[];
  /** The vision tower moves: its features cannot be kept. */
  readonly trainsVision: boolean;
  /** Nothing but what lies between pictures and decoder moves: examples without pictures teach nothing. */
  readonly needsImages: boolean;
  readonly basePrecision: BasePrecision;
  /** Factor on the learning rate of a weight. */
  readonly rateFactor: (name: string) => number;
  readonly schedule: LearningRateSchedule;
  readonly weightDecay: number;
  readonly maxGradNorm: number;
  /** Longest example, decoder positions. */
  readonly maxTokens: number;
  readonly microBatchTokens: number;
  /** Undefined: micro-batches are padded. `tokens` is further bounded by the micro-batch's. */
  readonly packing: RowBudget | undefined;
  readonly checkpointing: 'none' | 'layer';
  readonly earlyStopping: { readonly patience: number; readonly minDelta: number } | undefined;
}

const DEFAULT_LORA = { r: 16, alpha: 32 };
/** Recomputing layers pays where activations, not weights, fill the memory. */
const CHECKPOINTED_WIDTH = 1024;

/**
 * Up to this many entries, the `lora` stage trains the output head too. A small vocabulary, fully trained, holds tokens that
 * never occurred: the head has learnt to rule them out, and adapters cannot bring them back (after 48 steps on answers of
 * new words the loss was still 4.5 nats a token). It is a few hundred kB beside the adapter.
 */
const SMALL_VOCABULARY = 8192;

/**
 * Default peak learning rate. At 4096 features the Mantis recipes (1e-3 projector, 2e-4 adapters, 1e-5 full); narrower
 * decoders take larger steps. The exponents are fitted between that width and nano's 160 (2.3e-3 adapters, 5e-4 full).
 */
export function defaultLearningRate(train: Stage['train'], hidden: number): number {
  const narrowness = Math.max(1, 4096 / hidden);
  if (train === 'projector') return 1e-3;
  return train === 'lora' ? 2e-4 * narrowness ** 0.75 : 1e-5 * narrowness ** 1.2;
}

/** Which part of a model a weight belongs to, by its canonical name. A head that is the embedding matrix is `embeddings`. */
export function modelPartOf(name: string): ModelPart {
  if (/\.(lora_[AB]\.weight|lora_magnitude_vector)$/.test(name)) return 'adapters';
  if (name.startsWith('vision_tower.')) return 'vision';
  if (name.startsWith('multi_modal_projector.')) return 'projector';
  if (name === 'language_model.model.embed_tokens.weight') return 'embeddings';
  return name.startsWith('language_model.lm_head.') ? 'head' : 'decoder';
}

/** Parts that move where nothing is said. */
function defaultParts(train: Stage['train'], config: VlmConfig): Set<ModelPart> {
  if (train === 'projector') return new Set(['projector']);
  if (train === 'full') return new Set(['projector', 'embeddings', 'decoder', 'head']);
  const isSmall = config.text.vocab <= SMALL_VOCABULARY && !config.text.tiedHead;
  return new Set<ModelPart>(isSmall ? ['adapters', 'head'] : ['adapters']);
}

/** @throws StageError */
function movingParts({ train, part_rates: rates = {} }: Stage, config: VlmConfig, where: string): Set<ModelPart> {
  const parts = defaultParts(train, config);
  const entries = Object.entries(rates) as [ModelPart, number][];
  for (const [part, rate] of entries) {
    const option = `${where}.part_rates.${part}`;
    if (part === 'head' && config.text.tiedHead)
      throw new StageError(
        `${option}: the output head of this model is its embedding matrix; set part_rates.embeddings instead`,
      );
    if (rate === 0) {
      parts.delete(part);
      continue;
    }
    if (part === 'vision' && !familyOf(config).hasTower)
      throw new StageError(
        `${option}: expected 0, received ${rate}: ${familyOf(config).label(config)} has no vision tower that could be trained`,
      );
    if (part === 'adapters' && train !== 'lora')
      throw new StageError(`${option}: only the stage "lora" has adapters, this one trains "${train}"`);
    if (part === 'decoder' && train !== 'full')
      throw new StageError(
        `${option}: the layers of the decoder move in the stage "full", this one trains "${train}"; freeze other parts with 0 there`,
      );
    parts.add(part);
  }
  if (train === 'lora' && !parts.has('adapters'))
    throw new StageError(
      `${where}.part_rates.adapters: 0 leaves the stage "lora" nothing to learn; leave the stage out`,
    );
  if (parts.size === 0)
    throw new StageError(
      `${where}.part_rates: every part of the stage "${train}" is frozen, so there is nothing to train`,
    );
  return parts;
}

/**
 * Decides what a stage left open and refuses what this model cannot do.
 * @param names canonical names of the model's weights
 * @param hasValidation there are examples to measure on
 * @throws StageError that names the option, what was expected, and what came
 */
export function planStage(
  config: VlmConfig,
  names: Iterable<string>,
  stage: Stage,
  index: number,
  hasValidation: boolean,
): StagePlan {
  const where = `stages[${index}]`;
  const { train, part_rates: rates = {} } = stage;
  const parts = movingParts(stage, config, where);
  const basePrecision = stage.base_precision ?? 'f32';
  if (basePrecision !== 'f32' && train === 'full')
    throw new StageError(
      `${where}.base_precision: the stage "full" moves the weights themselves, which takes f32, received ${basePrecision}; the stages "projector" and "lora" keep them frozen`,
    );
  if (stage.early_stopping !== undefined && !hasValidation)
    throw new StageError(`${where}.early_stopping: it goes by the validation loss, so it needs a validation file`);
  const context = contextTokens(config.text);
  if (stage.max_tokens !== undefined && stage.max_tokens > context)
    throw new StageError(
      `${where}.max_tokens: the model's context holds ${context} positions, received ${stage.max_tokens}`,
    );
  const all = [...names];
  const moves = (name: string): boolean => parts.has(modelPartOf(name));
  const peak = (stage.learning_rate ?? defaultLearningRate(train, config.text.hidden)) * stage.learning_rate_multiplier;
  const { kind = 'cosine', warmup_ratio = 0.05, floor_ratio = 0.02 } = stage.schedule ?? {};
  const packing = stage.packing === true ? {} : (stage.packing ?? false);
  return {
    stage,
    index,
    lora:
      train === 'lora'
        ? {
            r: stage.lora?.r ?? DEFAULT_LORA.r,
            alpha: stage.lora?.alpha ?? DEFAULT_LORA.alpha,
            targets: familyOf(config).decoderLinears,
            ...(stage.lora?.dora === true ? { dora: true } : {}),
          }
        : undefined,
    alsoTrain: all.filter((name) => moves(name) && !isTrainable(name, train)),
    freeze: all.filter((name) => !moves(name) && isTrainable(name, train)),
    trainsVision: parts.has('vision'),
    needsImages: [...parts].every((part) => part === 'vision' || part === 'projector'),
    basePrecision,
    rateFactor: (name) => rates[modelPartOf(name)] ?? 1,
    schedule: { kind, peak, warmupShare: warmup_ratio, floorShare: floor_ratio },
    weightDecay: stage.weight_decay ?? (train === 'full' ? 0.01 : 0),
    maxGradNorm: stage.max_grad_norm ?? 1,
    maxTokens: stage.max_tokens ?? context,
    microBatchTokens: stage.micro_batch_tokens ?? LIMITS.training.microBatchTokens,
    packing:
      packing === false
        ? undefined
        : {
            tokens: packing.max_tokens ?? Number.POSITIVE_INFINITY,
            images: packing.max_images ?? LIMITS.training.maxRowImages,
          },
    checkpointing: (stage.gradient_checkpointing ?? config.text.hidden >= CHECKPOINTED_WIDTH) ? 'layer' : 'none',
    earlyStopping:
      stage.early_stopping === undefined
        ? undefined
        : { patience: stage.early_stopping.patience, minDelta: stage.early_stopping.min_delta ?? 0 },
  };
}

/**
 * Query blocks of causal attention that pay at a length: the scores above the diagonal of blocks are never computed. Measured on one
 * core: two are level with one at 512 positions, eight 9 % ahead of four at 1300, 27 % ahead of one at 2048.
 */
export function causalBlocksAt(length: number): number {
  if (length < 512) return 1;
  return length < 1024 ? 2 : 8;
}

/** Causal blocks of each group of a packed row whose longest example has this length: groups attend at falling lengths. */
export function groupBlocksAt(length: number): number[] {
  const blocks = causalBlocksAt(length);
  return [blocks, Math.max(1, blocks / 2)];
}
