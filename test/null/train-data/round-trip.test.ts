import assert from 'node:assert/strict';
import { createHash } from 'node:crypto';
import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import test, { after } from 'node:test';
import fc from 'fast-check';
import type { DataExample } from '../../../gpu-backend/train/data/example.ts';
import { exportData } from '../../../gpu-backend/train/data/export.ts';
import { type ExportForm, exportForms } from '../../../gpu-backend/train/data/export-record.ts';
import { importData } from '../../../gpu-backend/train/data/import.ts';
import type { ExampleStore } from '../../../gpu-backend/train/data/store.ts';

const folder = await mkdtemp(join(tmpdir(), 'round-trip-'));
after(() => rm(folder, { recursive: true, force: true }));

let number = 0;
async function load(path: string): Promise<ExampleStore> {
  const problems: string[] = [];
  const file = { id: 'f', bytes: 1, sha256: `${number}` };
  const { store } = await importData(
    { files: [{ file_id: 'f', filename: path, file }], balancing: false },
    [path],
    join(folder, `store-${number++}`),
    { imageRoot: () => dirname(path), onProblem: ({ line, message }) => problems.push(`${line}: ${message}`) },
  );
  assert.deepEqual(problems, []);
  return store;
}

async function examplesOf(store: ExampleStore): Promise<DataExample[]> {
  const all: DataExample[] = [];
  for (let i = 0; i < store.length; i++) all.push(await store.get(i));
  return all;
}

const png = (seed: number) => Buffer.from(`\x89PNG\r\n\x1a\n picture ${seed}`, 'latin1');
const url = fc.oneof(
  fc.integer({ min: 0, max: 9 }).map((seed) => `data:image/png;base64,${png(seed).toString('base64')}`),
  fc.constantFrom('file-abc', 'https://example.com/a.png'),
);
const part = fc.oneof(
  fc.string({ unit: 'grapheme', maxLength: 12 }).map((text) => ({ type: 'text', text })),
  fc.constantFrom('"', '\\', '\n', ' ', 'null', '<imag', 'e>', '<image').map((text) => ({ type: 'text', text })),
  url.map((url) => ({ type: 'image_url', image_url: { url } })),
);
/** Conversations that all forms but LLaVA's can hold: alternating turns, at most one system turn in front. */
const line = fc
  .tuple(
    fc.boolean(),
    fc.array(fc.tuple(fc.array(part, { minLength: 1, maxLength: 5 }), fc.string({ maxLength: 12 }), fc.boolean()), {
      minLength: 1,
      maxLength: 3,
    }),
  )
  .map(([hasSystem, rounds]) => ({
    messages: [
      ...(hasSystem ? [{ role: 'system', content: 'Look well.' }] : []),
      ...rounds.flatMap(([content, answer, isContext], i) => [
        { role: 'user', content },
        { role: 'assistant', content: answer, ...(isContext && i < rounds.length - 1 ? { weight: 0 } : {}) },
      ]),
    ],
  }))
  // Literally in a text, also where two parts meet, it cannot be said with placeholders.
  .filter(({ messages }) =>
    messages.every(({ content }) => {
      const parts = typeof content === 'string' ? [{ type: 'text', text: content }] : content;
      return !parts
        .map((part) => ('text' in part ? part.text : '\n'))
        .join('')
        .includes('<image>');
    }),
  );

test('any conversation comes back from every form that can hold it', async () => {
  await fc.assert(
    fc.asyncProperty(fc.array(line, { minLength: 1, maxLength: 4 }), async (lines) => {
      const source = join(folder, `source-${number}.jsonl`);
      await writeFile(source, lines.map((l) => JSON.stringify(l)).join('\n'));
      const store = await load(source);
      const before = (await examplesOf(store)).map((e) => e.contentHash);
      for (const form of ['openai', 'mantis', 'mantis-parquet', 'sharegpt'] as const) {
        const back = await there(store, form);
        assert.deepEqual(
          (await examplesOf(back)).map((e) => e.contentHash),
          before,
          form,
        );
        for (const example of await examplesOf(back))
          for (const reference of example.images)
            if (reference.startsWith('sha256:')) {
              const bytes = await back.readImage(reference);
              assert.equal(`sha256:${createHash('sha256').update(bytes).digest('hex')}`, reference);
            }
        await back.close();
      }
      await store.close();
    }),
    { numRuns: 8 },
  );
});

