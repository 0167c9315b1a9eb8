import type { VlmConfig } from '../models/config.ts';
import { familyOf } from '../models/family.ts';
import { type TrainGraph, type TrainOptions as TrainGraphOptions, trainGraph } from '../models/train-graph.ts';
import { causalBias } from '../models/vlm.ts';
import { f32, ints, Session, type Tensor } from '../runtime/session.ts';
import type { CollatedBatch, SampleImage } from './batch.ts';

/** A plain description of a training graph; it can be sent to another thread, which builds the graph itself. */
export interface TrainSessionSpec {
  readonly config: VlmConfig;
  readonly options: TrainGraphOptions;
  readonly threads: number;
}

/** A training session, with the logits of the supervised rows as an extra output `logits`. */
export interface TrainSession {
  readonly graph: TrainGraph;
  readonly session: Session;
  feeds(batch: CollatedBatch): Record<string, Tensor>;
}

export async function createTrainSession({ config, options, threads }: TrainSessionSpec): Promise<TrainSession> {
  const built = trainGraph(config, { ...options, logits: true });
  const session = await Session.create(built.graph, { threads });
  return { graph: built, session, feeds: (batch) => batchFeeds(batch, config, options) };
}

/** Data inputs of a training graph for one micro-batch. */
export function batchFeeds(
  batch: CollatedBatch,
  config: VlmConfig,
  options: Pick<TrainGraphOptions, 'images' | 'causalBlocks' | 'checkpointing'>,
): Record<string, Tensor> {
  const blocks = options.causalBlocks ?? 1;
  const blockLength = batch.length / blocks;
  if (!Number.isInteger(blockLength))
    throw new Error(`length ${batch.length} is not a multiple of the ${blocks} causal blocks`);
  const shape = [batch.batch, batch.length];
  const rows = [batch.rows.length];
  const feeds: Record<string, Tensor> = {
    ids: ints(batch.ids, shape),
    positions: ints(batch.positions, shape),
    causal_bias: f32(cachedBias(blockLength, blocks, config.text.slidingWindow), [blockLength, batch.length]),
    rows: ints(batch.rows, rows),
    targets: ints(batch.targets, rows),
    weights: f32(batch.weights, rows),
  };
  if ((options.checkpointing ?? 'none') !== 'none') feeds.zero = f32(Float32Array.of(0), []);
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
          batch.images.map((image) =>
            image instanceof Float32Array ? { pixels_CHW: image, width: side, height: side } : image,
          ),
        )
      : family.towerFeeds(config, batch.images.map(asFeatures));
  return { ...feeds, ...pictures };
}

function asFeatures(image: SampleImage): Float32Array {
  if (image instanceof Float32Array) return image;
  throw new Error(
    `a training graph over features of a frozen encoder was given pixels, ${image.width}x${image.height}`,
  );
}

const biases = new Map<string, Float32Array>();

/** The bias depends on length and window; a run meets few lengths, and the oldest is dropped when there are many. */
function cachedBias(blockLength: number, blocks: number, slidingWindow: number | undefined): Float32Array {
  const key = `${blockLength}x${blocks} ${slidingWindow}`;
  let bias = biases.get(key);
  if (bias === undefined) {
    const [oldest] = biases.keys();
    if (biases.size >= 64 && oldest !== undefined) biases.delete(oldest);
    bias = causalBias(blockLength, blocks, slidingWindow);
    biases.set(key, bias);
  }
  return bias;
}
