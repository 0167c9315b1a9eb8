import * as g from '../graph/builder.ts';
import { symbol } from '../graph/dim.ts';
import { f32, ints } from '../runtime/session.ts';
import type { FuyuConfig } from './config.ts';
import type { Family, PictureSize } from './family.ts';
import { embedTokens } from './llama.ts';
import { finalLayerNorm, PERSIMMON_LINEARS, persimmonLayer } from './persimmon.ts';

function gridOf({ vision }: FuyuConfig, { width, height }: PictureSize): { rows: number; columns: number } {
  const p = vision.patchSize;
  if (width % p !== 0 || height % p !== 0 || width < p || height < p)
    throw new Error(`expected a picture whose sides are multiples of ${p} pixels, got ${width}x${height}`);
  return { rows: height / p, columns: width / p };
}

/** [3, height, width] → patches in reading order, each flattened as (row, column, channel): [rows·columns, p·p·3]. */
export function flattenPatches(pixels_CHW: Float32Array, width: number, height: number, p: number): Float32Array {
  const out = new Float32Array(pixels_CHW.length);
  let to = 0;
  for (let top = 0; top < height; top += p)
    for (let left = 0; left < width; left += p)
      for (let y = top; y < top + p; y++)
        for (let x = left; x < left + p; x++)
          for (let c = 0; c < 3; c++) out[to++] = pixels_CHW[(c * height + y) * width + x] ?? 0;
  return out;
}

/** Feeds of pictures that are already patches: `patches` [P, 3·p·p] and their grids. */
export function patchFeeds(
  config: FuyuConfig,
  patches: Float32Array,
  grids: readonly { readonly rows: number; readonly columns: number }[],
): Record<'pixel_values' | 'slot_ids' | 'patch_rows', ReturnType<typeof f32>> {
  const ids = grids.flatMap((grid) => slotIds(config, grid));
  const rows = [...ids.keys()].filter((i) => ids[i] === config.imageToken);
  return {
    pixel_values: f32(patches, [rows.length, config.vision.hidden]),
    slot_ids: ints(ids, [ids.length]),
    patch_rows: ints(rows, [rows.length]),
  };
}

function slotIds({ imageToken, newlineToken }: FuyuConfig, grid: { rows: number; columns: number }): number[] {
  const row = [...new Array<number>(grid.columns).fill(imageToken), newlineToken];
  return Array.from({ length: grid.rows }, () => row).flat();
}

/**
 * Mantis-Fuyu: patches pass one linear layer and are tokens of a Persimmon decoder; a newline token ends each row of patches.
 *
 * The newline is an ordinary token with an embedding of its own. Features of a picture hold its row too, so that a picture is
 * one run of rows here as in the other families.
 * Inputs: `pixel_values` [P, 3·p·p], patches of all pictures; `slot_ids` [F] i64, ids of all slots (patch token or newline);
 * `patch_rows` [P] i64, where patches stand among the F rows.
 */
export const fuyu: Family<FuyuConfig> = {
  label: () => 'mantis-fuyu',
  names: [['multi_modal_projector.', '']],
  moduleNames: [
    ['language_model.model.', 'model.language_model.'],
    ['language_model.lm_head.', 'lm_head.'],
    ['multi_modal_projector.', 'model.'],
  ],
  isUnused: () => false,
  unusedWeights: () => new Map(),
  // About: "image 0: " and the two tokens around a picture.
  wrapperTokens: 4,
  decoderLinears: PERSIMMON_LINEARS,
  projectorLinears: [],

  slotIds: (config, size) => slotIds(config, gridOf(config, size)),
  pictureFeeds(config, pictures) {
    const p = config.vision.patchSize;
    const grids = pictures.map((picture) => gridOf(config, picture));
    const patches = new Float32Array(pictures.reduce((sum, { width, height }) => sum + 3 * width * height, 0));
    let at = 0;
    for (const [n, { pixels_CHW, width, height }] of pictures.entries()) {
      if (pixels_CHW.length !== 3 * width * height)
        throw new Error(`picture ${n + 1}: expected 3x${height}x${width} values, got ${pixels_CHW.length}`);
      patches.set(flattenPatches(pixels_CHW, width, height, p), at);
      at += pixels_CHW.length;
    }
    return patchFeeds(config, patches, grids);
  },

  imageFeatures(w, config, from) {
    if (from === 'towerFeatures') throw new Error('this family has no vision tower to freeze: use images: "pixels"');
    const { graph } = w;
    return graph.scope('patches', () => {
      const [patches, rows] = [symbol('P'), symbol('F')];
      const pixels = graph.input('pixel_values', 'f32', [patches, config.vision.hidden]);
      const ids = graph.input('slot_ids', 'i64', [rows]);
      const at = graph.input('patch_rows', 'i64', [patches]);
      const projected = w.linear(pixels, 'multi_modal_projector.vision_embed_tokens', config.text.hidden, {
        bias: true,
      });
      const slots = embedTokens(w, config.text, g.reshape(graph, ids, [1, rows]));
      return g.setRows(graph, slots, at, projected);
    });
  },
  hasTower: false,
  towerFeatures() {
    throw new Error('this family has no vision tower: its patches go straight into the decoder');
  },
  towerFeeds() {
    throw new Error('this family has no vision tower: feed its pictures by pictureFeeds');
  },
  decoderLayer: persimmonLayer,
  finalNorm: (w, { text }, h) => finalLayerNorm(w, text, h),
};
