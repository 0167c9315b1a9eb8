import assert from 'node:assert/strict';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import test from 'node:test';
import { sha256File } from '../../../gpu-backend/io/digest.ts';
import { checkpointName } from '../../../gpu-backend/train/checkpoint.ts';
import { runFineTune } from '../../../gpu-backend/train/finetune.ts';
import type { FineTuneMetrics, FineTuneSpec } from '../../../gpu-backend/train/finetune-spec.ts';
import type { Stage } from '../../../shared/contract/training.ts';
import { dataOf, tinySpec, writeTinyJob } from './tiny.ts';

async function folder(t: { after: (fn: () => unknown) => void }): Promise<string> {
  const dir = await mkdtemp(join(tmpdir(), 'mantis-frozen-'));
  t.after(() => rm(dir, { recursive: true, force: true }));
  return dir;
}

async function run(spec: FineTuneSpec, stopAfter?: number) {
  const stop = new AbortController();
  const metrics: FineTuneMetrics[] = [];
  const said: string[] = [];
  const result = await runFineTune(spec, {
    signal: stop.signal,
    onEvent: (_level, message) => void said.push(message),
    onMetrics: (m) => {
      metrics.push(m);
      if (m.step === stopAfter) stop.abort();
    },
  });
  return { result, losses: metrics.map((m) => m.train_loss), last: metrics.at(-1), said };
}

type StageOptions = Partial<Stage> & Pick<Stage, 'train'>;

const CASES: readonly (readonly [name: string, stages: readonly StageOptions[], files: readonly string[]])[] = [
  ['lora over int4', [{ train: 'lora', base_precision: 'int4' }], ['adapter_model.safetensors', 'state.safetensors']],
  [
    'packed dora over int8',
    [{ train: 'lora', lora: { r: 4, alpha: 8, dora: true }, base_precision: 'int8', packing: true }],
    ['adapter_model.safetensors', 'state.safetensors'],
  ],
  [
    'projector and then lora over f16',
    [
      { train: 'projector', base_precision: 'f16', n_epochs: 1 },
      { train: 'lora', base_precision: 'int8', n_epochs: 1 },
    ],
    ['adapter_model.safetensors', 'model.safetensors', 'state.safetensors'],
  ],
];

for (const [name, stages, files] of CASES)
  test(`${name}: learns about as with f32, and a resume equals uninterrupted, bit for bit`, async (t) => {
    const dir = await folder(t);
    const job = await writeTinyJob(dir);
    const spec = { ...tinySpec(job, join(dir, 'whole'), stages), validation: dataOf(job.trainingFile) };
    const whole = await run(spec);
    assert.equal(whole.result.outcome, 'succeeded', JSON.stringify(whole.result));
    assert.match(whole.said.join('\n'), /over a base in (f16|int8|int4)/);
    const cut = { ...spec, workDir: join(dir, 'cut/work'), outDir: join(dir, 'cut/out') };
    const first = await run(cut, 4);
    assert.equal(first.result.outcome, 'stopped');
    const rest = await run({ ...cut, resumeDir: join(cut.outDir, checkpointName(4)) });
    assert.deepEqual([...first.losses, ...rest.losses], whole.losses);
    const last = checkpointName(whole.last?.step ?? 0);
    for (const file of files)
      assert.equal(
        await sha256File(join(cut.outDir, last, file)),
        await sha256File(join(spec.outDir, last, file)),
        file,
      );
    // The base is another one, and nearly the same.
    const plain = await run({
      ...spec,
      stages: spec.stages.map(({ base_precision: _, ...stage }) => stage),
      workDir: join(dir, 'f32/work'),
      outDir: join(dir, 'f32/out'),
    });
    assert.notEqual(plain.losses[0], whole.losses[0]);
    for (const [i, loss] of plain.losses.entries())
      assert.ok(Math.abs((whole.losses[i] ?? 0) - loss) < 0.1 * loss, `step ${i + 1}: ${whole.losses[i]} and ${loss}`);
  });

test('a stage that moves the weights themselves takes no quantised base', async (t) => {
  const dir = await folder(t);
  const job = await writeTinyJob(dir, 4);
  const { result } = await run(tinySpec(job, join(dir, 'out'), [{ train: 'full', base_precision: 'int8' }]));
  assert.equal(result.outcome, 'failed');
  assert.ok('code' in result && result.code === 'unsupported_parameter');
  assert.match('message' in result ? result.message : '', /stages\[0\]\.base_precision.*"full".*int8/);
});
