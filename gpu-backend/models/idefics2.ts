import * as g from '../graph/builder.ts';
import { type Dim, mulDims, symbol } from '../graph/dim.ts';
import type { Value } from '../graph/graph.ts';
import { f32, ints, type Tensor } from '../runtime/session.ts';
import type { Idefics2Config } from './config.ts';
import type { Family } from './family.ts';
import { finalRmsNorm, llamaLayer, MASKED } from './llama.ts';
import { patchGrid } from './patch-grid.ts';
import { modalityProjection, perceiverResampler } from './perceiver.ts';
import { encoderLayer, PREFIX, patchLinear } from './vit.ts';
import { LLAMA_LINEARS, type Weights } from './weights.ts';

interface Encoded {
  /** [N·P, vision hidden] */
  readonly features: Value;
  readonly images: Dim;
  readonly patches: Dim;
  /** [N, 1, 1, P] */
  readonly bias: Value;
}

/**
 * SigLIP encoder over pictures of their own shapes, padded to the largest of the batch.
 * Inputs: `pixel_values` [N, 3, Gh, p, Gw, p] (the memory of [N, 3, H, W]), `patch_positions` [N, Gh·Gw] i64, rows of the
 * position table; `patch_bias` [N, 1, 1, Gh·Gw], 0 for patches and -1e9 for padding.
 */
function encode(w: Weights, { vision }: Idefics2Config, checkpoint: boolean): Encoded {
  const { graph } = w;
  const { hidden, patchSize: p } = vision;
  const [images, down, across] = [symbol('N'), symbol('Gh'), symbol('Gw')];
  const patches = mulDims(down, across);
  const rows = mulDims(images, patches);
  const pixels = graph.input('pixel_values', 'f32', [images, 3, down, p, across, p]);
  const positions = graph.input('patch_positions', 'i64', [images, patches]);
  const bias = graph.input('patch_bias', 'f32', [images, 1, 1, patches]);
  let x = graph.scope('vision/embed', () => {
    const flat = g.reshape(graph, g.transpose(graph, pixels, [0, 2, 4, 1, 3, 5]), [rows, 3 * p * p]);
    const table = w.get(`${PREFIX}.embeddings.position_embedding.weight`, [patchGrid(vision) ** 2, hidden]);
    return g.add(graph, patchLinear(w, vision, flat), g.gather(graph, table, g.reshape(graph, positions, [rows])));
  });
  for (let i = 0; i < vision.layers; i++) {
    const input = x;
    const body = (): Value => encoderLayer(w, vision, `${PREFIX}.encoder.layers.${i}`, input, images, patches, bias);
    x = graph.scope(`vision/layer${i}`, () => (checkpoint ? graph.checkpoint([input], body) : body()));
  }
  const norm = `${PREFIX}.post_layernorm`;
  const features = g.layerNorm(
    graph,
    x,
    w.get(`${norm}.weight`, [hidden]),
    w.get(`${norm}.bias`, [hidden]),
    vision.layerNormEpsilon,
  );
  return { features, images, patches, bias };
}

/** Real patches of a picture in a batch. */
export interface PatchGrid {
  readonly rows: number;
  readonly columns: number;
}

/**
 * Lower edges of buckets 1 … n-1 of [0, 1): k/n in float32, with the rounding of `torch.arange(1/n, 1, 1/n)`, which the
 * reference compares with. Torch fills blocks of sixteen as two vectors of eight, each from its own rounded start; an edge that
 * is one bit off puts a patch whose coordinate is exactly k/n into the wrong bucket.
 */
export function bucketEdges(n: number): Float32Array {
  const step = 1 / n;
  const count = Math.ceil((1 - step) / step);
  const inVectors = count - (count % 16);
  return Float32Array.from({ length: count }, (_, i) =>
    i < inVectors ? Math.fround(step + step * (i - (i % 8))) + (i % 8) * step : step + i * step,
  );
}

/** Bucket of each of `count` patches along one side among `side` learned positions (right-closed, as torch.bucketize(right=True)). */
export function bucketPositions(count: number, side: number): number[] {
  const edges = bucketEdges(side);
  const step = Math.fround(1 / count);
  const largest = Math.fround(1 - 1e-6);
  return Array.from({ length: count }, (_, k) => {
    const at = Math.min(Math.fround(k * step), largest);
    let bucket = 0;
    while (bucket < edges.length && (edges[bucket] ?? 1) <= at) bucket++;
    return bucket;
  });
}

/** `patch_positions` and `patch_bias` of pictures with these grids in a batch of grid `batch`; padding has position 0. */
export function patchFeeds(
  config: Idefics2Config,
  grids: readonly PatchGrid[],
  batch: PatchGrid,
): Record<'patch_positions' | 'patch_bias', Tensor> {
  const side = patchGrid(config.vision);
  const patches = batch.rows * batch.columns;
  const positions = new Float64Array(grids.length * patches);
  const bias = new Float32Array(grids.length * patches).fill(MASKED);
  for (const [n, { rows, columns }] of grids.entries()) {
    const [down, across] = [bucketPositions(rows, side), bucketPositions(columns, side)];
    for (const [r, y] of down.entries())
      for (const [c, x] of across.entries()) {
        const at = n * patches + r * batch.columns + c;
        positions[at] = y * side + x;
        bias[at] = 0;
      }
  }
  return {
    patch_positions: ints(positions, [grids.length, patches]),
    patch_bias: f32(bias, [grids.length, 1, 1, patches]),
  };
}

