import type { Picture } from '../models/family.ts';
import type { Layout } from '../text/layout.ts';

/** What goes in for a picture: features of a frozen encoder, or pixels. Bare pixels [3, side, side] are the model's own square. */
export type SampleImage = Float32Array | Picture;

/** The same, or where to get it when its micro-batch is computed: not all pictures of a step need be in memory at once. */
export type ImageSource = SampleImage | (() => Promise<SampleImage>);

/** One conversation ready for the model: its layout, and what goes into each of its image slots. */
export interface TrainingSample<Image extends ImageSource = Float32Array> {
  readonly layout: Layout;
  /** In slot order. */
  readonly images: readonly Image[];
}

/** A right-padded micro-batch of B conversations of S tokens, as plain arrays; rows count from 0 to B·S. */
export interface CollatedBatch {
  readonly batch: number;
  readonly length: number;
  /** [B·S], padding filled with `padId`. */
  readonly ids: Int32Array;
  /** [B·S], 0…S-1 in every conversation. */
  readonly positions: Int32Array;
  /** [N] rows that image features are written to, image by image. */
  readonly imageRows: Int32Array;
  /** [R] rows whose next token is supervised. */
  readonly rows: Int32Array;
  /** [R] that next token. */
  readonly targets: Int32Array;
  /** [R] share of the whole step's loss, so that losses and gradients of micro-batches simply add up. */
  readonly weights: Float32Array;
  readonly images: readonly ImageSource[];
  /** Tokens that are not padding. */
  readonly tokens: number;
  /** Present in a packed row: B is 1 and S the tokens of all its examples. */
  readonly packed?: PackedLayout;
}

/** Where the examples of a packed row attend; see `Packed` of the models. */
export interface PackedLayout {
  readonly groups: readonly {
    /** Examples, and the places each of them has. */
    readonly count: number;
    readonly length: number;
    /** [count · length] row of the packed row at each place; row 0 where an example is filled up. */
    readonly rows: Int32Array;
  }[];
  /** [S] place of each row among those of all groups. */
  readonly places: Int32Array;
}

/** The batch with its pictures in memory. */
export async function withImages(batch: CollatedBatch): Promise<CollatedBatch> {
  if (batch.images.every((image) => typeof image !== 'function')) return batch;
  const images: SampleImage[] = [];
  for (const image of batch.images) images.push(typeof image === 'function' ? await image() : image);
  return { ...batch, images };
}

/** Sum of the target weights; a step's losses are divided by the sum over its samples. */
export function supervisedWeight(samples: readonly TrainingSample<ImageSource>[]): number {
  let sum = 0;
  for (const { layout } of samples) for (let t = 1; t < layout.weights.length; t++) sum += layout.weights[t] as number;
  return sum;
}

/**
 * @param multiple the length is rounded up to a multiple of this (number of causal blocks)
 * @param totalWeight supervisedWeight of all samples of the optimizer step
 * @throws Error when no token is supervised
 */
export function collate(
  samples: readonly TrainingSample<ImageSource>[],
  options: { readonly padId: number; readonly multiple: number; readonly totalWeight: number },
): CollatedBatch {
  const longest = Math.max(...samples.map((s) => s.layout.ids.length));
  const length = Math.ceil(longest / options.multiple) * options.multiple;
  const batch = samples.length;
  const ids = new Int32Array(batch * length).fill(options.padId);
  const positions = new Int32Array(batch * length);
  for (let i = 0; i < positions.length; i++) positions[i] = i % length;
  const [imageRows, rows, targets, weights]: [number[], number[], number[], number[]] = [[], [], [], []];
  const images: ImageSource[] = [];
  let tokens = 0;
  samples.forEach(({ layout, images: own }, b) => {
    const start = b * length;
    ids.set(layout.ids, start);
    tokens += layout.ids.length;
    if (own.length !== layout.images.length)
      throw new Error(`conversation ${b} has ${layout.images.length} image slots and ${own.length} images`);
    for (const slot of layout.images) {
      for (let k = 0; k < slot.tokenCount; k++) imageRows.push(start + slot.tokenStart + k);
    }
    images.push(...own);
    for (let t = 1; t < layout.ids.length; t++) {
      const weight = layout.weights[t] as number;
      if (weight === 0) continue;
      rows.push(start + t - 1);
      targets.push(layout.ids[t] as number);
      weights.push(weight / options.totalWeight);
    }
  });
  if (rows.length === 0) throw new Error('a micro-batch without supervised tokens has no gradient; leave it out');
  return {
    batch,
    length,
    ids,
    positions,
    imageRows: Int32Array.from(imageRows),
    rows: Int32Array.from(rows),
    targets: Int32Array.from(targets),
    weights: Float32Array.from(weights),
    images,
    tokens,
  };
}

/**
 * Cuts one optimizer step's samples into micro-batches: neighbours in length together (little padding), each of at most
 * `tokenBudget` tokens with padding; a longer sample gets a micro-batch of its own. On CPU small micro-batches are
 * faster than large ones because activations stay in cache.
 */
export function planMicroBatches<T>(
  samples: readonly T[],
  lengthOf: (sample: T) => number,
  tokenBudget: number,
): T[][] {
  const sorted = samples
    .map((sample, order) => ({ sample, order, length: lengthOf(sample) }))
    .sort((a, b) => b.length - a.length || a.order - b.order);
  const groups: T[][] = [];
  let longest = 0;
  for (const { sample, length } of sorted) {
    const group = groups.at(-1);
    if (group !== undefined && (group.length + 1) * longest <= tokenBudget) group.push(sample);
    else {
      groups.push([sample]);
      longest = length;
    }
  }
  return groups;
}

/**
 * planMicroBatches with a number of groups that is a multiple of `threads`, so that data-parallel threads finish together:
 * the budget shrinks until the count fits (three groups on two threads would leave one idle for a third of the time).
 */
export function planForThreads<T>(
  samples: readonly T[],
  lengthOf: (sample: T) => number,
  tokenBudget: number,
  threads: number,
): T[][] {
  let groups = planMicroBatches(samples, lengthOf, tokenBudget);
  const wanted = Math.ceil(groups.length / threads) * threads;
  const total = samples.reduce((sum, s) => sum + lengthOf(s), 0);
  for (let budget = Math.ceil(total / wanted); groups.length !== wanted && budget < tokenBudget; budget *= 1.03) {
    const candidate = planMicroBatches(samples, lengthOf, budget);
    if (candidate.length <= wanted) {
      if (candidate.length === wanted) groups = candidate;
      break;
    }
  }
  return groups;
}
