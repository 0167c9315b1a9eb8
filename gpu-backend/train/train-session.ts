import type { VlmConfig } from '../models/config.ts';
import { familyOf } from '../models/family.ts';
import { type TrainGraph, type TrainOptions as TrainGraphOptions, trainGraph } from '../models/train-graph.ts';
import { causalBias } from '../models/vlm.ts';
import type { Placement } from '../runtime/device.ts';
import { f32, ints, Session, type Tensor } from '../runtime/session.ts';
import type { CollatedBatch, ImageSource, SampleImage } from './batch.ts';
import { joinGradients } from './joined-gradients.ts';

/** A plain description of a training graph; it can be sent to another thread, which builds the graph itself. */
export interface TrainSessionSpec {
  readonly config: VlmConfig;
  readonly options: TrainGraphOptions;
  readonly threads: number;
  /** Default: the processor. */
  readonly placement?: Placement;
  /** All gradients as one output, for devices from which each output costs a round trip. */
  readonly joinGradients?: boolean;
}

/** A training session, with the logits of the supervised rows as an extra output `logits`. */
export interface TrainSession {
  readonly graph: TrainGraph;
  readonly session: Session;
  /** Order of the gradients, where they are joined into one output. */
  readonly joined: readonly string[] | undefined;
  feeds(batch: CollatedBatch): Record<string, Tensor>;
}

export async function createTrainSession(spec: TrainSessionSpec): Promise<TrainSession> {
  const { config, options, threads, placement } = spec;
  const built = trainGraph(config, { ...options, logits: true });
  const joined = spec.joinGradients === true ? joinGradients(built.graph) : undefined;
  const session = await Session.create(built.graph, { threads, ...(placement === undefined ? {} : { placement }) });
  return { graph: built, session, joined, feeds: (batch) => batchFeeds(batch, config, options) };
}

/** Data inputs of a training graph for one micro-batch. */
export function batchFeeds(
  batch: CollatedBatch,
  config: VlmConfig,
  options: Pick<TrainGraphOptions, 'images' | 'causalBlocks' | 'packedGroups' | 'checkpointing' | 'lossOnly'>,
): Record<string, Tensor> {
  const rows = [batch.rows.length];
  const feeds: Record<string, Tensor> = {
    ids: ints(batch.ids, [batch.batch, batch.length]),
    ...sequenceFeeds(batch, config, options),
    rows: ints(batch.rows, rows),
    targets: ints(batch.targets, rows),
    weights: f32(batch.weights, rows),
  };
  if ((options.checkpointing ?? 'none') !== 'none' && options.lossOnly !== true)
    feeds.zero = f32(Float32Array.of(0), []);
  if (options.images === 'none') {
    if (batch.images.length > 0) throw new Error('a text-only training graph was given images');
    return feeds;
  }
  feeds.image_rows = ints(batch.imageRows, [batch.imageRows.length]);
  const family = familyOf(config);
  const side = config.vision.imageSize;
  const pictures =
    options.images === 'pixels'
      ? family.pictureFeeds(
          config,
          batch.images
            .map(inMemory)
            .map((image) => (image instanceof Float32Array ? { pixels_CHW: image, width: side, height: side } : image)),
        )
      : family.towerFeeds(config, batch.images.map(asFeatures));
  return { ...feeds, ...pictures };
}

/** What says where in its sequence each row stands, and what it may attend. */
function sequenceFeeds(
  batch: CollatedBatch,
  { text }: VlmConfig,
  options: Pick<TrainGraphOptions, 'causalBlocks' | 'packedGroups'>,
): Record<string, Tensor> {
  const { packedGroups } = options;
  if (packedGroups !== undefined) {
    const { packed } = batch;
    if (packed === undefined || packed.groups.length !== packedGroups.length)
      throw new Error(
        `the graph takes packed rows of ${packedGroups.length} groups, the batch has ${packed?.groups.length ?? 'no'} groups`,
      );
    const feeds: Record<string, Tensor> = { places: ints(packed.places, [batch.length]) };
    for (const [i, { count, length, rows }] of packed.groups.entries()) {
      const blocks = packedGroups[i] as number;
      feeds[`group_rows.${i}`] = ints(rows, [count * length]);
      feeds[`group_positions.${i}`] = ints(
        Int32Array.from({ length: count * length }, (_, k) => k % length),
        [count, length],
      );
      feeds[`group_bias.${i}`] = biasOf(length, blocks, text.slidingWindow);
    }
    return feeds;
  }
  if (batch.packed !== undefined) throw new Error('a graph of padded rows was given a packed one');
  return {
    positions: ints(batch.positions, [batch.batch, batch.length]),
    causal_bias: biasOf(batch.length, options.causalBlocks ?? 1, text.slidingWindow),
  };
}

function inMemory(image: ImageSource): SampleImage {
  if (typeof image !== 'function') return image;
  throw new Error('a micro-batch was given to the graph before its pictures were read: see withImages');
}

function asFeatures(source: ImageSource): Float32Array {
  const image = inMemory(source);
  if (image instanceof Float32Array) return image;
  throw new Error(
    `a training graph over features of a frozen encoder was given pixels, ${image.width}x${image.height}`,
  );
}

const biases = new Map<string, Float32Array>();
const MAX_BIAS_BYTES = 64 * 1024 ** 2;

/** [C, blocks · C]. It depends on length and window; a run meets few lengths, and the oldest are dropped when they are large together. */
function biasOf(length: number, blocks: number, slidingWindow: number | undefined): Tensor {
  const blockLength = length / blocks;
  if (!Number.isInteger(blockLength))
    throw new Error(`length ${length} is not a multiple of the ${blocks} causal blocks`);
  const key = `${blockLength}x${blocks} ${slidingWindow}`;
  let bias = biases.get(key);
  if (bias === undefined) {
    bias = causalBias(blockLength, blocks, slidingWindow);
    biases.set(key, bias);
    let bytes = [...biases.values()].reduce((sum, { byteLength }) => sum + byteLength, 0);
    for (const [oldest, { byteLength }] of biases) {
      if (bytes <= MAX_BIAS_BYTES || oldest === key) break;
      biases.delete(oldest);
      bytes -= byteLength;
    }
  }
  return f32(bias, [blockLength, length]);
}
