import assert from 'node:assert/strict';
import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, test } from 'node:test';
import fc from 'fast-check';
import { openSafetensors, readSafetensors } from '../../../gpu-backend/io/safetensors.ts';
import { SafetensorsError } from '../../../gpu-backend/io/safetensors-header.ts';
import { type WritableTensor, writeSafetensors } from '../../../gpu-backend/io/safetensors-write.ts';
import { fromFloat32, toFloat32, toInt32 } from '../../../gpu-backend/io/tensor.ts';

const folder = mkdtempSync(join(tmpdir(), 'safetensors-'));
after(() => rmSync(folder, { recursive: true }));
const path = (name: string): string => join(folder, name);

/** A file from a literal header, so that tests can lie in it. */
function file(header: string | Uint8Array, dataBytes: number, headerBytes?: bigint): Uint8Array {
  const json = typeof header === 'string' ? Buffer.from(header) : header;
  const bytes = new Uint8Array(8 + json.length + dataBytes);
  new DataView(bytes.buffer).setBigUint64(0, headerBytes ?? BigInt(json.length), true);
  bytes.set(json, 8);
  return bytes;
}

test('what is written is read back: types, shapes, metadata, alignment', async () => {
  const values = Float32Array.of(1, -2, 0.5, 3e-5, 70000, 0);
  const tensors: [string, WritableTensor][] = [
    ['bytes', { dtype: 'u8', shape: [3], data: Uint8Array.of(1, 2, 3) }],
    ['half', fromFloat32(values, [2, 3], 'f16')],
    ['brain', fromFloat32(values, [3, 2], 'bf16')],
    ['single', fromFloat32(values, [6])],
    ['ids', { dtype: 'i64', shape: [1, 2], data: BigInt64Array.of(5n, -100n) }],
    ['scalar', { dtype: 'f32', shape: [], data: () => Float32Array.of(7) }],
    ['empty', { dtype: 'f32', shape: [0, 4], data: async () => new Float32Array(0) }],
  ];
  await writeSafetensors(path('a.safetensors'), tensors, { format: 'pt' });
  const store = openSafetensors(path('a.safetensors'));
  assert.deepEqual(store.metadata, { format: 'pt' });
  store.close();
  const read = readSafetensors(path('a.safetensors'));
  assert.deepEqual([...read.keys()].sort(), tensors.map(([name]) => name).sort());
  assert.deepEqual(toFloat32(read.get('single')!), values);
  assert.deepEqual([...toFloat32(read.get('half')!)].slice(0, 3), [1, -2, 0.5]);
  assert.equal(toFloat32(read.get('half')!)[4], Number.POSITIVE_INFINITY);
  assert.equal(toFloat32(read.get('brain')!)[4], 70144);
  assert.deepEqual([...toInt32(read.get('ids')!)], [5, -100]);
  assert.deepEqual(read.get('scalar')?.shape, []);
  assert.equal(read.get('empty')?.data.byteLength, 0);
});

test('the same tensors in another order give the same bytes', async () => {
  const one: [string, WritableTensor][] = [
    ['b', { dtype: 'f32', shape: [1], data: Float32Array.of(1) }],
    ['a', { dtype: 'f32', shape: [1], data: Float32Array.of(2) }],
  ];
  await writeSafetensors(path('one.safetensors'), one);
  await writeSafetensors(path('two.safetensors'), [...one].reverse());
  assert.deepEqual(readFileSync(path('one.safetensors')), readFileSync(path('two.safetensors')));
});

test('a failing write leaves the old file and no temporary one', async () => {
  const good: [string, WritableTensor][] = [['w', { dtype: 'f32', shape: [1], data: Float32Array.of(1) }]];
  await writeSafetensors(path('kept.safetensors'), good);
  const before = readFileSync(path('kept.safetensors'));
  await assert.rejects(
    writeSafetensors(path('kept.safetensors'), [['w', { dtype: 'f32', shape: [2], data: Float32Array.of(1) }]]),
    /expected 8 bytes/,
  );
  assert.deepEqual(readFileSync(path('kept.safetensors')), before);
  assert.deepEqual(
    readdirSync(folder).filter((name) => name.endsWith('.tmp')),
    [],
  );
});

