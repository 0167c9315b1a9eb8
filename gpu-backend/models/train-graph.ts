import * as g from '../graph/builder.ts';
import { type Dim, symbol } from '../graph/dim.ts';
import { gradients } from '../graph/grad.ts';
import { Graph } from '../graph/graph.ts';
import type { VlmConfig } from './config.ts';
import { familyOf } from './family.ts';
import { storageOfBase } from './frozen-weights.ts';
import type { Precision } from './storage.ts';
import {
  declaredWeights,
  decoderStack,
  head,
  type ModelGraph,
  mergedEmbeddings,
  packedInputs,
  sequenceInputs,
} from './vlm.ts';
import { type LoraSpec, Weights } from './weights.ts';

/**
 * What is trained: the projector; the adapters (`lora`), or both; projector and language model with the vision tower
 * frozen (`full`); everything that is computed (`all`).
 */
export type TrainMode = 'projector' | 'lora' | 'lora+projector' | 'full' | 'all';

export interface TrainOptions {
  readonly train: TrainMode;
  /** Needed by the two lora modes, refused by the others. */
  readonly lora?: LoraSpec;
  /** How weights that do not move are stored and fed (models/frozen-weights.ts); refused where the decoder moves. Default f32. */
  readonly basePrecision?: Precision;
  /** Weights trained besides those of the mode, by canonical name. */
  readonly alsoTrain?: readonly string[];
  /** Weights of the mode that are not trained after all: nothing is computed for their gradients. */
  readonly freeze?: readonly string[];
  /**
   * The batch is one row of examples without padding (see packedInputs): query blocks of each group of examples that attend
   * together. In the place of `causalBlocks` and `keyBias`.
   */
  readonly packedGroups?: readonly number[];
  /** Loss (and logits) alone, for validation: no backward pass. Default false. */
  readonly lossOnly?: boolean;
  /** Query blocks of causal attention; S must be a multiple. Default 1. Two pay from S = 512 on, eight at 2048. */
  readonly causalBlocks?: number;
  /** Adds the input `key_bias` [B, 1, 1, S]: needed for left padding only. Default false. */
  readonly keyBias?: boolean;
  /**
   * What is recomputed in the backward pass: nothing, whole layers (-80 % activation memory, +23 % time), or only
   * attention probabilities (+5 % time). Not `none` adds the scalar input `zero`, which must be fed 0.
   */
  readonly checkpointing?: 'none' | 'layer' | 'attention';
  /**
   * `pixels`: the family's picture inputs (`pictureFeeds`). `towerFeatures`: `vision_features`, what visionTowerGraph gives,
   * for a frozen tower. `none`: text only.
   */
  readonly images: 'pixels' | 'towerFeatures' | 'none';
  /** Adds the output `logits` [R, V] of the supervised rows (for token accuracy; copied to the caller each run). */
  readonly logits?: boolean;
}

export interface TrainGraph extends ModelGraph {
  /** Canonical names of the trained weights, in graph order; each has an output `grad.<name>` of its shape. */
  readonly trainable: readonly string[];
}

/** Tensors of an adapter: A, B and, with DoRA, the learned lengths of rows. */
const ADAPTER_TENSOR = /\.(lora_[AB]\.weight|lora_magnitude_vector)$/;

/** Whether a weight (by canonical name) is trained in a mode. */
export function isTrainable(name: string, mode: TrainMode): boolean {
  const adapter = ADAPTER_TENSOR.test(name);
  const projects = name.startsWith('multi_modal_projector.');
  switch (mode) {
    case 'projector':
      return projects;
    case 'lora':
      return adapter;
    case 'lora+projector':
      return adapter || projects;
    case 'full':
      return !adapter && (projects || name.startsWith('language_model.'));
    case 'all':
      return !adapter;
  }
}

