import assert from 'node:assert/strict';
import { mkdtemp, readdir, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import test from 'node:test';
import { sha256File } from '../../../gpu-backend/io/digest.ts';
import { readSafetensors } from '../../../gpu-backend/io/safetensors.ts';
import { loadAdapter } from '../../../gpu-backend/models/adapter.ts';
import { contextTokens } from '../../../gpu-backend/models/llama.ts';
import { readConfig } from '../../../gpu-backend/models/load.ts';
import { layoutConversation } from '../../../gpu-backend/text/layout.ts';
import { loadBaseModel } from '../../../gpu-backend/train/base-model.ts';
import { checkpointName } from '../../../gpu-backend/train/checkpoint.ts';
import { runFineTune } from '../../../gpu-backend/train/finetune.ts';
import type { FineTuneMetrics, FineTuneResult, FineTuneSpec } from '../../../gpu-backend/train/finetune-spec.ts';
import type { Stage } from '../../../shared/contract/training.ts';
import { dataOf, tinySpec, writeTinyJob } from './tiny.ts';

type StageOptions = Partial<Stage> & Pick<Stage, 'train'>;

async function folder(t: { after: (fn: () => unknown) => void }): Promise<string> {
  const dir = await mkdtemp(join(tmpdir(), 'mantis-finetune-'));
  t.after(() => rm(dir, { recursive: true, force: true }));
  return dir;
}

interface Seen {
  readonly result: FineTuneResult;
  readonly metrics: readonly FineTuneMetrics[];
  readonly said: readonly string[];
}

/** @param stopAfter the job is asked to stop in this step */
async function run(spec: FineTuneSpec, stopAfter?: number): Promise<Seen> {
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
  return { result, metrics, said };
}

const lossesOf = ({ metrics }: Seen): number[] => metrics.map((m) => m.train_loss);

/** Files of a checkpoint but for the manifest, which says how long things took. */
async function digests(dir: string): Promise<Record<string, string>> {
  const names = (await readdir(dir)).filter((name) => name !== 'manifest.json');
  return Object.fromEntries(await Promise.all(names.map(async (name) => [name, await sha256File(join(dir, name))])));
}

/** Runs whole and in pieces, cut after each of some steps; both must end with the same bits. */
async function assertResumes(dir: string, stages: readonly StageOptions[], cuts: readonly number[]): Promise<Seen> {
  const job = await writeTinyJob(dir);
  const spec: FineTuneSpec = {
    ...tinySpec(job, join(dir, 'whole'), stages),
    validation: dataOf(job.trainingFile),
  };
  const whole = await run(spec);
  assert.equal(whole.result.outcome, 'succeeded', JSON.stringify(whole.result));
  const inPieces = { ...spec, workDir: join(dir, 'cut/work'), outDir: join(dir, 'cut/out') };
  const losses: number[] = [];
  let resumeDir: string | undefined;
  for (const cut of [...cuts, undefined]) {
    const part = await run(resumeDir === undefined ? inPieces : { ...inPieces, resumeDir }, cut);
    losses.push(...lossesOf(part));
    if (cut === undefined) assert.deepEqual(part.result, whole.result);
    else {
      assert.equal(part.result.outcome, 'stopped');
      resumeDir = join(inPieces.outDir, checkpointName(cut));
    }
  }
  assert.deepEqual(losses, lossesOf(whole));
  const last = checkpointName(whole.metrics.at(-1)?.step ?? 0);
  assert.deepEqual(await digests(join(inPieces.outDir, last)), await digests(join(spec.outDir, last)));
  return whole;
}

for (const [name, stage] of [
  ['projector', { train: 'projector' }],
  ['lora', { train: 'lora' }],
  ['packed dora', { train: 'lora', lora: { r: 4, alpha: 8, dora: true }, packing: true }],
  ['full', { train: 'full' }],
] as const)
  test(`${name}: resumed from a checkpoint equals uninterrupted, bit for bit`, async (t) => {
    const dir = await folder(t);
    const whole = await assertResumes(dir, [stage], [3]);
    const losses = lossesOf(whole);
    assert.ok((losses.at(-1) ?? 9) < (losses[0] ?? 0), `loss went from ${losses[0]} to ${losses.at(-1)}`);
    if (stage.train !== 'lora') return;
    const last = checkpointName(whole.metrics.at(-1)?.step ?? 0);
    const adapter = loadAdapter(join(dir, 'whole/out', last), readConfig(join(dir, 'base')));
    assert.equal(adapter.lora.r, 'lora' in stage ? 4 : 16);
    assert.equal(adapter.lora.dora, 'lora' in stage ? true : undefined);
  });

test('stages follow one another, and a resume in any of them ends with the same bits', async (t) => {
  const dir = await folder(t);
  const stages: StageOptions[] = [
    { train: 'projector', n_epochs: 1 },
    { train: 'lora', n_epochs: 2, lora: { r: 2, alpha: 4 } },
    { train: 'full', n_epochs: 1, part_rates: { vision: 0.5 }, packing: true },
  ];
  // In the first stage, at its end, before the first regular checkpoint of the second, in the third.
  const whole = await assertResumes(dir, stages, [2, 3, 4, 8, 11]);
  const { metrics } = whole;
  assert.deepEqual(
    metrics.map((m) => m.step),
    metrics.map((_, i) => i + 1),
  );
  // 10 of 12 examples have pictures.
  assert.deepEqual(
    metrics.map((m) => m.stage),
    [0, 0, 0, 1, 1, 1, 1, 1, 1, 2, 2, 2],
  );
  assert.ok(metrics.every((m) => m.totalSteps === 12));
  assert.deepEqual([metrics[2]?.train, metrics[3]?.train, metrics[8]?.epoch], ['projector', 'lora', 2]);
  assert.deepEqual(
    metrics.slice(9).map((m) => m.padding_share),
    [0, 0, 0],
  );
  assert.match(whole.said.join('\n'), /Training stage 2 of 3, lora: 12 examples, 6 steps/);
  // The end of a stage is a checkpoint, whatever the interval.
  assert.ok((await readdir(join(dir, 'whole/out'))).includes(checkpointName(3)));
});

test('each stage starts from the weights of the one before, and the last folder alone serves them all', async (t) => {
  const dir = await folder(t);
  const job = await writeTinyJob(dir);
  const first: StageOptions = { train: 'projector', n_epochs: 10 };
  const second: StageOptions = { train: 'lora', n_epochs: 10, lora: { r: 2, alpha: 4 } };
  const both = await run({ ...tinySpec(job, join(dir, 'both'), [first, second]), checkpointEvery: 100 });
  const alone = await run({ ...tinySpec(job, join(dir, 'a'), [first]), checkpointEvery: 100 });
  assert.deepEqual(lossesOf(both).slice(0, 30), lossesOf(alone));
  const names = await readdir(join(dir, 'both/out', checkpointName(60)));
  for (const name of ['adapter_model.safetensors', 'adapter_config.json', 'model.safetensors'])
    assert.ok(names.includes(name));
  const again = await run({
    ...tinySpec(job, join(dir, 'b'), [{ train: 'full', n_epochs: 1, batch_size: 12 }]),
    tunedDir: join(dir, 'both/out', checkpointName(60)),
  });
  const [reached, goesOn] = [lossesOf(both).at(-1) ?? 0, lossesOf(again)[0] ?? 9];
  assert.ok(goesOn < 1.2 * reached + 0.05, `the two stages ended at ${reached}, what starts from them at ${goesOn}`);
  assert.ok(reached < lossesOf(alone).at(-1)!);
});

test('parts that are frozen do not move, parts with a rate do', async (t) => {
  const dir = await folder(t);
  const job = await writeTinyJob(dir);
  const trained = async (name: string, stage: StageOptions): Promise<string[]> => {
    const spec = { ...tinySpec(job, join(dir, name), [{ ...stage, n_epochs: 1 }]), checkpointEvery: 100 };
    const { result } = await run(spec);
    assert.equal(result.outcome, 'succeeded', JSON.stringify(result));
    const state = readSafetensors(join(spec.outDir, checkpointName(3), 'state.safetensors'));
    return [...state.keys()].filter((key) => key.startsWith('value.')).map((key) => key.slice(6));
  };
  const all = await trained('all', { train: 'full', part_rates: { vision: 1 } });
  assert.ok(all.some((n) => n.startsWith('vision_tower.')));
  const frozen = await trained('frozen', { train: 'full', part_rates: { projector: 0, embeddings: 0, head: 0 } });
  assert.ok(
    frozen.length > 0 && frozen.every((n) => n.startsWith('language_model.model.') && !/embed/.test(n)),
    frozen.join(),
  );
  const adapted = await trained('adapted', { train: 'lora', part_rates: { projector: 0.1, head: 0 } });
  assert.ok(adapted.some((n) => n.startsWith('multi_modal_projector.')) && !adapted.some((n) => /lm_head/.test(n)));
});

test('what a model cannot do, and options that contradict each other, are refused by name before any work', async (t) => {
  const dir = await folder(t);
  const job = await writeTinyJob(dir, 2);
  const fuyu = await writeTinyJob(join(dir, 'fuyu'), 2, 'fuyu');
  const cases: [StageOptions, RegExp, typeof job][] = [
    [
      { train: 'full', part_rates: { vision: 1 } },
      /stages\[0\]\.part_rates\.vision: expected 0, received 1: mantis-fuyu has no vision tower/,
      fuyu,
    ],
    [{ train: 'lora', part_rates: { decoder: 1 } }, /stages\[0\]\.part_rates\.decoder: .*stage "full"/, job],
    [{ train: 'projector', part_rates: { adapters: 1 } }, /part_rates\.adapters: only the stage "lora"/, job],
    [{ train: 'projector', part_rates: { projector: 0 } }, /nothing to train/, job],
    [{ train: 'lora', part_rates: { adapters: 0 } }, /leaves the stage "lora" nothing to learn/, job],
    [{ train: 'full', base_precision: 'int8' }, /stages\[0\]\.base_precision: .*received int8/, job],
    [{ train: 'lora', early_stopping: { patience: 1 } }, /early_stopping: .*needs a validation file/, job],
    [
      { train: 'lora', max_tokens: 100_000 },
      /max_tokens: the model's context holds \d+ positions, received 100000/,
      job,
    ],
  ];
  for (const [stage, reason, which] of cases) {
    const { result, metrics } = await run(tinySpec(which, dir, [stage]));
    assert.equal(result.outcome, 'failed');
    assert.equal(result.outcome === 'failed' ? result.code : '', 'unsupported_parameter');
    assert.match(result.outcome === 'failed' ? result.message : '', reason);
    assert.equal(metrics.length, 0);
  }
});

test('a stage stops when the validation loss no longer falls, and ends with its best weights', async (t) => {
  const dir = await folder(t);
  // A rate at which the loss soon rises.
  const stage: StageOptions = { train: 'lora', n_epochs: 20, learning_rate: 0.05, early_stopping: { patience: 2 } };
  const whole = await assertResumes(dir, [stage, { train: 'projector', n_epochs: 1 }], [5, 7]);
  const { metrics, said } = whole;
  const own = metrics.filter((m) => m.stage === 0);
  assert.ok(own.length < 60, `stopped after ${own.length} steps`);
  const measured = own.filter((m) => m.full_valid_loss !== undefined);
  const best = measured.reduce((a, b) => ((b.full_valid_loss ?? 9) < (a.full_valid_loss ?? 9) ? b : a));
  assert.match(said.join('\n'), new RegExp(`stops early after step ${own.length}.* of step ${best.step}`));
  const values = async (step: number) =>
    sha256File(join(dir, 'whole/out', checkpointName(step), 'adapter_model.safetensors'));
  assert.equal(await values(own.length), await values(best.step));
  assert.equal(metrics.at(-1)?.stage, 1);
});

test('a job learns its examples, and a second one starts from the first', async (t) => {
  const dir = await folder(t);
  const job = await writeTinyJob(dir);
  const spec = { ...tinySpec(job, join(dir, 'a'), [{ train: 'lora', n_epochs: 30 }]), checkpointEvery: 90 };
  const first = await run(spec);
  assert.equal(first.result.outcome, 'succeeded');
  const learned = lossesOf(first).at(-1) ?? 9;
  assert.ok(learned < 0.5, `loss ${learned} after 90 steps`);
  const second = await run({
    ...tinySpec(job, join(dir, 'b'), [{ train: 'projector', n_epochs: 1 }]),
    tunedDir: join(spec.outDir, checkpointName(90)),
  });
  assert.ok((lossesOf(second)[0] ?? 9) < 1, `the second job starts at ${lossesOf(second)[0]}`);
});

test('pictures are encoded once, over restarts too; a changed file is not believed', async (t) => {
  const dir = await folder(t);
  const job = await writeTinyJob(dir);
  const spec = tinySpec(job, dir, [{ train: 'lora', n_epochs: 1 }]);
  const encoded = ({ said }: Seen): number => Number(/(\d+) pictures encoded/.exec(said.join('\n'))?.[1] ?? 0);
  const first = await run(spec);
  assert.equal(encoded(first), 2, 'two different pictures');
  const second = await run({ ...spec, outDir: join(dir, 'again') });
  assert.equal(encoded(second), 0);
  assert.deepEqual(lossesOf(second), lossesOf(first));
  const root = join(dir, 'work/features');
  const files = (await readdir(root, { recursive: true, withFileTypes: true })).filter((f) => f.isFile());
  assert.equal(files.length, 2);
  const path = join(files[0]!.parentPath, files[0]!.name);
  const bytes = await readFile(path);
  bytes[40]! ^= 1;
  await writeFile(path, bytes);
  const third = await run({ ...spec, outDir: join(dir, 'third') });
  assert.equal(encoded(third), 1);
  assert.deepEqual(lossesOf(third), lossesOf(first));
});

test('examples that are too long are left out and said so', async (t) => {
  const dir = await folder(t);
  const job = await writeTinyJob(dir, 12, undefined, true);
  const spec = tinySpec(job, dir, [{ train: 'lora', n_epochs: 1, max_tokens: 60, batch_size: 100 }]);
  const { said, metrics } = await run(spec);
  const [, count] =
    /(\d+) examples of more than 60 tokens are left out, the first in line \d+; the longest has \d+/.exec(
      said.join('\n'),
    ) ?? [];
  assert.ok(Number(count) > 0, said.join('\n'));
  assert.ok(metrics.length > 0 && metrics[0]!.tokens <= 60 * (12 - Number(count)));
});

test('examples up to the last position of the context are trained on, packed; one position more is left out', async (t) => {
  const dir = await folder(t);
  const job = await writeTinyJob(dir, 1);
  const lineOf = (words: number): string =>
    JSON.stringify({
      messages: [
        { role: 'user', content: 'z'.repeat(words) },
        { role: 'assistant', content: 'no' },
      ],
    });
  const base = loadBaseModel(job.baseDir);
  const context = contextTokens(base.config.text);
  const lengthOf = (words: number): number =>
    layoutConversation(
      [
        { role: 'user', parts: [{ type: 'text', text: 'z'.repeat(words) }] },
        { role: 'assistant', parts: [{ type: 'text', text: 'no' }] },
      ],
      { ...base.layout, tokensPerImage: 1 },
    ).ids.length;
  let words = 0;
  while (lengthOf(words + 1) <= context) words++;
  assert.equal(lengthOf(words), context, 'a letter is a token');
  await writeFile(job.trainingFile, `${[words + 1, words, words - 5, 3].map(lineOf).join('\n')}\n`);
  const { result, said, metrics } = await run(
    tinySpec(job, dir, [
      { train: 'lora', n_epochs: 1, packing: { max_tokens: 2 * context }, micro_batch_tokens: 2 * context },
    ]),
  );
  assert.equal(result.outcome, 'succeeded', JSON.stringify(result));
  assert.match(
    said.join('\n'),
    new RegExp(
      `1 examples of more than ${context} tokens are left out, the first in line 1; the longest has ${context + 1}`,
    ),
  );
  assert.equal(metrics[0]?.tokens, context + context - 5 + lengthOf(3));
});

test('bad examples fail the job with line and field', async (t) => {
  const dir = await folder(t);
  const job = await writeTinyJob(dir, 2);
  const text = await readFile(job.trainingFile, 'utf8');
  const cases: [string, RegExp][] = [
    ['{"messages": [{"role": "robot", "content": "x"}]}', /line 3: messages\[0\].role/],
    ['not json', /line 3/],
    [
      JSON.stringify({
        messages: [
          { role: 'user', content: [{ type: 'image_url', image_url: { url: 'data:image/png;base64,AAAA' } }] },
          { role: 'assistant', content: 'no' },
        ],
      }),
      /line 3: /,
    ],
  ];
  for (const [line, reason] of cases) {
    await writeFile(job.trainingFile, `${text}${line}\n`);
    const { result } = await run({
      ...tinySpec(job, dir, [{ train: 'lora' }]),
      workDir: join(dir, `work-${cases.findIndex(([l]) => l === line)}`),
    });
    assert.equal(result.outcome, 'failed');
    assert.match(result.outcome === 'failed' ? result.message : '', reason);
  }
  // What validation has ruled out is skipped.
  const { result } = await run({
    ...tinySpec(job, dir, [{ train: 'lora', n_epochs: 1 }]),
    leftOut: [{ data: 0, file: 'file-1', lines: [3] }],
  });
  assert.equal(result.outcome, 'succeeded');
});
