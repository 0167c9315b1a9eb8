import assert from 'node:assert/strict';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import test from 'node:test';
import { checkpointName, newestCheckpoint, numberOf } from '../../../gpu-backend/train/checkpoint.ts';
import { digestCheckpoint } from '../../../gpu-backend/train/checkpoint-digest.ts';
import { runFineTune } from '../../../gpu-backend/train/finetune.ts';
import type { FineTuneSpec } from '../../../gpu-backend/train/finetune-spec.ts';
import { Turns } from '../../../gpu-backend/train/turns.ts';
import { tinySpec, writeTinyJob } from './tiny.ts';

async function folder(t: { after: (fn: () => unknown) => void }): Promise<string> {
  const dir = await mkdtemp(join(tmpdir(), 'mantis-together-'));
  t.after(() => rm(dir, { recursive: true, force: true }));
  return dir;
}

test('jobs of one process take turns, and end with the bits that each has alone', async (t) => {
  const dir = await folder(t);
  const job = await writeTinyJob(dir);
  const lora = { train: 'lora', n_epochs: 2, batch_size: 4 } as const;
  const specs: FineTuneSpec[] = [
    { ...tinySpec(job, dir, [lora]), seed: 1 },
    { ...tinySpec(job, dir, [lora]), seed: 2 },
    { ...tinySpec(job, dir, [{ ...lora, base_precision: 'int8' }]), seed: 1 },
    { ...tinySpec(job, dir, [{ ...lora, train: 'projector' }, lora]), seed: 3 },
  ];
  const turns = new Turns();
  const order: number[] = [];
  const train = async (spec: FineTuneSpec, name: string, pace?: () => Promise<void>): Promise<string> => {
    const outDir = join(dir, `${name}-out`);
    const result = await runFineTune(
      { ...spec, outDir, workDir: join(dir, `${name}-work`) },
      pace === undefined ? {} : { pace },
    );
    assert.equal(result.outcome, 'succeeded', JSON.stringify(result));
    const finalStep = result.outcome === 'succeeded' ? result.finalStep : 0;
    const { weights, optimizer } = await digestCheckpoint(join(outDir, checkpointName(finalStep)));
    return `${weights} ${optimizer}`;
  };
  const together = await Promise.all(
    specs.map(async (spec, i) => {
      const turn = turns.join();
      try {
        return await train(spec, `together-${i}`, async () => {
          await turn.take();
          order.push(i);
        });
      } finally {
        turn.end();
      }
    }),
  );
  const alone: string[] = [];
  for (const [i, spec] of specs.entries()) alone.push(await train(spec, `alone-${i}`));
  assert.deepEqual(together, alone);
  assert.equal(new Set(alone).size, specs.length);
  const changes = order.filter((job, i) => i > 0 && job !== order[i - 1]).length;
  assert.ok(changes >= order.length / 3, `turns went ${order.join('')}`);
});

test('a job that has trained as long as it may is saved and fails by that name, over resumes too', async (t) => {
  const dir = await folder(t);
  const job = await writeTinyJob(dir);
  const spec = { ...tinySpec(job, dir, [{ train: 'lora', n_epochs: 3, batch_size: 4 }]), maxDurationS: 0.001 };
  for (const step of [1, 2]) {
    const found = await newestCheckpoint(spec.outDir);
    const result = await runFineTune({ ...spec, ...(found === undefined ? {} : { resumeDir: found.path }) });
    assert.deepEqual([result.outcome, result.outcome === 'failed' && result.code], ['failed', 'time_limit']);
    const saved = (await newestCheckpoint(spec.outDir))?.progress;
    assert.equal(saved === undefined ? 0 : numberOf(saved), step);
  }
});
