import { mkdir, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { sha256Hex } from '../../io/digest.ts';
import { readSafetensors } from '../../io/safetensors.ts';
import { writeSafetensors } from '../../io/safetensors-write.ts';
import { toFloat32 } from '../../io/tensor.ts';
import { loadCheckpoint } from '../../models/load.ts';
import { initWeights } from '../../models/presets.ts';
import { type Bench, readJson, trainOne, writeJson } from './bench.ts';
import { START_MIX, START_STEP } from './study.ts';
import type { TrainTotals } from './training.ts';

export interface CommonStart {
  readonly digest: string;
  readonly weights: ReadonlyMap<string, Float32Array>;
  readonly totals: TrainTotals;
}

/** The weights all arms begin with: the model's tower and a decoder that was taught single pictures; trained once a folder. */
export async function commonStart(bench: Bench): Promise<CommonStart | undefined> {
  const { options, recipe, config } = bench;
  const { startSteps } = options.budget;
  const { weights: model } = loadCheckpoint(options.modelDir);
  const tower = [...model].filter(([name]) => name.startsWith('vision_tower.'));
  const weights = new Map<string, Float32Array>();
  for (const [name, { data }] of initWeights(config, recipe.seed)) weights.set(name, data as Float32Array);
  for (const [name, { data }] of tower) if (weights.has(name)) weights.set(name, data as Float32Array);
  const towerBytes = tower.map(([name, { data }]) => [name, sha256Hex(bytesOf(data as Float32Array))]);
  const digest = sha256Hex(
    JSON.stringify({ towerBytes, recipe, startSteps, mix: START_MIX, step: START_STEP, config }),
  );
  const out = join(options.out, 'starts', digest.slice(0, 16));
  await mkdir(out, { recursive: true });
  const path = join(out, 'weights.safetensors');
  const kept = await readJson<TrainTotals>(join(out, 'totals.json'));
  if (kept !== undefined) {
    const stored = await readSafetensors(path);
    return { digest, totals: kept, weights: new Map([...stored].map(([name, tensor]) => [name, toFloat32(tensor)])) };
  }
  const form = { pictures: 'sequence', denotation: 'numbered' } as const;
  const parts = [{ steps: startSteps, mix: START_MIX, form, moves: 'all' as const }];
  const trained = await trainOne(bench, {
    out,
    start: weights,
    parts,
    stepSize: START_STEP,
    seed: recipe.seed,
    what: 'common start',
  });
  if (trained === undefined) return undefined;
  const { state, totals } = trained;
  await writeSafetensors(
    path,
    state.parameters.map(({ name, shape, value }) => [name, { dtype: 'f32', shape, data: value }]),
  );
  await writeJson(join(out, 'totals.json'), totals);
  await rm(join(out, 'checkpoints'), { recursive: true, force: true });
  return {
    digest,
    totals,
    weights: new Map(state.parameters.map(({ name, value }) => [name, Float32Array.from(value)])),
  };
}

const bytesOf = (data: Float32Array): Uint8Array => new Uint8Array(data.buffer, data.byteOffset, data.byteLength);

/** Projector weights as before any training, of a seed of their own. */
export function withNewProjector(
  weights: CommonStart['weights'],
  { config, recipe }: Bench,
): Map<string, Float32Array> {
  const fresh = initWeights(config, recipe.seed + 1);
  return new Map(
    [...weights].map(([name, data]) => [
      name,
      name.startsWith('multi_modal_projector.') ? (fresh.get(name)?.data as Float32Array) : data,
    ]),
  );
}
