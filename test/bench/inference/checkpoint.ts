import { existsSync, mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { writeCheckpoint } from '../../../gpu-backend/models/load.ts';
import { initWeights } from '../../../gpu-backend/models/presets.ts';
import { BENCH_CONFIG, CACHE } from './model.ts';

/** Part of cache names: a change of weights or formats makes new files. */
const EDITION = 1;

/**
 * Writes the checkpoint with random weights unless it is there, and gives its folder. What writes into the residual stream is
 * scaled by 1/√(2·layers), so that activations stay of one size and rounding errors do not grow from layer to layer as they
 * do in an untrained network without it.
 */
export async function benchCheckpoint(): Promise<string> {
  const dir = join(CACHE, `checkpoint-${EDITION}`);
  if (existsSync(join(dir, 'complete'))) return dir;
  console.error('making the random checkpoint (once, about half a minute)');
  mkdirSync(dir, { recursive: true });
  await writeCheckpoint(dir, { config: BENCH_CONFIG, weights: initWeights(BENCH_CONFIG, 1, { embeddingStd: 0.05 }) });
  writeFileSync(join(dir, 'complete'), '');
  return dir;
}
