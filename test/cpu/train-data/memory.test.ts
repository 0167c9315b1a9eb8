import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { mkdtemp, open, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import test, { after } from 'node:test';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import * as z from 'zod/mini';

const folder = await mkdtemp(join(tmpdir(), 'import-memory-'));
after(() => rm(folder, { recursive: true, force: true }));

const run = promisify(execFile);
const script = fileURLToPath(new URL('./import-rss.mts', import.meta.url));
const Result = z.object({
  records: z.int(),
  usable: z.int(),
  codes: z.record(z.string(), z.int()),
  idleMib: z.int(),
  peakMib: z.int(),
  ms: z.int(),
});

async function importOf(path: string) {
  const dir = join(folder, `store-${Math.random()}`);
  const { stdout } = await run(process.execPath, ['--import', 'tsx', script, path, dir], { timeout: 240_000 });
  await rm(dir, { recursive: true, force: true });
  return Result.parse(JSON.parse(stdout.trim().split('\n').at(-1) ?? ''));
}

/** Writes pieces until they are `bytes` long together. @returns how many */
async function fileOf(name: string, bytes: number, piece: (i: number) => Buffer | string, ends = ['', '']) {
  const path = join(folder, name);
  const file = await open(path, 'w');
  let count = 0;
  await file.writeFile(ends[0] ?? '');
  for (let written = 0; written < bytes; count++) {
    const next = piece(count);
    await file.writeFile(next);
    written += next.length;
  }
  await file.writeFile(ends[1] ?? '');
  await file.close();
  return { path, count };
}

const noise = randomBytes(700_000);
/** A conversation with a picture of 0.7 MB, another one each time, but every tenth the first again. */
function conversation(i: number): string {
  const picture = Buffer.concat([Buffer.from(`\x89PNG\r\n\x1a\n${i % 10 === 0 ? 0 : i}`, 'latin1'), noise]);
  const url = `data:image/png;base64,${picture.toString('base64')}`;
  return JSON.stringify({
    messages: [
      {
        role: 'user',
        content: [
          { type: 'image_url', image_url: { url } },
          { type: 'text', text: `Number ${i}?` },
        ],
      },
      { role: 'assistant', content: `It is ${i}.` },
    ],
  });
}

const MB = 1e6;
const isLong = process.env.MANTIS_LONG_TESTS === '1';
const size = (isLong ? 2_000 : 300) * MB;

test(`a JSON Lines file of ${size / MB} MB is read within 300 MiB`, async (t) => {
  const { path, count } = await fileOf('large.jsonl', size, (i) => `${conversation(i)}\n`);
  const result = await importOf(path);
  t.diagnostic(JSON.stringify(result));
  assert.deepEqual([result.records, result.usable, result.codes], [count, count, {}]);
  assert.ok(result.peakMib <= 300, `peak ${result.peakMib} MiB`);
  await rm(path);
});

test('a JSON array of 60 MB is read within 300 MiB', async (t) => {
  const { path, count } = await fileOf('large.json', 60 * MB, (i) => `${i === 0 ? '' : ',\n'}${conversation(i)}`, [
    '[',
    ']',
  ]);
  const result = await importOf(path);
  t.diagnostic(JSON.stringify(result));
  assert.deepEqual([result.records, result.usable, result.codes], [count, count, {}]);
  assert.ok(result.peakMib <= 300, `peak ${result.peakMib} MiB`);
  await rm(path);
});

test('bombs: a line of 600 MB, ten million empty lines, 20 MB of brackets and of commas', async (t) => {
  const piece = Buffer.alloc(4 * MB, 0x61);
  const cases: [string, Parameters<typeof fileOf>, Record<string, number>, number][] = [
    [
      'a long line between two good ones',
      ['long.jsonl', 600 * MB, () => piece, [`${conversation(1)}\n`, `\n${conversation(2)}\n`]],
      { invalid_training_file: 1 },
      3,
    ],
    ['empty lines', ['empty.jsonl', 10 * MB, () => '\n'.repeat(1 * MB), ['', conversation(1)]], {}, 1],
    ['brackets', ['deep.jsonl', 19 * MB, () => '['.repeat(1 * MB), ['', '\n']], { invalid_json: 1 }, 1],
    ['commas', ['wide.jsonl', 18 * MB, () => '[],'.repeat(1 * MB), ['[', '[]]\n']], { invalid_json: 1 }, 1],
    [
      'a long string that never ends',
      ['open.json', 100 * MB, () => piece, ['["', '']],
      { invalid_json: 1, invalid_training_file: 1 },
      0,
    ],
  ];
  for (const [name, file, codes, records] of cases) {
    const { path } = await fileOf(...file);
    const result = await importOf(path);
    t.diagnostic(`${name}: ${JSON.stringify(result)}`);
    assert.deepEqual([result.codes, result.records], [codes, records], name);
    assert.ok(result.peakMib <= 256, `${name}: peak ${result.peakMib} MiB`);
    assert.ok(result.ms < 30_000, `${name}: ${result.ms} ms`);
    await rm(path);
  }
});