/**
 * Forward pass, loss and gradients of one micro-batch.
 *
 * Inputs: `ids`, `positions` [B, S], S = causalBlocks · C, and `causal_bias` [C, S] (see causalBias), or those of
 * packedInputs; `rows` [R], the flat positions (in B·S) whose next token is supervised, `targets` [R] (those tokens),
 * `weights` [R] (1 / supervised tokens of the whole batch, so that micro-batches add up; 0 for padding rows); the picture
 * inputs of `images` with `image_rows` [F]; by options `key_bias`, `zero`; all weights.
 * Outputs: `loss` [] = Σ weights · cross-entropy; `grad.<name>` per trained weight.
 * The head, and the last layer after its attention, see the supervised rows only.
 */
export function trainGraph(config: VlmConfig, options: TrainOptions): TrainGraph {
  const wantsLora = options.train === 'lora' || options.train === 'lora+projector';
  if (wantsLora !== (options.lora !== undefined))
    throw new Error(`mode "${options.train}" ${wantsLora ? 'needs' : 'does not take'} the option lora`);
  const { packedGroups } = options;
  if (packedGroups !== undefined && (options.causalBlocks !== undefined || options.keyBias === true))
    throw new Error('a packed row has its causal blocks in packedGroups and no padding to mask');
  const checkpointing = options.lossOnly === true ? 'none' : (options.checkpointing ?? 'none');
  const graph = new Graph();
  const isTrained = (name: string): boolean =>
    (isTrainable(name, options.train) || options.alsoTrain?.includes(name) === true) &&
    options.freeze?.includes(name) !== true;
  const base = options.basePrecision ?? 'f32';
  const storage = storageOfBase(base);
  if (storage !== undefined && (options.train === 'full' || options.train === 'all'))
    throw new Error(
      `base_precision "${base}" is for weights that do not move, and mode "${options.train}" moves the decoder: train an adapter or the projector over it, or leave base_precision out`,
    );
  const frozen = storage === undefined ? undefined : { storage, isTrained };
  const w = new Weights(graph, options.lora, undefined, undefined, false, frozen);
  const recomputes = checkpointing === 'attention';
  const { seq, ids_BS, positions_BS, attend } =
    packedGroups === undefined
      ? sequenceInputs(graph, config, options.causalBlocks ?? 1, options.keyBias ?? false, recomputes)
      : packedInputs(graph, config, packedGroups, recomputes);
  const trainsVision =
    options.train === 'all' || options.alsoTrain?.some((name) => name.startsWith('vision_tower.')) === true;
  if (trainsVision && options.images === 'towerFeatures')
    throw new Error('what trains the vision tower needs images: "pixels"');
  const features =
    options.images === 'none'
      ? undefined
      : familyOf(config).imageFeatures(w, config, options.images, checkpointing === 'layer' && trainsVision);
  const x = mergedEmbeddings(w, config, ids_BS, features);
  const rows = graph.input('rows', 'i64', [symbol('R')]);
  const checkpoint = checkpointing === 'layer';
  const logits = head(w, config, decoderStack(w, config, seq, x, positions_BS, attend, { checkpoint, keep: { rows } }));
  const count = logits.shape[0] as Dim;
  const loss = g.crossEntropy(
    graph,
    logits,
    graph.input('targets', 'i64', [count]),
    graph.input('weights', 'f32', [count]),
  );
  const zero = checkpointing === 'none' ? undefined : graph.input('zero', 'f32', []);
  const trained = [...w.params].filter(([name]) => isTrained(name));
  if (trained.length === 0) throw new Error(`mode "${options.train}" trains nothing of this graph`);
  graph.output('loss', loss);
  if (options.logits === true) graph.output('logits', logits);
  const trainable = trained.map(([name]) => name);
  if (options.lossOnly === true) return { graph, weights: declaredWeights(w), trainable };
  const grads = gradients(
    graph,
    loss,
    trained.map(([, value]) => value),
    zero,
  );
  trained.forEach(([name], i) => {
    const grad = grads[i];
    if (grad !== undefined) graph.output(`grad.${name}`, grad);
  });
  return { graph, weights: declaredWeights(w), trainable };
}
