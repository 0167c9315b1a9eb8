import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { mkdirSync, mkdtempSync, rmSync, symlinkSync, truncateSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, test } from 'node:test';
import fc from 'fast-check';
import { openSafetensors } from '../../../gpu-backend/io/safetensors.ts';
import {
  foreignFormat,
  parseSafetensorsHeader,
  SAFETENSORS_LIMITS,
  SafetensorsError,
  type SafetensorsErrorCode,
} from '../../../gpu-backend/io/safetensors-header.ts';
import { parseStrictJson, StrictJsonError } from '../../../gpu-backend/io/strict-json.ts';
import { DTYPE_BYTES, elementCount } from '../../../gpu-backend/io/tensor.ts';

const scratch = mkdtempSync(join(tmpdir(), 'mantis-hostile-'));
after(() => rmSync(scratch, { recursive: true, force: true }));
let folders = 0;
/** A folder with these files; a string starting with "→" is a link. */
function folder(files: Record<string, string | Uint8Array>): string {
  const dir = join(scratch, `f${folders++}`, 'model');
  mkdirSync(dir, { recursive: true });
  for (const [name, content] of Object.entries(files)) {
    mkdirSync(join(dir, name, '..'), { recursive: true });
    if (typeof content === 'string' && content.startsWith('→')) symlinkSync(content.slice(1), join(dir, name));
    else writeFileSync(join(dir, name), content);
  }
  return dir;
}

function file(header: string, dataBytes = 0): Uint8Array {
  const json = Buffer.from(header);
  const bytes = new Uint8Array(8 + json.length + dataBytes);
  new DataView(bytes.buffer).setBigUint64(0, BigInt(json.length), true);
  bytes.set(json, 8);
  return bytes;
}

const ONE = file('{"w":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}', 4);
const index = (...shards: string[]): string =>
  JSON.stringify({ weight_map: Object.fromEntries(shards.map((s, i) => [i === 0 ? 'w' : `w${i}`, s])) });
const INDEX = 'model.safetensors.index.json';

function refused(path: string, code: SafetensorsErrorCode, text: RegExp = /./): void {
  assert.throws(
    () => openSafetensors(path),
    (error) => {
      assert.ok(error instanceof SafetensorsError, String(error));
      assert.equal(error.code, code, error.message);
      assert.match(error.message, text);
      assert.ok(error.message.length < 1000, `a message of ${error.message.length} characters`);
      return true;
    },
  );
}

test('a link out of the folder is refused wherever it stands', () => {
  writeFileSync(join(scratch, 'outside.safetensors'), ONE);
  writeFileSync(join(scratch, 'outside.json'), index('a.safetensors'));
  const outside = '→../../outside.safetensors';
  refused(folder({ 'model.safetensors': outside }), 'outside_folder', /is a link to a file outside the folder/);
  refused(folder({ 'adapter_model.safetensors': outside }), 'outside_folder');
  refused(folder({ 'model.safetensors': `→${join(scratch, 'outside.safetensors')}` }), 'outside_folder');
  refused(folder({ [INDEX]: index('a.safetensors'), 'a.safetensors': outside }), 'outside_folder');
  refused(folder({ [INDEX]: '→../../outside.json', 'a.safetensors': ONE }), 'outside_folder');
  // A folder whose name merely begins like ours is outside too.
  const dir = folder({ 'model.safetensors': '→../model-2/a.safetensors' });
  mkdirSync(`${dir}-2`);
  writeFileSync(join(`${dir}-2`, 'a.safetensors'), ONE);
  refused(dir, 'outside_folder');
});

test('links within the folder, to a linked folder, and those of a Hugging Face cache open', () => {
  const inside = folder({ 'model.safetensors': '→parts/a.safetensors', 'parts/a.safetensors': ONE });
  openSafetensors(inside).close();
  symlinkSync(inside, join(scratch, 'alias'));
  openSafetensors(join(scratch, 'alias')).close();
  const cache = join(scratch, 'models--owner--name');
  mkdirSync(join(cache, 'blobs'), { recursive: true });
  mkdirSync(join(cache, 'snapshots', 'abc'), { recursive: true });
  writeFileSync(join(cache, 'blobs', '0123'), ONE);
  symlinkSync('../../blobs/0123', join(cache, 'snapshots', 'abc', 'model.safetensors'));
  openSafetensors(join(cache, 'snapshots', 'abc')).close();
});

