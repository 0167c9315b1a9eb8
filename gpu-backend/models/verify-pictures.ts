import { type RawTensor, toFloat32, toInt32 } from '../io/tensor.ts';
import { f32, type Tensor } from '../runtime/session.ts';
import type { FuyuConfig, Idefics2Config, VlmConfig } from './config.ts';
import { patchFeeds as fuyuFeeds } from './fuyu.ts';
import { patchFeeds as idefics2Feeds, type PatchGrid } from './idefics2.ts';

/** What a reference folder says about its pictures, as our graphs take it. */
export interface ReferencePictures {
  /** The config with what only the case file knows. */
  readonly config: VlmConfig;
  /** Picture inputs of the graphs. */
  readonly feeds: Record<string, Tensor>;
  /** Flat positions in the batch that hold feature rows, in picture order. */
  readonly slotRows: readonly number[];
  /** Feature rows that the expected `image_features` cover, in order. */
  readonly expectedRows: readonly number[];
}

export interface PictureCase {
  readonly grid?: readonly (readonly [number, number])[];
  readonly newline_token?: number;
}

/** @param read gives a tensor of inputs.safetensors. @throws when it is not there */
export function referencePictures(
  config: VlmConfig,
  file: PictureCase,
  ids: Int32Array,
  read: (name: string) => RawTensor,
): ReferencePictures {
  const imageRows = [...ids.keys()].filter((i) => ids[i] === config.imageToken);
  const all = [...imageRows.keys()];
  switch (config.family) {
    case 'llava': {
      const pixels = read('pixel_values');
      const feeds = { pixel_values: f32(toFloat32(pixels), pixels.shape) };
      return { config, feeds, slotRows: imageRows, expectedRows: all };
    }
    case 'idefics2': {
      const feeds = maskedPictures(config, read('pixel_values'), read('pixel_attention_mask'));
      return { config, feeds, slotRows: imageRows, expectedRows: all };
    }
    case 'fuyu': {
      const withNewline: FuyuConfig = { ...config, newlineToken: file.newline_token ?? config.newlineToken };
      const patches = toFloat32(read('image_patches'));
      const grids = (file.grid ?? []).map(([rows, columns]) => ({ rows, columns }));
      const feeds = fuyuFeeds(withNewline, patches, grids);
      const patchRows = Array.from(feeds.patch_rows.data, Number);
      return {
        config: withNewline,
        feeds,
        slotRows: slotsWithNewlines(imageRows, grids),
        expectedRows: patchRows,
      };
    }
  }
}

/** Positions of patches → positions of patches and the newline after each row of them. */
function slotsWithNewlines(patchPositions: readonly number[], grids: readonly PatchGrid[]): number[] {
  const slots: number[] = [];
  let next = 0;
  for (const { rows, columns } of grids)
    for (let row = 0; row < rows; row++) {
      slots.push(...patchPositions.slice(next, next + columns));
      next += columns;
      slots.push((patchPositions[next - 1] ?? 0) + 1);
    }
  if (next !== patchPositions.length)
    throw new Error(`the case's grids hold ${next} patches, its ids ${patchPositions.length} patch tokens`);
  return slots;
}

/** pixel_values [B, N, 3, H, W] zero-padded and pixel_attention_mask [B, N, H, W]; pictures that are zero throughout are no pictures. */
function maskedPictures(config: Idefics2Config, pixels: RawTensor, mask: RawTensor): Record<string, Tensor> {
  const [batch = 0, slots = 0, , H = 0, W = 0] = pixels.shape;
  const p = config.vision.patchSize;
  const grid = { rows: Math.floor(H / p), columns: Math.floor(W / p) };
  const [values, seen] = [toFloat32(pixels), toInt32(mask)];
  const grids: PatchGrid[] = [];
  const kept: Float32Array[] = [];
  for (let i = 0; i < batch * slots; i++) {
    const picture = values.subarray(i * 3 * H * W, (i + 1) * 3 * H * W);
    if (picture.every((v) => v === 0)) continue;
    // Only whole patches count, so the picture's height and width in the mask decide.
    const isSeen = (y: number, x: number): boolean => seen[(i * H + y) * W + x] === 1;
    let [height, width] = [0, 0];
    while (height < H && isSeen(height, 0)) height++;
    while (width < W && isSeen(0, width)) width++;
    grids.push({ rows: Math.floor(height / p), columns: Math.floor(width / p) });
    kept.push(cropped(picture, H, W, grid.rows * p, grid.columns * p));
  }
  const size = 3 * grid.rows * p * grid.columns * p;
  const pixels_NCHW = new Float32Array(kept.length * size);
  kept.forEach((picture, n) => {
    pixels_NCHW.set(picture, n * size);
  });
  return {
    pixel_values: f32(pixels_NCHW, [kept.length, 3, grid.rows, p, grid.columns, p]),
    ...idefics2Feeds(config, grids, grid),
  };
}

function cropped(pixels_CHW: Float32Array, H: number, W: number, height: number, width: number): Float32Array {
  if (height === H && width === W) return pixels_CHW;
  const out = new Float32Array(3 * height * width);
  for (let c = 0; c < 3; c++)
    for (let y = 0; y < height; y++) {
      const from = (c * H + y) * W;
      out.set(pixels_CHW.subarray(from, from + width), (c * height + y) * width);
    }
  return out;
}
