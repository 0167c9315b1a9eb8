import assert from 'node:assert/strict';
import { mkdtemp, readFile, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import test from 'node:test';
import { overlay } from '../../../gpu-backend/engine/load-model.ts';
import { OnnxRunner } from '../../../gpu-backend/engine/onnx-runner.ts';
import { loadAdapter } from '../../../gpu-backend/models/adapter.ts';
import { familyOf } from '../../../gpu-backend/models/family.ts';
import { loadCheckpoint } from '../../../gpu-backend/models/load.ts';
import { collate, type SampleImage, supervisedWeight } from '../../../gpu-backend/train/batch.ts';
import { checkpointName } from '../../../gpu-backend/train/checkpoint.ts';
import { runFineTune } from '../../../gpu-backend/train/finetune.ts';
import type { FineTuneMetrics, FineTuneSpec } from '../../../gpu-backend/train/finetune-spec.ts';
import { createTrainSession } from '../../../gpu-backend/train/train-session.ts';
import { dataOf, tinySamples, tinySpec, writeTinyJob } from './tiny.ts';

async function folder(t: { after: (fn: () => unknown) => void }): Promise<string> {
  const dir = await mkdtemp(join(tmpdir(), 'mantis-families-'));
  t.after(() => rm(dir, { recursive: true, force: true }));
  return dir;
}

for (const family of ['idefics2', 'fuyu'] as const) {
  test(`${family}: a batch of pictures of unequal size has the loss and gradients of its samples`, async (t) => {
    const { base, samples: all } = await tinySamples(await folder(t), 8, family);
    const { config } = base;
    const samples = all.filter(({ images }) => images.length > 0).slice(0, 3);
    assert.ok(new Set(samples.flatMap(({ images }) => images.map(sizeOf))).size > 1, 'pictures differ in size');
    const images = familyOf(config).hasTower ? 'towerFeatures' : 'pixels';
    const { graph, session, feeds } = await createTrainSession({
      config,
      options: { train: 'full', images },
      threads: 1,
    });
    const weights = Object.fromEntries([...graph.weights.keys()].map((name) => [name, base.weights.get(name)!]));
    const totalWeight = supervisedWeight(samples);
    const run = (some: typeof samples) =>
      session.run({ ...weights, ...feeds(collate(some, { padId: 0, multiple: 1, totalWeight })) });
    const together = await run(samples);
    const sums = new Map<string, Float64Array>();
    for (const sample of samples)
      for (const [name, { data }] of Object.entries(await run([sample]))) {
        const sum = sums.get(name) ?? new Float64Array(data.length);
        if (name !== 'logits') sums.set(name, sum);
        for (let i = 0; i < sum.length; i++) sum[i] = sum[i]! + Number(data[i]);
      }
    for (const [name, sum] of sums) {
      const got = together[name]!.data;
      const scale = Math.max(1e-6, ...[...sum].map(Math.abs));
      for (const [i, value] of sum.entries())
        assert.ok(Math.abs(Number(got[i]) - value) < 2e-4 * scale, `${name}[${i}]: ${got[i]} and ${value} of ${scale}`);
    }
    await session.release();
  });

  for (const stage of ['projector', 'lora', 'full'] as const)
    test(`${family}, ${stage}: a job learns, and what it writes is served`, async (t) => {
      const dir = await folder(t);
      const job = await writeTinyJob(dir, 10, family);
      const spec: FineTuneSpec = {
        ...tinySpec(job, dir, [
          { train: stage, n_epochs: 4, batch_size: 5, learning_rate_multiplier: 3, packing: true },
        ]),
        checkpointEvery: 100,
        validation: dataOf(job.trainingFile),
      };
      const seen: FineTuneMetrics[] = [];
      const result = await runFineTune(spec, { onMetrics: (m) => void seen.push(m) });
      assert.equal(result.outcome, 'succeeded', JSON.stringify(result));
      const [first, last] = [seen[0]!.train_loss, seen.at(-1)!.full_valid_loss ?? Number.NaN];
      assert.ok(last < first, `loss went from ${first} to ${last}`);
      const tuned = join(spec.outDir, checkpointName(seen.at(-1)!.step));
      const checkpoint = loadCheckpoint(job.baseDir);
      const weights = overlay(checkpoint, tuned);
      const changed = [...weights].filter(([name, tensor]) => checkpoint.weights.get(name) !== tensor);
      assert.ok(changed.length > 0);
      // The runner checks names and shapes of everything it reads.
      await (await OnnxRunner.create(checkpoint.config, weights, { threads: 1 })).dispose();
      if (stage === 'lora') {
        const { decoderLinears } = familyOf(checkpoint.config);
        assert.deepEqual([...loadAdapter(tuned, checkpoint.config).lora.targets], [...decoderLinears]);
        const config = JSON.parse(await readFile(join(tuned, 'adapter_config.json'), 'utf8')) as object;
        assert.match(JSON.stringify(config), family === 'fuyu' ? /language_model/ : /text_model/);
      }
    });
}

function sizeOf(image: SampleImage): number {
  return image instanceof Float32Array ? image.length : image.pixels_CHW.length;
}
