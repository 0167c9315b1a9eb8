import assert from 'node:assert/strict';
import { mkdir, mkdtemp, readdir, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import test, { after } from 'node:test';
import { datasetCommand } from '../../../gpu-backend/cli/dataset.ts';
import { dataId } from '../../../gpu-backend/cli/finetune-data.ts';
import { importData } from '../../../gpu-backend/train/data/import.ts';
import type { MantisClient } from '../../../shared/client/client.ts';

const folder = await mkdtemp(join(tmpdir(), 'finetune-data-'));
after(() => rm(folder, { recursive: true, force: true }));
await mkdir(join(folder, 'tmp'));
process.env.TMPDIR = join(folder, 'tmp');

/** Takes uploads, and nothing else. */
const uploads: { name: string; bytes: Uint8Array }[] = [];
const api = {
  files: {
    create: async (content: Blob, name: string) => {
      uploads.push({ name, bytes: new Uint8Array(await content.arrayBuffer()) });
      return { id: `file-${uploads.length}`, bytes: content.size };
    },
  },
} as unknown as MantisClient;

const png = (seed: number) => Buffer.from(`\x89PNG\r\n\x1a\n picture ${seed}`, 'latin1');
const record = (images: unknown[], text = '<image>'.repeat(images.length)) => ({
  images,
  conversations: [
    { from: 'human', value: `${text} What?` },
    { from: 'gpt', value: 'That.' },
  ],
});
const path = (name: string) => join(folder, name);
const write = (name: string, value: unknown) =>
  writeFile(path(name), typeof value === 'string' ? value : JSON.stringify(value));

await mkdir(path('pictures'));
for (const i of [1, 2]) await writeFile(path(`pictures/${i}.png`), png(i));

test('ids stay ids, and files that hold their pictures go as they are', async () => {
  assert.equal(await dataId(api, 'file-abc'), 'file-abc');
  assert.equal(await dataId(api, 'dataset_abc'), 'dataset_abc');
  await write('inside.json', [record([`data:image/png;base64,${png(1).toString('base64')}`])]);
  assert.equal(await dataId(api, path('inside.json')), 'file-1');
  assert.equal(uploads.at(-1)?.name, 'inside.json');
});

test('records that name pictures by path, and mixtures, go with the pictures inside', async () => {
  await write('beside.json', [record(['pictures/1.png', 'pictures/2.png']), record(['pictures/1.png'])]);
  await write('mix.yaml', `data:\n  - path: ${path('beside.json')}\n    name: one\n    max_num_images: 1\n`);
  for (const [name, examples] of [
    ['beside.json', 2],
    ['mix.yaml', 1],
  ] as const) {
    await dataId(api, path(name));
    const sent = uploads.at(-1) ?? assert.fail('nothing was sent');
    assert.equal(sent.name, name.replace(/\.\w+$/, '.parquet'));
    await writeFile(path('sent.parquet'), sent.bytes);
    const problems: string[] = [];
    const { store } = await importData(
      { files: [{ file_id: 'f', filename: sent.name, file: { id: 'f', bytes: 1, sha256: name } }], balancing: false },
      [path('sent.parquet')],
      path(`store-${name}`),
      { onProblem: ({ message }) => problems.push(message) },
    );
    assert.deepEqual(problems, []);
    assert.equal(store.length, examples);
    const last = await store.get(examples - 1);
    assert.deepEqual(Buffer.from(await store.readImage(last.images[0] ?? '')), png(1));
    await store.close();
  }
});

test('what is wrong with them is said before anything is sent', async () => {
  const before = uploads.length;
  await write('bad.json', [record(['pictures/1.png']), record(['pictures/3.png'])]);
  await assert.rejects(dataId(api, path('bad.json')), /has errors.*--skip-bad/);
  await write('odd.json', [{ ...record(['pictures/1.png']), conversations: [{ from: 'human', value: '<image>' }] }]);
  await assert.rejects(dataId(api, path('odd.json')), /has errors/);
  await assert.rejects(dataId(api, path('none.json')), /cannot read/);
  assert.equal(uploads.length, before);
  assert.deepEqual(
    (await readdir(tmpdir())).filter((name) => name.startsWith('mantis-finetune-')),
    [],
  );
});

test('a file is not called Parquet that is none, nor JSON that is Parquet', async () => {
  const convert = (...args: string[]) => datasetCommand().parseAsync(['convert', ...args], { from: 'user' });
  await assert.rejects(convert('any.jsonl', '-o', path('out.parquet')), /fits --to openai.*mantis-parquet/);
  await assert.rejects(
    convert('any.jsonl', '--to', 'mantis-parquet', '-o', path('out.json')),
    /fits --to mantis-parquet/,
  );
});
