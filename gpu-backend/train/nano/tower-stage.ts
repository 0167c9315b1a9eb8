import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { readSafetensors } from '../../io/safetensors.ts';
import { writeSafetensors } from '../../io/safetensors-write.ts';
import { toFloat32 } from '../../io/tensor.ts';
import type { VlmConfig } from '../../models/config.ts';
import { expectedWeights } from '../../models/load.ts';
import type { RealData } from './real.ts';
import type { NanoRecipe } from './recipe.ts';
import { pretrainTower } from './tower.ts';

/** The part of a run's options that stage 0 looks at; meanings as in NanoTrainOptions. */
export interface TowerStageOptions {
  readonly out: string;
  readonly threads?: number;
  readonly signal?: AbortSignal;
  readonly onMessage?: (message: string) => void;
}

/**
 * Stage 0: the vision tower of the run, from `tower.safetensors` in its folder or trained now and written there.
 * @returns undefined when it was aborted; the stage then starts again with the next command
 */
export async function trainedTower(
  options: TowerStageOptions,
  recipe: NanoRecipe,
  config: VlmConfig,
  seed: number,
  real: RealData | undefined,
): Promise<ReadonlyMap<string, Float32Array> | undefined> {
  if (recipe.towerSteps === 0) return new Map();
  if (config.family !== 'llava') throw new Error('stage 0 trains the tower of a LLaVA-type model');
  const path = join(options.out, 'tower.safetensors');
  if (existsSync(path)) {
    const stored = await readSafetensors(path);
    return new Map([...stored].map(([name, tensor]) => [name, toFloat32(tensor)]));
  }
  const say = options.onMessage ?? (() => {});
  const weights = await pretrainTower({
    config,
    seed,
    steps: recipe.towerSteps,
    threads: options.threads ?? 2,
    ...(real === undefined ? {} : { real }),
    ...(options.signal === undefined ? {} : { signal: options.signal }),
    onStep: (step, loss, scores) => {
      if (scores === undefined) return;
      const share = (value: number): string => `${(100 * value).toFixed(1)} %`;
      say(
        `tower ${step}/${recipe.towerSteps}: loss ${loss.toFixed(3)}, objects found ${share(scores.found)}, ` +
          `placed ${share(scores.placed)}, boxes without a mistake ${share(scores.exactBoxes)}, counted ${share(scores.countedBoxes)}`,
      );
    },
  });
  if (options.signal?.aborted === true) return undefined;
  const shapes = expectedWeights(config);
  await writeSafetensors(
    path,
    [...weights].map(([name, data]) => [name, { dtype: 'f32', shape: shapes.get(name) ?? [data.length], data }]),
  );
  return weights;
}
