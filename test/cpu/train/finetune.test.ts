import assert from 'node:assert/strict';
import { mkdtemp, readdir, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import test from 'node:test';
import { sha256File } from '../../../gpu-backend/io/digest.ts';
import { loadAdapter } from '../../../gpu-backend/models/adapter.ts';
import { readConfig } from '../../../gpu-backend/models/load.ts';
import { checkpointName } from '../../../gpu-backend/train/checkpoint.ts';
import { type FineTuneMetrics, type FineTuneSpec, runFineTune } from '../../../gpu-backend/train/finetune.ts';
import { writeTinyJob } from './tiny.ts';

async function folder(t: { after: (fn: () => unknown) => void }): Promise<string> {
  const dir = await mkdtemp(join(tmpdir(), 'mantis-finetune-'));
  t.after(() => rm(dir, { recursive: true, force: true }));
  return dir;
}

const common = { epochs: 3, batchSize: 4, learningRateMultiplier: 1, checkpointEvery: 2, seed: 5 };

for (const [name, stage, lora] of [
  ['projector', 'projector', undefined],
  ['lora', 'lora', undefined],
  ['dora', 'lora', { r: 4, alpha: 8, dora: true }],
  ['full', 'full', undefined],
] as const) {
  test(`${name}: resumed from a checkpoint equals uninterrupted, bit for bit`, async (t) => {
    const dir = await folder(t);
    const job = await writeTinyJob(dir);
    const spec: FineTuneSpec = {
      ...common,
      ...job,
      stage,
      ...(lora === undefined ? {} : { lora }),
      outDir: join(dir, 'whole'),
      validationFile: job.trainingFile,
    };
    const losses: number[] = [];
    const whole = await runFineTune(spec, { onMetrics: (m) => void losses.push(m.train_loss) });
    assert.equal(whole.outcome, 'succeeded');
    assert.ok((losses.at(-1) ?? 9) < (losses[0] ?? 0), `loss went from ${losses[0]} to ${losses.at(-1)}`);

    const stop = new AbortController();
    const cut: FineTuneSpec = { ...spec, outDir: join(dir, 'cut') };
    const half = await runFineTune(cut, {
      signal: stop.signal,
      onMetrics: (m) => {
        if (m.step === 3) stop.abort();
      },
    });
    assert.equal(half.outcome, 'stopped');
    const seen: FineTuneMetrics[] = [];
    const rest = await runFineTune(
      { ...cut, resumeDir: join(cut.outDir, checkpointName(3)) },
      { onMetrics: (m) => void seen.push(m) },
    );
    assert.deepEqual(rest, whole);
    assert.equal(seen[0]?.step, 4);
    assert.deepEqual(
      seen.map((m) => m.train_loss),
      losses.slice(3),
    );
    const last = whole.outcome === 'succeeded' ? checkpointName(whole.finalStep) : '';
    for (const name of await readdir(join(spec.outDir, last))) {
      if (name === 'manifest.json') continue;
      assert.equal(
        await sha256File(join(spec.outDir, last, name)),
        await sha256File(join(cut.outDir, last, name)),
        name,
      );
    }
    if (stage === 'lora') {
      const adapter = loadAdapter(join(spec.outDir, last), readConfig(job.baseDir));
      assert.equal(adapter.lora.r, lora?.r ?? 16);
      assert.equal(adapter.lora.dora, lora?.dora);
    }
  });
}

test('a job learns its examples, and a second one starts from the first', async (t) => {
  const dir = await folder(t);
  const job = await writeTinyJob(dir);
  const spec: FineTuneSpec = {
    ...common,
    ...job,
    stage: 'lora',
    epochs: 30,
    checkpointEvery: 90,
    outDir: join(dir, 'a'),
  };
  const metrics: FineTuneMetrics[] = [];
  const first = await runFineTune(spec, { onMetrics: (m) => void metrics.push(m) });
  assert.equal(first.outcome, 'succeeded');
  const learned = metrics.at(-1)?.train_loss ?? 9;
  assert.ok(learned < 0.5, `loss ${learned} after 90 steps`);
  const tunedDir = join(spec.outDir, checkpointName(90));
  const second: FineTuneMetrics[] = [];
  await runFineTune(
    { ...spec, stage: 'projector', epochs: 1, outDir: join(dir, 'b'), tunedDir },
    { onMetrics: (m) => void second.push(m) },
  );
  assert.ok((second[0]?.train_loss ?? 9) < 1, `the second job starts at ${second[0]?.train_loss}`);
});

test('bad examples fail the job with line and field', async (t) => {
  const dir = await folder(t);
  const job = await writeTinyJob(dir, 2);
  const text = await readFile(job.trainingFile, 'utf8');
  const cases: [string, RegExp][] = [
    ['{"messages": [{"role": "robot", "content": "x"}]}', /line 3: messages\[0\].role/],
    ['{"messages": [{"role": "user", "content": "x"}]}', /line 3: messages: expected at least one assistant/],
    ['not json', /line 3/],
    [
      JSON.stringify({
        messages: [
          { role: 'user', content: [{ type: 'image_url', image_url: { url: 'data:image/png;base64,AAAA' } }] },
          { role: 'assistant', content: 'no' },
        ],
      }),
      /line 3: image_url: /,
    ],
    [
      JSON.stringify({
        messages: [
          { role: 'user', content: 'long '.repeat(2000) },
          { role: 'assistant', content: 'no' },
        ],
      }),
      /line 3: messages: the example takes \d+ tokens, the model's context holds 512/,
    ],
  ];
  for (const [line, reason] of cases) {
    await writeFile(job.trainingFile, `${text}${line}\n`);
    const result = await runFineTune({ ...common, ...job, stage: 'lora', outDir: join(dir, 'out') });
    assert.equal(result.outcome, 'failed');
    assert.match(result.outcome === 'failed' ? result.message : '', reason);
  }
});
