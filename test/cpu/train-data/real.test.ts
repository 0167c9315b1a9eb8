import assert from 'node:assert/strict';
import { existsSync } from 'node:fs';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import test, { after } from 'node:test';
import { fileURLToPath } from 'node:url';
import { exportData } from '../../../gpu-backend/train/data/export.ts';
import { importData } from '../../../gpu-backend/train/data/import.ts';
import type { ExampleStore } from '../../../gpu-backend/train/data/store.ts';
import { readPictureSize } from '../../../gpu-backend/vision/decode.ts';

const data = fileURLToPath(new URL('../../../../shared/data/mantis-chat/train.json', import.meta.url));
const skip = existsSync(data) ? false : 'no ../shared/data/mantis-chat';
const folder = await mkdtemp(join(tmpdir(), 'real-data-'));
after(() => rm(folder, { recursive: true, force: true }));

let number = 0;
async function load(path: string): Promise<ExampleStore> {
  const problems: unknown[] = [];
  const { store } = await importData(
    { files: [{ file_id: 'f', filename: path, file: { id: 'f', bytes: 1, sha256: 'x' } }], balancing: false },
    [path],
    join(folder, `store-${number++}`),
    { imageRoot: () => dirname(path), onProblem: (problem) => problems.push(problem) },
  );
  assert.deepEqual(problems, []);
  return store;
}

async function hashesOf(store: ExampleStore): Promise<string[]> {
  const hashes: string[] = [];
  for (let i = 0; i < store.length; i++) hashes.push((await store.get(i)).contentHash);
  return hashes;
}

test('100 real conversations: 377 photographs, and the same from every form', { skip }, async () => {
  const store = await load(data);
  let turns = 0;
  const sizes = new Set<string>();
  const references = new Set<string>();
  for (let i = 0; i < store.length; i++) {
    const example = await store.get(i);
    turns += example.messages.filter(({ role }) => role === 'assistant').length;
    assert.equal(store.imageCount(i), example.images.length);
    for (const reference of example.images) {
      references.add(reference);
      const { width, height } = await readPictureSize(await store.readImage(reference));
      sizes.add(`${width}x${height}`);
    }
  }
  assert.deepEqual([store.length, references.size, turns], [100, 377, 982]);
  assert.ok(sizes.size > 50);
  const before = await hashesOf(store);
  const imageDir = join(folder, 'pictures');
  const chain = [
    ['openai', 'a.jsonl', {}],
    ['mantis-parquet', 'b.parquet', {}],
    ['sharegpt', 'c.json', { imageDir }],
    ['mantis', 'd.json', { imageDir }],
  ] as const;
  let last = store;
  for (const [form, name, options] of chain) {
    const { written } = await exportData(last, form, join(folder, name), options);
    assert.equal(written, 100);
    await last.close();
    last = await load(join(folder, name));
    assert.deepEqual(await hashesOf(last), before, form);
  }
  await last.close();
});
