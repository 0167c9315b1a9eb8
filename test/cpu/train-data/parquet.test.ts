import assert from 'node:assert/strict';
import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import test, { after } from 'node:test';
import { gzipSync } from 'node:zlib';
import type { SchemaElement } from 'hyparquet';
import { ByteWriter, parquetWrite } from 'hyparquet-writer';
import { boundedCodecs } from '../../../gpu-backend/io/rows/parquet.ts';
import { MantisParquet } from '../../../gpu-backend/train/data/export-parquet.ts';
import { importData } from '../../../gpu-backend/train/data/import.ts';
import type { DatasetProblem } from '../../../shared/contract/datasets.ts';

const folder = await mkdtemp(join(tmpdir(), 'parquet-'));
after(() => rm(folder, { recursive: true, force: true }));

let number = 0;
async function load(bytes: Uint8Array) {
  const path = join(folder, `${number}.parquet`);
  await writeFile(path, bytes);
  const problems: DatasetProblem[] = [];
  const { store, files } = await importData(
    { files: [{ file_id: 'f', filename: path, file: { id: 'f', bytes: 1, sha256: 'x' } }], balancing: false },
    [path],
    join(folder, `store-${number++}`),
    { onProblem: (problem) => problems.push(problem) },
  );
  return { store, problems, counts: files[0] };
}

const png = (seed: number, bytes = 40) =>
  Buffer.concat([Buffer.from('\x89PNG\r\n\x1a\n', 'latin1'), Buffer.alloc(bytes, seed)]);
const row = (i: number, bytes = 40) => ({
  id: `id-${i}`,
  skill: null,
  images: [
    { bytes: png(i, bytes), path: `${i}.png` },
    { bytes: null, path: 'file-abc' },
  ],
  conversation: [
    { role: 'user', content: `<image><image> ${i}?` },
    { role: 'assistant', content: `${i}.` },
  ],
});

async function fileOf(rows: readonly ReturnType<typeof row>[], groupBytes?: number): Promise<Buffer> {
  const path = join(folder, 'made.parquet');
  const parquet = new MantisParquet(path, groupBytes);
  for (const one of rows) await parquet.add(one);
  await parquet.finish();
  return await readFile(path);
}

test('rows of several groups come in order, with bytes and references', async () => {
  // Groups of 32, which are read in slices of 16, and the rest.
  const rows = Array.from({ length: 44 }, (_, i) => row(i, 1 << 20));
  const { store, problems, counts } = await load(await fileOf(rows, 31 << 20));
  assert.deepEqual(problems, []);
  assert.deepEqual([counts?.records, counts?.usable], [44, 44]);
  for (const i of [0, 15, 16, 31, 43]) {
    const example = await store.get(i);
    assert.deepEqual([example.id, example.line, example.images[1]], [`id-${i}`, i + 1, 'file-abc']);
    assert.ok(Buffer.from(await store.readImage(example.images[0] ?? '')).equals(png(i, 1 << 20)));
  }
  await store.close();
});

/** OpenAI's form as a table: `messages` of `role` and `content`, written by another's options: gzip, no offset index, one group. */
function otherFile(): Uint8Array {
  const writer = new ByteWriter();
  const text = (name: string): SchemaElement => ({
    name,
    type: 'BYTE_ARRAY',
    converted_type: 'UTF8',
    repetition_type: 'OPTIONAL',
  });
  parquetWrite({
    writer,
    codec: 'GZIP',
    compressors: { GZIP: (bytes) => new Uint8Array(gzipSync(bytes)) },
    schema: [
      { name: 'root', num_children: 1 },
      { name: 'messages', repetition_type: 'OPTIONAL', num_children: 1, converted_type: 'LIST' },
      { name: 'list', repetition_type: 'REPEATED', num_children: 1 },
      { name: 'element', repetition_type: 'OPTIONAL', num_children: 3 },
      text('role'),
      text('content'),
      { name: 'weight', type: 'INT32', repetition_type: 'OPTIONAL' },
    ],
    columnData: [
      {
        name: 'messages',
        offsetIndex: false,
        data: Array.from({ length: 300 }, (_, i) => [
          { role: 'user', content: `What is ${i}?`, weight: null },
          { role: 'assistant', content: String(i), weight: i === 7 ? null : 1 },
        ]),
      },
    ],
  });
  return writer.getBytes();
}

test('OpenAI’s form as a table, compressed with gzip and without an index', async () => {
  const { store, problems } = await load(otherFile());
  assert.deepEqual(problems, []);
  assert.equal(store.length, 300);
  const seventh = await store.get(7);
  assert.deepEqual(seventh.messages, [
    { role: 'user', parts: [{ type: 'text', text: 'What is 7?' }] },
    { role: 'assistant', parts: [{ type: 'text', text: '7' }] },
  ]);
  await store.close();
});

test('damaged files end in a problem or in other rows, never in a crash', async () => {
  const whole = [await fileOf([row(1), row(2), row(3)]), Buffer.from(otherFile())];
  let said = 0;
  for (const bytes of whole)
    for (let i = 0; i < 30; i++) {
      const damaged = Buffer.from(bytes);
      // Positions all over the file, more of them in the footer, where all is decided.
      const at =
        i % 2 === 0
          ? Math.floor((bytes.length * i) / 30)
          : bytes.length - 1 - ((i * 37) % Math.min(bytes.length - 4, 600));
      damaged[at] = (damaged[at] ?? 0) ^ (1 << (i % 8));
      const { store, problems } = await load(i % 10 === 9 ? damaged.subarray(0, at) : damaged);
      if (problems.length > 0) said++;
      await store.close();
    }
  assert.ok(said > 15, `${said} of 60 were noticed`);
});

test('a page that claims to be enormous is refused before it is unpacked', () => {
  const packed = gzipSync(Buffer.alloc(1_000));
  assert.equal(boundedCodecs.GZIP?.(packed, 1_000).length, 1_000);
  assert.throws(
    () => boundedCodecs.GZIP?.(packed, 600 << 20),
    /a page claims 629145600 bytes unpacked, at most 536870912/,
  );
});