/** Writes a store in a form and reads that again. */
async function there(store: ExampleStore, form: ExportForm, imageDir = true): Promise<ExampleStore> {
  const ending = { openai: 'jsonl', mantis: 'json', 'mantis-parquet': 'parquet', llava: 'json', sharegpt: 'json' }[
    form
  ];
  const out = join(folder, `out-${number}.${ending}`);
  const hasFolder = imageDir && form !== 'openai' && form !== 'mantis-parquet';
  await exportData(store, form, out, hasFolder ? { imageDir: join(folder, 'pictures') } : {});
  return await load(out);
}

test('OpenAI’s form can name its pictures by digest, with the files beside', async () => {
  const source = join(folder, 'beside.jsonl');
  const image_url = { url: `data:image/png;base64,${png(5).toString('base64')}` };
  const content = [
    { type: 'image_url', image_url },
    { type: 'text', text: 'What?' },
  ];
  const messages = [
    { role: 'user', content },
    { role: 'assistant', content: 'That.' },
  ];
  await writeFile(source, JSON.stringify({ messages }));
  const store = await load(source);
  const imageDir = join(folder, 'by-digest');
  const out = join(folder, 'beside-out.jsonl');
  await exportData(store, 'openai', out, { imageDir });
  const digest = createHash('sha256').update(png(5)).digest('hex');
  assert.ok((await readFile(out, 'utf8')).includes(`"url":"sha256:${digest}"`));
  assert.deepEqual(await readFile(join(imageDir, digest.slice(0, 2), `${digest}.png`)), png(5));
  const back = await load(out);
  assert.equal((await back.get(0)).contentHash, (await store.get(0)).contentHash);
  await assert.rejects(back.readImage(`sha256:${digest}`), /outside the data and there is no way to fetch it/);
  await Promise.all([store.close(), back.close()]);
});

test('what a form cannot hold is said and not written', async () => {
  const source = join(folder, 'odd.jsonl');
  const picture = (seed: number) => ({
    type: 'image_url',
    image_url: { url: `data:image/png;base64,${png(seed).toString('base64')}`, detail: 'high' },
  });
  const ask = (...content: unknown[]) => [
    { role: 'user', content },
    { role: 'assistant', content: 'x' },
  ];
  const lines = [
    ask(picture(1), picture(2)),
    ask({ type: 'text', text: 'what is <image>?' }),
    ask({ type: 'text', text: 'what is <im' }, { type: 'text', text: 'age>?' }),
    [{ role: 'user', content: 'a' }, ...ask({ type: 'text', text: 'b' })],
    [{ role: 'system', content: 's' }, ...ask(picture(1))],
  ];
  await writeFile(source, lines.map((messages) => JSON.stringify({ messages })).join('\n'));
  const store = await load(source);
  const out = join(folder, 'odd.out');
  const report = async (form: ExportForm) => {
    const { written, losses, notWritten } = await exportData(store, form, out, { imageDir: join(folder, 'odd') });
    return { written, losses: Object.fromEntries(losses), notWritten: Object.fromEntries(notWritten) };
  };
  const literal = 'a text that holds <image> literally';
  const order = 'turns of user and assistant that do not alternate';
  const detail = { 'detail of pictures': 2 };
  assert.deepEqual(await report('openai'), { written: 5, losses: {}, notWritten: {} });
  assert.deepEqual(await report('mantis'), { written: 2, losses: detail, notWritten: { [literal]: 2, [order]: 1 } });
  assert.deepEqual(await report('sharegpt'), { written: 2, losses: detail, notWritten: { [literal]: 2, [order]: 1 } });
  assert.deepEqual(await report('llava'), {
    written: 1,
    losses: { 'detail of pictures': 1, 'system turn': 1 },
    notWritten: { [literal]: 2, [order]: 1, 'several pictures': 1 },
  });
  await assert.rejects(exportData(store, 'mantis', out), /record 1 has pictures.*name a folder/);
  await store.close();
});

test('an empty store is a file without records in every form', async () => {
  const source = join(folder, 'one.jsonl');
  await writeFile(
    source,
    JSON.stringify({
      messages: [
        { role: 'user', content: 'a' },
        { role: 'assistant', content: 'b' },
      ],
    }),
  );
  const leftOut = [{ data: 0, file: 'f', lines: [1] }];
  const { store, files } = await importData(
    { files: [{ file_id: 'f', filename: source, file: { id: 'f', bytes: 1, sha256: 'x' } }], balancing: true },
    [source],
    join(folder, 'none'),
    { leftOut },
  );
  assert.deepEqual(files, [{ records: 1, bad: 0, leftOut: 1, usable: 0, tooManyImages: 0, taken: 0, entries: 0 }]);
  for (const form of exportForms) {
    const out = join(folder, `none.${form}`);
    assert.equal((await exportData(store, form, out)).written, 0);
    assert.ok((await readFile(out)) !== undefined);
  }
  await store.close();
});
