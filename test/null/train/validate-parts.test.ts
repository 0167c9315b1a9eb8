import assert from 'node:assert/strict';
import { createHash } from 'node:crypto';
import { mkdtemp, readFile, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import test from 'node:test';
import type { Message } from '../../../gpu-backend/text/layout.ts';
import { Column, u32 } from '../../../gpu-backend/train/validate/columns.ts';
import { DigestIndex } from '../../../gpu-backend/train/validate/digest-index.ts';
import { sampleEntries } from '../../../gpu-backend/train/validate/estimate-sample.ts';
import { hashDistance, signPicture, thumbDistance } from '../../../gpu-backend/train/validate/picture-signature.ts';
import { ProblemLog } from '../../../gpu-backend/train/validate/problem-log.ts';
import { spreadOf } from '../../../gpu-backend/train/validate/summary.ts';
import { bandsOf, overlap, shinglesOf } from '../../../gpu-backend/train/validate/text-signature.ts';
import type { DatasetProblem } from '../../../shared/contract/datasets.ts';

const digestOf = (text: string): string => createHash('sha256').update(text).digest('hex');

test('an index of digests numbers them as a map would', () => {
  const index = new DigestIndex();
  const map = new Map<string, number>();
  for (let i = 0; i < 20_000; i++) {
    const digest = digestOf(String((i * 7_919) % 12_000));
    const known = map.get(digest);
    assert.deepEqual(index.add(digest), { number: known ?? map.size, isNew: known === undefined });
    if (known === undefined) map.set(digest, map.size);
  }
  assert.equal(index.size, map.size);
  for (const [digest, number] of map) assert.equal(index.get(digest), number);
  assert.equal(index.get(digestOf('never')), undefined);
  // Only the first word is equal: a match must be one of all 128 bits.
  const twin = `${digestOf('0').slice(0, 24)}${'f'.repeat(40)}`;
  assert.equal(index.get(twin), undefined);
});

test('a column grows and refuses places that it does not have', () => {
  const column = u32();
  for (let i = 0; i < 1_000; i++) column.push(i * i);
  assert.deepEqual([column.length, column.get(0), column.get(999)], [1_000, 0, 998_001]);
  assert.throws(() => column.get(1_000), /entry 1000 of 1000/);
  column.set(3, 7);
  assert.equal(column.get(3), 7);
  assert.ok(column instanceof Column);
});

const said = (text: string): Message[] => [
  { role: 'user', parts: [{ type: 'text', text }] },
  { role: 'assistant', parts: [{ type: 'text', text: 'yes' }] },
];

test('texts overlap by their runs of three words, whatever their case and punctuation', () => {
  const words = Array.from({ length: 60 }, (_, i) => `word${i}`);
  const whole = shinglesOf(said(words.join(' ')));
  assert.equal(overlap(whole, shinglesOf(said(`  ${words.join(', ').toUpperCase()}!`))), 1);
  const one = shinglesOf(said(words.with(30, 'other').join(' ')));
  // One word in sixty is part of three runs: 57 + 5 turns' runs are common, 6 are not.
  assert.ok(overlap(whole, one) > 0.85 && overlap(whole, one) < 0.95, String(overlap(whole, one)));
  assert.equal(overlap(whole, shinglesOf(said('something else altogether'))), 0);
  assert.equal(overlap(shinglesOf([]), shinglesOf([])), 1);
  // Who says it counts.
  assert.notEqual(overlap(whole, shinglesOf([{ role: 'assistant', parts: said(words.join(' '))[0]?.parts ?? [] }])), 1);
});

test('texts that overlap to 0.8 share a key nearly always, others hardly ever', () => {
  let [found, strangers, pairs] = [0, 0, 0];
  for (let n = 0; n < 300; n++) {
    const words = Array.from({ length: 60 }, (_, i) => `w${(n * 977 + i * 31) % 9_000}`);
    const changed = words.map((word, i) => (i === 11 || i === 41 ? `${word}x` : word));
    const [a, b] = [shinglesOf(said(words.join(' '))), shinglesOf(said(changed.join(' ')))];
    assert.ok(overlap(a, b) >= 0.79, String(overlap(a, b)));
    const stranger = shinglesOf(said(Array.from({ length: 60 }, (_, i) => `v${n} ${i}`).join(' ')));
    const shares = (x: Uint32Array, y: Uint32Array): boolean => x.some((key, i) => key === y[i]);
    pairs++;
    if (shares(bandsOf(a), bandsOf(b))) found++;
    if (shares(bandsOf(a), bandsOf(stranger))) strangers++;
  }
  assert.ok(found >= 0.99 * pairs, `${found} of ${pairs}`);
  assert.equal(strangers, 0);
});

test('a picture signature survives brightness, and tells other pictures apart', () => {
  const make = (value: (x: number, y: number) => number) => {
    const pixels_CHW = new Float32Array(3 * 40 * 30);
    for (let c = 0; c < 3; c++)
      for (let y = 0; y < 30; y++) for (let x = 0; x < 40; x++) pixels_CHW[c * 1_200 + y * 40 + x] = value(x, y);
    return signPicture({ pixels_CHW, width: 40, height: 30 }, { mean: [0, 0, 0], std: [1, 1, 1] });
  };
  const slope = (x: number, y: number): number => 0.5 + 0.4 * Math.sin(x / 5) * Math.cos(y / 7);
  const [one, brighter, other, flat] = [
    make(slope),
    make((x, y) => slope(x, y) * 0.9 + 0.05),
    make((x, y) => slope(y, x)),
    make(() => 0.25),
  ];
  assert.ok(hashDistance(one.hash, brighter.hash) <= 2);
  assert.ok(hashDistance(one.hash, other.hash) > 10);
  assert.ok(thumbDistance(one.thumb_CHW, brighter.thumb_CHW) < thumbDistance(one.thumb_CHW, other.thumb_CHW));
  assert.equal(thumbDistance(one.thumb_CHW, one.thumb_CHW), 0);
  assert.deepEqual([flat.hash, flat.range, flat.thumb_CHW[0]], [0n, 0, 64]);
  assert.equal(hashDistance(0n, 0xffff_ffff_ffff_ffffn), 64);
});

const problem = (line: number, severity: 'error' | 'warning', data: number | 'validation' = 0): DatasetProblem => ({
  severity,
  code: `${severity}_code`,
  message: 'expected one thing, received another',
  data,
  subset: null,
  line,
  message_index: null,
  part_index: null,
  param: null,
});

test('all problems are counted and in the file; errors are listed before warnings, in the order of the data', async (t) => {
  const dir = await mkdtemp(join(tmpdir(), 'mantis-problems-'));
  t.after(() => rm(dir, { recursive: true, force: true }));
  const log = await ProblemLog.create(join(dir, 'problems.jsonl'), 4);
  for (let line = 1; line <= 5; line++) log.add(problem(line, 'warning'));
  log.add(problem(2, 'error', 'validation'));
  log.add(problem(9, 'error'));
  assert.equal(log.isCut, true);
  await log.close();
  assert.deepEqual(log.counts(), { warning_code: 5, error_code: 2 });
  assert.deepEqual(
    log.listed().map(({ severity, data, line }) => [severity, data, line]),
    [
      ['warning', 0, 1],
      ['warning', 0, 2],
      ['error', 0, 9],
      ['error', 'validation', 2],
    ],
  );
  const lines = (await readFile(log.path, 'utf8')).trim().split('\n');
  assert.equal(lines.length, 7);
  assert.deepEqual(JSON.parse(lines[5] ?? ''), problem(2, 'error', 'validation'));
});

test('a spread is told by its ends and middles', () => {
  const values = Uint32Array.from({ length: 100 }, (_, i) => 100 - i);
  assert.deepEqual(spreadOf(values), { total: 5_050, min: 1, median: 51, p95: 96, max: 100 });
  assert.deepEqual(spreadOf(new Uint32Array()), { total: 0, min: 0, median: 0, p95: 0, max: 0 });
});

test('a measured sample has the longest example, and others from everywhere', () => {
  const entries = Array.from({ length: 100 }, (_, i) => i);
  const sample = sampleEntries(entries, (entry) => (entry === 37 ? 900 : entry), 10);
  assert.equal(sample[0], 37);
  assert.equal(sample.length, 10);
  assert.ok(Math.max(...sample.slice(1)) > 80 && Math.min(...sample.slice(1)) < 20);
});
