import assert from 'node:assert/strict';
import { mkdtemp, open, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import test, { after } from 'node:test';
import fc from 'fast-check';
import { ByteWindow } from '../../../gpu-backend/io/rows/byte-window.ts';
import { readJsonArray } from '../../../gpu-backend/io/rows/json-array.ts';
import { readJsonLines } from '../../../gpu-backend/io/rows/json-lines.ts';
import type { RawRecord } from '../../../gpu-backend/io/rows/json-record.ts';
import { readRecords } from '../../../gpu-backend/io/rows/records.ts';

const folder = await mkdtemp(join(tmpdir(), 'containers-'));
after(() => rm(folder, { recursive: true, force: true }));

type Reader = (window: ByteWindow) => AsyncGenerator<RawRecord, void, undefined>;

/** Reads text with reads of `chunkBytes`. */
async function read(reader: Reader, bytes: string | Uint8Array, chunkBytes: number): Promise<RawRecord[]> {
  const path = join(folder, 'window');
  await writeFile(path, bytes);
  const file = await open(path, 'r');
  try {
    const records: RawRecord[] = [];
    for await (const record of reader(new ByteWindow(file, chunkBytes))) records.push(structuredClone(record));
    return records;
  } finally {
    await file.close();
  }
}

/** Reads a whole file, as an import does. */
async function readFileOf(name: string, bytes: string | Uint8Array): Promise<RawRecord[]> {
  const path = join(folder, name);
  await writeFile(path, bytes);
  const records: RawRecord[] = [];
  for await (const record of readRecords(path)) records.push(record);
  return records;
}

const json = fc.jsonValue({ maxDepth: 4 });
const chunk = fc.integer({ min: 1, max: 40 });
/** Texts of what a splitter could trip over. */
const nasty = fc.array(fc.constantFrom('"', '\\', '[', ']', '{', '}', ',', ':', '\n', ' ', 'a', 'é', '😀', '\\"'), {
  maxLength: 12,
});

test('the elements of an array are what JSON.parse finds, wherever reads cut it', async () => {
  await fc.assert(
    fc.asyncProperty(
      fc.array(
        fc.oneof(
          json,
          nasty.map((pieces) => ({ [pieces.join('')]: [pieces.join('')] })),
        ),
      ),
      chunk,
      fc.constantFrom(0, 1, 3),
      async (values, chunkBytes, indent) => {
        const records = await read(readJsonArray, JSON.stringify(values, null, indent), chunkBytes);
        const expected = (JSON.parse(JSON.stringify(values)) as unknown[]).map((value, i) => ({ line: i + 1, value }));
        assert.deepEqual(records, expected);
      },
    ),
    { numRuns: 60 },
  );
});

test('the lines of a file are what split finds, wherever reads cut it', async () => {
  await fc.assert(
    fc.asyncProperty(
      fc.array(fc.option(json, { nil: undefined })),
      chunk,
      fc.constantFrom('\n', '\r\n'),
      async (values, chunkBytes, ending) => {
        const text = values.map((value) => (value === undefined ? '' : JSON.stringify(value))).join(ending);
        const records = await read(readJsonLines, text, chunkBytes);
        const expected = values.flatMap((value, i) =>
          value === undefined ? [] : [{ line: i + 1, value: JSON.parse(JSON.stringify(value)) as unknown }],
        );
        assert.deepEqual(records, expected);
      },
    ),
    { numRuns: 60 },
  );
});

test('what is wrong with an array is said with the record', async () => {
  const message = async (text: string) =>
    (await read(readJsonArray, text, 7)).map(({ line, fault }) => `${line}: ${fault?.message ?? 'ok'}`);
  assert.deepEqual(await message('[{"a":1},{"b":2}'), [
    '1: ok',
    '2: ok',
    'null: the file ends within record 2 of its array; it seems to have been cut off',
  ]);
  assert.deepEqual(await message('[{"a":"x'), [
    'null: the file ends within record 1 of its array; it seems to have been cut off',
  ]);
  assert.match((await message('[1 2]'))[1] ?? '', /record 1: expected "," or "\]" after it, received "2/);
  assert.match((await message('[1,,2]'))[1] ?? '', /record 2: expected an element of the array, received ","?/);
  assert.match((await message('[1]\n{"a":1}'))[1] ?? '', /expected nothing after the array's "\]".*\.jsonl/);
  assert.deepEqual(await message('[]'), []);
  assert.match((await message('[{"a":nope},{}]'))[0] ?? '', /^1: expected one JSON object.*not JSON/);
});

test('a byte order mark, CRLF, blank lines and no last line end are all taken', async () => {
  const records = await readFileOf('bom', '\ufeff{"a":1}\r\n\r\n  \t\r\n{"a":2}');
  assert.deepEqual(records, [
    { line: 1, value: { a: 1 } },
    { line: 4, value: { a: 2 } },
  ]);
  assert.deepEqual(await readFileOf('bom-array', '\ufeff\n [{"a":1}]'), [{ line: 1, value: { a: 1 } }]);
});

test('the name decides where a file of lines begins with a bracket', async () => {
  assert.deepEqual(
    (await readFileOf('a.jsonl', '[]\n{"a":1}')).map(({ line, value }) => [line, value]),
    [
      [1, []],
      [2, { a: 1 }],
    ],
  );
});

test('lines that are no UTF-8, too deep or bloated have their number and hide no other', async () => {
  const bad = Buffer.from('{"a":"\xff\xfe"}', 'latin1');
  const deep = Buffer.from(`${'['.repeat(100_000)}${']'.repeat(100_000)}`);
  const bloated = Buffer.from(`{"a":[${'1,'.repeat(400_000)}1]}`);
  const good = Buffer.from('{"a":1}');
  const lines = [good, bad, deep, bloated, good];
  const file = Buffer.concat(lines.flatMap((line) => [line, Buffer.from('\n')]));
  const records = await readFileOf('bad.jsonl', file);
  assert.deepEqual(
    records.map(({ line, fault }) => [line, fault?.code ?? 'ok']),
    [
      [1, 'ok'],
      [2, 'invalid_json'],
      [3, 'invalid_json'],
      [4, 'invalid_json'],
      [5, 'ok'],
    ],
  );
  assert.match(records[1]?.fault?.message ?? '', /not UTF-8/);
  assert.match(records[2]?.fault?.message ?? '', /at most 128 deep/);
});

test('other kinds of files are named', async () => {
  const first = async (bytes: Uint8Array) => (await readFileOf('other', bytes))[0]?.fault?.message;
  assert.match((await first(Buffer.from('1f8b0800000000000003', 'hex'))) ?? '', /received a gzip file/);
  assert.match((await first(Buffer.from('\ufeff{"a":1}', 'utf16le'))) ?? '', /received UTF-16 text/);
  assert.match((await first(Buffer.from('PAR1 and then nothing'))) ?? '', /expected a whole Parquet file/);
  assert.deepEqual(await readFileOf('empty', ''), []);
});