test('what is no regular file is refused at once', () => {
  refused('/dev/zero', 'not_a_file');
  const dir = folder({});
  const made = spawnSync('mkfifo', [join(dir, 'model.safetensors'), join(dir, 'x.index.json')]);
  if (made.status === 0) {
    // Opening a pipe in the usual way would wait for a writer for ever.
    refused(dir, 'not_a_file');
    refused(join(dir, 'x.index.json'), 'not_a_file');
  }
  mkdirSync(join(dir, 'd.safetensors'));
  writeFileSync(join(dir, 'e.index.json'), index('d.safetensors'));
  refused(join(dir, 'e.index.json'), 'not_a_file');
});

test('an index within the limits, or none', () => {
  refused(folder({ [INDEX]: index('gone.safetensors') }), 'not_found', /gone\.safetensors/);
  refused(folder({ [INDEX]: ' '.repeat((8 << 20) + 1) }), 'header_too_large');
  refused(folder({ [INDEX]: '[]' }), 'bad_index', /weight_map/);
  refused(folder({ [INDEX]: '{"weight_map":[]}' }), 'bad_index');
  refused(
    folder({ [INDEX]: '{"weight_map":{"a":"x.safetensors","a":"y.safetensors"}}' }),
    'bad_index',
    /appears twice/,
  );
  refused(folder({ [INDEX]: `{"weight_map":${'['.repeat(5000)}` }), 'bad_index', /at most 8 deep/);
  const name = 'n'.repeat(1 << 20);
  refused(folder({ [INDEX]: `{"weight_map":{"${name}":"../x"}}` }), 'bad_index');
  refused(folder({ [INDEX]: `{"weight_map":{"${name}":"a.safetensors"}}`, 'a.safetensors': ONE }), 'index_mismatch');
  const many = Array.from({ length: 1001 }, (_, i) => `s${i}.safetensors`);
  refused(folder({ [INDEX]: index(...many) }), 'too_many_shards');
  const tensors = Array.from({ length: 65_537 }, (_, i) => [`t${i}`, 'a.safetensors']);
  refused(folder({ [INDEX]: JSON.stringify({ weight_map: Object.fromEntries(tensors) }) }), 'too_many_tensors');
});

test('limits hold for all shards together', () => {
  const limits = { ...SAFETENSORS_LIMITS, maxTensors: 30, maxTotalHeaderBytes: 4000 };
  const entries = (from: number, count: number): string =>
    Array.from({ length: count }, (_, i) => `"t${from + i}":{"dtype":"U8","shape":[0],"data_offsets":[0,0]}`).join();
  const open = (a: string, b: string): unknown =>
    openSafetensors(
      folder({
        [INDEX]: '{"weight_map":{"t0":"a.safetensors","t20":"b.safetensors"}}',
        'a.safetensors': file(`{${a}}`),
        'b.safetensors': file(`{${b}}`),
      }),
      limits,
    );
  open(entries(0, 20), entries(20, 10));
  assert.throws(() => open(entries(0, 20), entries(20, 20)), /hold 40 tensors, the limit for all is 30/);
  const padding = ' '.repeat(2000);
  assert.throws(() => open(entries(0, 1) + padding, entries(20, 1) + padding), /limit for all shards is 4000/);
});

test('header bombs: depth, empty lists by the million, and names that are not names', () => {
  const one = (header: string): string => folder({ 'model.safetensors': file(header) });
  refused(one(`{"w":${'['.repeat(4_000_000)}`), 'bad_header', /at most 3 deep/);
  refused(one(`{"w":[${'[],'.repeat(2_000_000)}[]]}`), 'bad_header', /objects and lists/);
  refused(one(`{"w":{"dtype":"F32","shape":[${'1,'.repeat(3_000_000)}1],"data_offsets":[0,4]}}`), 'bad_tensor');
  refused(one('{"__proto__":{"dtype":"F32"}}'), 'bad_tensor');
  refused(one('{"w":{"__proto__":{"dtype":"F32","shape":0,"data_offsets":0}}}'), 'bad_tensor');
  refused(one('{"w":{"dtype":"F32","shape":[1e999],"data_offsets":[0,0]}}'), 'bad_tensor');
  refused(one('{"w":{"dtype":"constructor","shape":[0],"data_offsets":[0,0]}}'), 'bad_tensor');
  const proto = folder({ 'model.safetensors': file('{"__proto__":{"dtype":"U8","shape":[0],"data_offsets":[0,0]}}') });
  const store = openSafetensors(proto);
  assert.deepEqual([...store.tensors.keys()], ['__proto__']);
  store.close();
});

