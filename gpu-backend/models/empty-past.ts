import { f32, ints, type Tensor } from '../runtime/session.ts';
import type { VlmConfig } from './config.ts';
import { hasPastWindow } from './decode.ts';
import { MASKED } from './llama.ts';

/** Feeds of a decoder graph over a cache that holds nothing: one masked position, since a graph over none is not portable. */
export function emptyPast(config: VlmConfig, rows: number): Record<string, Tensor> {
  const { layers, kvHeads, headDim } = config.text;
  const nothing = f32(new Float32Array(rows * kvHeads * headDim), [rows, kvHeads, 1, headDim]);
  const feeds: Record<string, Tensor> = { past_bias: f32(new Float32Array(rows).fill(MASKED), [rows, 1, 1, 1]) };
  for (let layer = 0; layer < layers; layer++) {
    feeds[`past_k_${layer}`] = nothing;
    feeds[`past_v_${layer}`] = nothing;
  }
  if (hasPastWindow(config)) feeds.past_positions = ints(new Int32Array(rows), [rows, 1]);
  return feeds;
}