test('a tensor is read piece by piece', async () => {
  await writeSafetensors(path('pieces.safetensors'), [
    ['w', { dtype: 'u8', shape: [10], data: Uint8Array.from({ length: 10 }, (_, i) => i) }],
  ]);
  const store = openSafetensors(path('pieces.safetensors'));
  const piece = new Uint8Array(4);
  store.tensors.get('w')?.readInto(piece, 6);
  assert.deepEqual([...piece], [6, 7, 8, 9]);
  assert.throws(() => store.tensors.get('w')?.readInto(piece, 7), /within the 10 bytes/);
  store.close();
  assert.throws(() => store.tensors.get('w')?.read(), /was closed/);
});

const W = '"w":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}';
const hostile: [string, Uint8Array, SafetensorsError['code']][] = [
  ['empty file', new Uint8Array(0), 'truncated'],
  ['nine bytes', new Uint8Array(9), 'truncated'],
  ['header length of 2^63', file('{}', 0, 2n ** 63n), 'header_too_large'],
  ['header length over the limit', file('{}', 0, BigInt((8 << 20) + 1)), 'header_too_large'],
  ['header length beyond the file', file('{}', 0, 3000n), 'truncated'],
  ['not JSON', file('{"w":', 4), 'bad_header'],
  ['an array', file('[]', 0), 'bad_header'],
  ['blank before the brace', file(' {}', 0), 'bad_header'],
  ['not UTF-8', file(Uint8Array.of(0x7b, 0x22, 0xff, 0x22, 0x3a, 0x31, 0x7d), 0), 'bad_header'],
  ['duplicate tensor', file(`{${W},${W}}`, 4), 'bad_header'],
  ['duplicate tensor, escaped', file(`{${W},${W.replace('"w"', '"\\u0077"')}}`, 4), 'bad_header'],
  ['duplicate tensor, much white space', file(`{${W},${W.replace('"w"', `"w"${' '.repeat(300)}`)}}`, 4), 'bad_header'],
  ['duplicate field', file('{"w":{"dtype":"F32","shape":[1],"shape":[1],"data_offsets":[0,4]}}', 4), 'bad_header'],
  ['unknown dtype', file('{"w":{"dtype":"F31","shape":[1],"data_offsets":[0,4]}}', 4), 'bad_tensor'],
  ['unknown field', file('{"w":{"dtype":"F32","shape":[1],"data_offsets":[0,4],"x":1}}', 4), 'bad_tensor'],
  ['negative dimension', file('{"w":{"dtype":"F32","shape":[-1],"data_offsets":[0,4]}}', 4), 'bad_tensor'],
  ['fractional dimension', file('{"w":{"dtype":"F32","shape":[1.5],"data_offsets":[0,6]}}', 6), 'bad_tensor'],
  ['rank 9', file('{"w":{"dtype":"F32","shape":[1,1,1,1,1,1,1,1,1],"data_offsets":[0,4]}}', 4), 'bad_tensor'],
  [
    'overflowing shape',
    file('{"w":{"dtype":"F32","shape":[4294967296,4294967296,4],"data_offsets":[0,0]}}', 0),
    'bad_offsets',
  ],
  ['reversed offsets', file('{"w":{"dtype":"F32","shape":[1],"data_offsets":[4,0]}}', 4), 'bad_offsets'],
  ['offsets of the wrong length', file('{"w":{"dtype":"F32","shape":[2],"data_offsets":[0,4]}}', 4), 'bad_offsets'],
  ['out of range', file('{"w":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}', 3), 'truncated'],
  ['hole at the start', file('{"w":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}}', 8), 'bad_offsets'],
  ['bytes left over', file(`{${W}}`, 5), 'bad_offsets'],
  ['overlap', file(`{${W},"v":{"dtype":"F32","shape":[1],"data_offsets":[2,6]}}`, 6), 'bad_offsets'],
  ['same range twice', file(`{${W},"v":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}`, 4), 'bad_offsets'],
  ['metadata not strings', file('{"__metadata__":{"a":1}}', 0), 'bad_header'],
  ['metadata a list', file('{"__metadata__":[]}', 0), 'bad_header'],
  ['tensor is null', file('{"w":null}', 0), 'bad_tensor'],
  ['zip (PyTorch)', Buffer.from('PK\u0003\u0004aaaaaaaaaaaaaaaa', 'latin1'), 'wrong_format'],
  ['pickle', Buffer.from('\u0080\u0002}q\u0000aaaaaaaaaa', 'latin1'), 'wrong_format'],
  ['GGUF', Buffer.from('GGUF\u0003\u0000\u0000\u0000aaaaaaa', 'latin1'), 'wrong_format'],
  ['git-lfs pointer', Buffer.from('version https://git-lfs.github.com/spec/v1\n'), 'wrong_format'],
];
for (const [what, bytes, code] of hostile) {
  test(`refused: ${what}`, () => {
    writeFileSync(path('hostile.safetensors'), bytes);
    assert.throws(
      () => readSafetensors(path('hostile.safetensors')),
      (error) => error instanceof SafetensorsError && error.code === code,
    );
  });
}