test('a sparse file with a tensor beyond all memory opens, and its tensor is refused by name', () => {
  const bytes = 2 ** 42;
  const dir = folder({
    'model.safetensors': file(`{"big":{"dtype":"U8","shape":[${bytes}],"data_offsets":[0,${bytes}]}}`),
  });
  const path = join(dir, 'model.safetensors');
  try {
    truncateSync(path, file(`{"big":{"dtype":"U8","shape":[${bytes}],"data_offsets":[0,${bytes}]}}`).length + bytes);
  } catch {
    return; // a file system without files of this size has nothing to test
  }
  const store = openSafetensors(dir);
  assert.throws(
    () => store.tensors.get('big')?.read(),
    (error) => error instanceof SafetensorsError && error.code === 'tensor_too_large',
  );
  store.close();
});

for (const [what, head] of [
  ['protocol 0, as pickle.dumps writes a dict', '(dp0\n'],
  ['protocol 1', '\u0080\u0001}'],
  ['protocol 2 (torch.save before 1.6)', '\u0080\u0002\u008a\nl\u00fc\u009cF\u00f9 j\u00a8P\u0019.'],
  ['protocol 4', '\u0080\u0004\u0095\u0010\u0000\u0000\u0000\u0000\u0000\u0000\u0000}'],
  ['protocol 5', '\u0080\u0005\u0095\u0010\u0000\u0000\u0000\u0000\u0000\u0000\u0000}'],
  ['a zip (torch.save)', 'PK\u0003\u0004\u0000\u0000\u0008\u0008'],
  ['an empty zip', 'PK\u0005\u0006'],
  ['gzip around a pickle', '\u001f\u008b\u0008\u0000'],
  ['bzip2', 'BZh91AY'],
  ['xz', '\u00fd7zXZ\u0000'],
  ['7z', "7z\u00bc\u00af'\u001c"],
  ['NumPy', '\u0093NUMPY\u0001\u0000'],
  ['HDF5', '\u0089HDF\r\n\u001a\n'],
  ['GGUF', 'GGUF\u0003\u0000\u0000\u0000'],
  ['a git-lfs pointer', 'version https://git-lfs.github.com/spec/v1\noid sha256:'],
  ['a web page', '<!DOCTYPE html><html>'],
] as const) {
  test(`refused by its first bytes: ${what}`, () => {
    const bytes = Buffer.from(head, 'latin1');
    assert.notEqual(foreignFormat(bytes), undefined);
    refused(
      folder({ 'model.safetensors': Buffer.concat([bytes, Buffer.alloc(64)]) }),
      'wrong_format',
      /expected a safetensors file, found a/,
    );
  });
}

test('a header whose length looks like a pickle is none', () => {
  const header = `{"w":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}`.padEnd(0x280, ' ');
  const bytes = file(header, 4);
  assert.deepEqual([...bytes.subarray(0, 2)], [0x80, 2]);
  openSafetensors(folder({ 'model.safetensors': bytes })).close();
});

test('strict JSON counts no structure inside strings', () => {
  const limits = { maxDepth: 1, maxContainers: 1 };
  const parse = (text: string): unknown => parseStrictJson(Buffer.from(text), limits);
  assert.deepEqual(parse('{"a[[[":"{{\\"{\\\\"}'), { 'a[[[': '{{"{\\' });
  assert.throws(() => parse('{"a":[]}'), StrictJsonError);
  assert.throws(() => parse('"\\'), StrictJsonError);
});

/**
 * Header text from a grammar that is mostly right and wrong in places: valid entries, then edits of the text. The
 * reader gets a counter instead of a file, so that what it asks for is known to the byte.
 */
