import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { LlavaConfig } from '../../../gpu-backend/models/config.ts';

/** Everything that the benchmark makes once and uses again: checkpoint, exports, peers. Safe to delete. */
export const CACHE = process.env.MANTIS_BENCH_CACHE ?? join(tmpdir(), 'mantis-bench');

/**
 * SmolLM2-135M's decoder (https://huggingface.co/HuggingFaceTB/SmolLM2-135M, config.json) behind a 12-layer ViT of 384 features.
 * No token ends an answer, so that every contender makes as many tokens as it is asked for.
 */
export const BENCH_CONFIG: LlavaConfig = {
  family: 'llava',
  vision: {
    kind: 'siglip',
    hidden: 384,
    intermediate: 1536,
    layers: 12,
    heads: 6,
    imageSize: 224,
    patchSize: 16,
    layerNormEpsilon: 1e-6,
    activation: 'tanh',
  },
  text: {
    hidden: 576,
    intermediate: 1536,
    layers: 30,
    heads: 9,
    kvHeads: 3,
    headDim: 64,
    vocab: 49152,
    ropeTheta: 100_000,
    rmsNormEpsilon: 1e-5,
    maxPositions: 8192,
    tiedHead: true,
    bosToken: null,
    eosTokens: [],
    padToken: 0,
  },
  projectorActivation: 'erf',
  projectorBias: true,
  visionLayers: 12,
  dropFirstFeature: false,
  imageToken: 1,
  tokensPerImage: 196,
};

/** Token ids of a prompt: the same for the same seed, different from the first token on for another. None is an image's. */
export function promptIds(seed: number, length: number): number[] {
  let state = Math.imul(seed + 1, 0x9e3779b1) | 0;
  return Array.from({ length }, () => {
    // xorshift32 (Marsaglia); its state is never 0 for the seeds in use.
    state ^= state << 13;
    state ^= state >>> 17;
    state ^= state << 5;
    return 2 + ((state >>> 0) % (BENCH_CONFIG.text.vocab - 2));
  });
}