/** Mantis-Idefics2: SigLIP with native aspect ratio, gated projection, perceiver resampler, Mistral. */
export const idefics2: Family<Idefics2Config> = {
  label: () => 'mantis-idefics2',
  names: [
    ['language_model.model.', 'model.text_model.'],
    ['language_model.lm_head.', 'lm_head.'],
    ['vision_tower.vision_model.', 'model.vision_model.'],
    ['multi_modal_projector.', 'model.connector.'],
  ],
  isUnused: () => false,
  unusedWeights: () => new Map(),
  // A fake token on both sides; neighbours share one.
  wrapperTokens: 2,
  decoderLinears: LLAMA_LINEARS,
  projectorLinears: LLAMA_LINEARS,

  slotIds: ({ imageToken, tokensPerImage }) => new Array<number>(tokensPerImage).fill(imageToken),
  /**
   * Only whole patches are looked at, as when a picture is alone in its batch. (transformers does so since 5.0; before, a patch
   * that lay partly in the padding of a larger neighbour counted, so features depended on the company.)
   */
  pictureFeeds(config, pictures) {
    const { patchSize: p } = config.vision;
    const grids = pictures.map(({ width, height, pixels_CHW }, n) => {
      const grid = { rows: Math.floor(height / p), columns: Math.floor(width / p) };
      if (grid.rows < 1 || grid.columns < 1 || pixels_CHW.length !== 3 * width * height)
        throw new Error(
          `picture ${n + 1} of ${pictures.length}: expected at least ${p}x${p} pixels, got ${width}x${height} with ${pixels_CHW.length} values`,
        );
      return grid;
    });
    const batch = {
      rows: Math.max(...grids.map(({ rows }) => rows)),
      columns: Math.max(...grids.map(({ columns }) => columns)),
    };
    const [H, W] = [batch.rows * p, batch.columns * p];
    const pixels_NCHW = new Float32Array(pictures.length * 3 * H * W);
    for (const [n, { pixels_CHW, width, height }] of pictures.entries()) {
      const { rows, columns } = grids[n] ?? batch;
      for (let c = 0; c < 3; c++)
        for (let y = 0; y < rows * p; y++) {
          const from = (c * height + y) * width;
          pixels_NCHW.set(pixels_CHW.subarray(from, from + columns * p), ((n * 3 + c) * H + y) * W);
        }
    }
    return {
      pixel_values: f32(pixels_NCHW, [pictures.length, 3, batch.rows, p, batch.columns, p]),
      ...patchFeeds(config, grids, batch),
    };
  },

  imageFeatures(w, config, from, checkpoint) {
    const { graph } = w;
    const encoded = (): Encoded => {
      if (from === 'pixels') return encode(w, config, checkpoint);
      const [images, patches] = [symbol('N'), symbol('P')];
      const features = graph.input('vision_features', 'f32', [images, patches, config.vision.hidden]);
      return {
        features: g.reshape(graph, features, [mulDims(images, patches), config.vision.hidden]),
        images,
        patches,
        bias: graph.input('patch_bias', 'f32', [images, 1, 1, patches]),
      };
    };
    const { features, images, patches, bias } = encoded();
    return perceiverResampler(w, config, modalityProjection(w, config, features), images, patches, bias);
  },
  hasTower: true,
  towerFeatures(w, config) {
    const { features, images, patches } = encode(w, config, false);
    return g.reshape(w.graph, features, [images, patches, config.vision.hidden]);
  },
  /** Pictures with fewer patches are filled up with zeros that the resampler does not look at. */
  towerFeeds({ vision: { hidden } }, features) {
    const counts = features.map(({ length }) => length / hidden);
    const patches = Math.max(...counts);
    const padded = new Float32Array(features.length * patches * hidden);
    const bias = new Float32Array(features.length * patches).fill(MASKED);
    for (const [n, rows] of features.entries()) {
      const count = counts[n] ?? 0;
      if (!Number.isInteger(count) || count < 1)
        throw new Error(
          `picture ${n + 1} of ${features.length}: expected rows of ${hidden} feature values, got ${rows.length}`,
        );
      padded.set(rows, n * patches * hidden);
      bias.fill(0, n * patches, n * patches + count);
    }
    return {
      vision_features: f32(padded, [features.length, patches, hidden]),
      patch_bias: f32(bias, [features.length, 1, 1, patches]),
    };
  },
  decoderLayer: llamaLayer,
  finalNorm: (w, { text }, h) => finalRmsNorm(w, text, h),
};