test('mutated headers are refused or tile their file, and nothing is read beyond the limits', () => {
  const number = fc.oneof(
    { weight: 20, arbitrary: fc.nat(40) },
    { weight: 1, arbitrary: fc.constantFrom(-1, 0.5, 2 ** 31, 2 ** 32, 2 ** 53, 2 ** 53 - 1, 1e300, -0) },
  );
  const dtype = fc.oneof(
    { weight: 20, arbitrary: fc.constantFrom(...Object.keys(DTYPE_BYTES).map((d) => d.toUpperCase())) },
    { weight: 1, arbitrary: fc.constantFrom('F4', 'f32', '', 'Q8', '__proto__') },
  );
  const isHonest = fc.nat(9).map((n) => n > 0);
  const entry = fc.record({
    dtype,
    shape: fc.array(number, { maxLength: 4 }),
    size: number,
    gap: fc.constantFrom(0, 1, -1),
  });
  const name = fc.oneof(fc.constantFrom('a', 'b', '__metadata__', '__proto__', 'toString', ''), fc.string());
  const edit = fc.record({
    at: fc.double({ min: 0, max: 1, noNaN: true }),
    text: fc.constantFrom('', '{', '}', '[', ']', '"', ',', ':', '0', '-', '\\', ' ', '\u0000', '{"a":', '[[[['),
    remove: fc.nat(3),
  });
  let accepted = 0;
  let largestRequest = 0;
  fc.assert(
    fc.property(
      fc.array(fc.tuple(name, entry, isHonest), { maxLength: 5 }),
      fc.oneof(fc.constant([]), fc.array(edit, { maxLength: 3 })),
      fc.oneof(
        { weight: 5, arbitrary: fc.constant(undefined) },
        { weight: 1, arbitrary: fc.bigInt({ min: 0n, max: 2n ** 64n - 1n }) },
      ),
      fc.constantFrom(0, 0, 0, 0, 1, -1, 1000),
      (entries, edits, lie, extra) => {
        let offset = 0;
        const fields = entries.map(([key, { dtype: d, shape, size, gap }, honest]) => {
          const bytes = DTYPE_BYTES[d.toLowerCase() as keyof typeof DTYPE_BYTES] ?? 1;
          const start = offset + (honest ? 0 : gap);
          offset = start + (honest ? elementCount(shape) * bytes : size);
          return `${JSON.stringify(key)}:${JSON.stringify({ dtype: d, shape, data_offsets: [start, offset] })}`;
        });
        let text = `{${fields.join()}}`;
        for (const { at, text: inserted, remove } of edits) {
          const cut = Math.floor(at * text.length);
          text = text.slice(0, cut) + inserted + text.slice(cut + remove);
        }
        const json = Buffer.from(text);
        const head = Buffer.alloc(8);
        head.writeBigUInt64LE(lie ?? BigInt(json.length));
        const content = Buffer.concat([head, json]);
        const dataBytes = Math.max(0, Math.min(2 ** 52, Math.trunc(offset)) + extra);
        const fileBytes = content.length + (Number.isFinite(dataBytes) ? dataBytes : 0);
        const readAt = (at: number, length: number): Uint8Array => {
          largestRequest = Math.max(largestRequest, length);
          assert.ok(length <= SAFETENSORS_LIMITS.maxHeaderBytes && at + length <= fileBytes, `${at}+${length}`);
          const out = new Uint8Array(length);
          out.set(content.subarray(at, at + length));
          return out;
        };
        try {
          const header = parseSafetensorsHeader(readAt, fileBytes, SAFETENSORS_LIMITS, 'mutant');
          accepted++;
          let reached = 0;
          for (const e of [...header.entries].sort((a, b) => a.start - b.start || a.end - b.end)) {
            assert.equal(e.start, reached);
            assert.equal(e.end - e.start, elementCount(e.shape) * DTYPE_BYTES[e.dtype]);
            reached = e.end;
          }
          assert.equal(header.dataOffset + reached, fileBytes);
        } catch (error) {
          assert.ok(error instanceof SafetensorsError, String(error));
          assert.ok(error.message.length < 2000);
        }
      },
    ),
    { numRuns: 5000, seed: 20_261_125 },
  );
  // The grammar must reach both sides, else the test says nothing.
  assert.ok(accepted > 300, `${accepted} of 5000 accepted`);
  assert.ok(largestRequest > 0);
});

test('a folder of pickles says what to do with them', () => {
  refused(folder({ 'pytorch_model.bin': 'never looked into' }), 'not_found', /pytorch_model\.bin .*safe_serialization/);
});