test('65,537 tensors are refused', () => {
  const header = JSON.stringify(
    Object.fromEntries(
      Array.from({ length: 65_537 }, (_, i) => [i, { dtype: 'U8', shape: [0], data_offsets: [0, 0] }]),
    ),
  );
  writeFileSync(path('many.safetensors'), file(header, 0));
  assert.throws(() => openSafetensors(path('many.safetensors')), /65537 tensors, the limit is 65536/);
});

test('shards of an indexed folder are one store', async () => {
  const shard = path('sharded');
  await writeSafetensors(join(shard, 'model-00001-of-00002.safetensors'), [
    ['a', fromFloat32(Float32Array.of(1), [1])],
  ]);
  await writeSafetensors(join(shard, 'model-00002-of-00002.safetensors'), [
    ['b', fromFloat32(Float32Array.of(2), [1], 'bf16')],
    ['c', fromFloat32(Float32Array.of(3), [1])],
  ]);
  const index = {
    metadata: {},
    weight_map: { a: 'model-00001-of-00002.safetensors', b: 'model-00002-of-00002.safetensors' },
  };
  writeFileSync(join(shard, 'model.safetensors.index.json'), JSON.stringify(index));
  const store = openSafetensors(shard);
  assert.deepEqual([...store.tensors.keys()], ['a', 'b']);
  assert.deepEqual(store.unindexed, ['c']);
  assert.deepEqual([...toFloat32(store.tensors.get('b')!.read())], [2]);
  store.close();
});

for (const shard of [
  '../a.safetensors',
  '/etc/passwd',
  'x/../../a.safetensors',
  'a.bin',
  'a.safetensors\u0000',
  '..\\a.safetensors',
  '.hidden.safetensors',
  3,
]) {
  test(`an index that names ${JSON.stringify(shard)} is refused`, () => {
    writeFileSync(path('evil.safetensors.index.json'), JSON.stringify({ weight_map: { w: shard } }));
    assert.throws(
      () => openSafetensors(path('evil.safetensors.index.json')),
      (error) => error instanceof SafetensorsError && error.code === 'bad_index',
    );
  });
}

test('an index that names a tensor its shard lacks is refused by name', async () => {
  await writeSafetensors(path('real.safetensors'), [['a', fromFloat32(Float32Array.of(1), [1])]]);
  writeFileSync(path('lost.safetensors.index.json'), JSON.stringify({ weight_map: { gone: 'real.safetensors' } }));
  assert.throws(
    () => openSafetensors(path('lost.safetensors.index.json')),
    /gone is in real\.safetensors, but it is not/,
  );
});

test('mutated files are refused or read, never anything else', async () => {
  await writeSafetensors(path('seed.safetensors'), [
    ['a', fromFloat32(Float32Array.of(1, 2, 3), [3])],
    ['b', { dtype: 'u8', shape: [2], data: Uint8Array.of(1, 2) }],
  ]);
  const seed = readFileSync(path('seed.safetensors'));
  const edit = fc.tuple(fc.nat(seed.length - 1), fc.nat(255));
  fc.assert(
    fc.property(
      fc.array(edit, { minLength: 1, maxLength: 6 }),
      fc.nat(seed.length),
      fc.boolean(),
      (edits, cut, truncate) => {
        const bytes = Uint8Array.from(truncate ? seed.subarray(0, cut) : seed);
        for (const [at, value] of edits) if (at < bytes.length) bytes[at] = value;
        writeFileSync(path('mutant.safetensors'), bytes);
        try {
          readSafetensors(path('mutant.safetensors'));
        } catch (error) {
          assert.ok(error instanceof SafetensorsError, String(error));
        }
      },
    ),
    { numRuns: 2000 },
  );
});

const oracles = new URL('../../../../shared/oracles/mantis-siglip', import.meta.url).pathname;
test('a checkpoint written by the reference library opens', {
  skip: existsSync(oracles) ? false : `${oracles} is absent`,
}, () => {
  const store = openSafetensors(oracles);
  assert.ok(store.tensors.size > 50);
  for (const tensor of store.tensors.values()) assert.ok(toFloat32(tensor.read()).every(Number.isFinite), tensor.name);
  store.close();
});
