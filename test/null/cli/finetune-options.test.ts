import assert from 'node:assert/strict';
import test from 'node:test';
import { Command } from 'commander';
import { addJobFlags, type JobFlags, jobRequest } from '../../../gpu-backend/cli/finetune.ts';
import { addTrainingFlags, mantisOptions, type TrainingFlags } from '../../../gpu-backend/cli/finetune-options.ts';
import type { MantisClient } from '../../../shared/client/client.ts';

const options = (...flags: string[]) =>
  mantisOptions(addTrainingFlags(new Command()).parse(flags, { from: 'user' }).opts<TrainingFlags>());

test('flags become what the API is told, and nothing else is', async () => {
  assert.deepEqual(await options(), { stage: 'lora' });
  assert.deepEqual(await options('--preset', 'mantis', '--max-tokens', '512'), { preset: 'mantis', max_tokens: 512 });
  assert.deepEqual(await options('--stages', 'projector,lora', '--rank', '8', '--packing'), {
    stages: [{ train: 'projector' }, { train: 'lora' }],
    lora: { r: 8, alpha: 16 },
    packing: true,
  });
  assert.deepEqual(
    await options(
      ...['--stage', 'full', '--part-rate', 'vision=0', '--part-rate', 'projector=10', '--schedule', 'linear'],
      ...['--warmup-ratio', '0.1', '--early-stopping', '3', '--no-packing', '--base-precision', 'int8'],
    ),
    {
      stage: 'full',
      base_precision: 'int8',
      part_rates: { vision: 0, projector: 10 },
      schedule: { kind: 'linear', warmup_ratio: 0.1 },
      packing: false,
      early_stopping: { patience: 3 },
    },
  );
});

test('what contradicts itself or the contract is refused before anything is uploaded', async () => {
  await assert.rejects(options('--stage', 'full', '--dora'), /--rank and --dora are for --stage lora, not full/);
  await assert.rejects(options('--part-rate', 'nose=1'), /--part-rate: expected PART=FACTOR with one of vision/);
  await assert.rejects(options('--rank', '1000'), /lora\.r.*at most 256/);
  await assert.rejects(options('--stages', 'projector,tail'), /stages\[1\]\.train/);
  await assert.rejects(options('--stages', '/none.json'), /--stages: cannot read \/none\.json/);
});

test('a held-out file and how its questions are asked; what would say nothing without it is refused', async () => {
  const uploads: string[] = [];
  const api = {
    files: { create: async (_file: Blob, name: string) => ({ id: `file-${uploads.push(name)}` }) },
  } as unknown as MantisClient;
  const request = (...flags: string[]) =>
    jobRequest(api, 'file-training', addJobFlags(new Command()).parse(flags, { from: 'user' }).opts<JobFlags>());
  const asked = await request(
    ...['--eval-file', 'file-held', '--eval-every', 'epoch', '--eval-option', 'true', '--eval-option', 'false'],
    ...['--eval-orders', '6', '--eval-text-only', '--eval-early-stop', '2', '--keep-best'],
  );
  assert.deepEqual(asked.method?.supervised?.mantis?.evaluation, {
    held_out_file: 'file-held',
    every: 'epoch',
    options: ['true', 'false'],
    image_orders: 6,
    text_only: true,
    early_stop: { patience: 2 },
    keep_best: true,
  });
  assert.equal((await request()).method?.supervised?.mantis?.evaluation, undefined);
  await assert.rejects(request('--keep-best'), /--keep-best: expected --eval-file beside it/);
  await assert.rejects(request('--eval-option', 'x'), /--eval-option: expected --eval-file beside it/);
  await assert.rejects(request('--eval-file', 'file-held', '--eval-orders', '99'), /image_orders/);
  assert.deepEqual(uploads, []);
});
