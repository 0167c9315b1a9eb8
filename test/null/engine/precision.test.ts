import assert from 'node:assert/strict';
import { existsSync, readFileSync } from 'node:fs';
import { describe, it } from 'node:test';
import {
  parsePrecision,
  storageFor,
  WEIGHT_FORMATS,
  type WeightFormat,
} from '../../../gpu-backend/engine/precision.ts';
import { type AccuracyRecord, storedAccuracy } from '../../../gpu-backend/engine/precision-accuracy.ts';
import { lastCacheBytes } from '../../../gpu-backend/engine/precision-machine.ts';
import { decidePrecision, describePrecision } from '../../../gpu-backend/engine/precision-policy.ts';
import type { FormatTiming } from '../../../gpu-backend/engine/precision-probe.ts';
import { decoderWeights, noiseWeights, shrinkDecoder } from '../../../gpu-backend/engine/precision-shrink.ts';
import type { KvFormat } from '../../../gpu-backend/models/decode.ts';
import { nanoConfig } from '../../../gpu-backend/models/presets.ts';

const NO_FAULTS = { weights: {}, kv: null };

const timing = (weights: WeightFormat, kv: KvFormat, one: number, eight: number): FormatTiming => ({
  weights,
  kv,
  stepMs: [one, eight],
  prefillTokensPerS: 1000,
});

function accuracyOf(rows: readonly (readonly [WeightFormat, KvFormat, number])[]): AccuracyRecord {
  return {
    bench: 'precision',
    model: 'nano',
    task: 'a task',
    prompts: 100,
    runtimeVersion: '1',
    rows: rows.map(([weights, kv, agreement]) => ({ weights, kv, agreement, meanKl: 0, maxKl: 0 })),
  };
}

const accuracy = accuracyOf([
  ['f32', 'int8', 0.999],
  ['w8a8', 'f32', 0.992],
  ['w8a8', 'int8', 0.991],
  ['int8', 'f32', 0.995],
  ['int8', 'int8', 0.9],
  ['int4', 'f32', 0.96],
]);

describe('precision as an operator writes it', () => {
  it('takes auto, formats and parts', () => {
    assert.equal(parsePrecision('auto'), 'auto');
    assert.deepEqual(parsePrecision('f32'), { name: 'f32' });
    assert.deepEqual(parsePrecision('w8a8'), { name: 'w8a8', storage: storageFor('w8a8') });
    assert.deepEqual(parsePrecision('decoder=int4,head=int8,block=32'), {
      name: 'decoder=int4,head=int8,block=32',
      storage: { precision: { vision: 'f32', projector: 'f32', decoder: 'int4', head: 'int8' }, blockSize: 32 },
    });
    assert.deepEqual(parsePrecision('w8a8,vision=f32'), {
      name: 'w8a8,vision=f32',
      storage: {
        precision: { vision: 'f32', projector: 'int8', decoder: 'int8', head: 'int8' },
        blockSize: 64,
        w8a8: 'all',
      },
    });
    assert.deepEqual(parsePrecision('decoder=f32'), { name: 'decoder=f32' });
  });
  it('gives the head of an int4 decoder eight bits unless it is named', () => {
    const choice = parsePrecision('decoder=int4');
    assert.ok(choice !== 'auto');
    assert.equal(choice.storage?.precision.head, 'int8');
  });
  it('says what is not understood', () => {
    for (const wrong of ['', 'int3', 'decoder', 'int8,int4', 'decoder=int8=int4', 'vision=f16', 'tower=int8'])
      assert.throws(() => parsePrecision(wrong), /expected auto, one of f32/, wrong);
    assert.throws(() => parsePrecision('int4,block=33'), /block: expected one of 16, 32, 64/);
    assert.throws(() => parsePrecision('int8,head=w8a8'), /received both/);
  });
  it('has blocks of the size that a name says', () => {
    assert.deepEqual(
      WEIGHT_FORMATS.map((format) => storageFor(format)?.blockSize),
      [undefined, 32, 32, 64, 32, 64, 128],
    );
  });
});

describe('the choice of a format', () => {
  const timings = [
    timing('f32', 'f32', 10, 20),
    timing('w8a8', 'f32', 9, 8),
    timing('int8', 'f32', 5, 15),
    timing('int4', 'f32', 2, 6),
    timing('f32', 'int8', 11, 21),
    timing('w8a8', 'int8', 9, 7),
    timing('int8', 'int8', 1, 1),
  ];

  it('is the fastest accurate one at the load of the server', () => {
    const many = decidePrecision({ timings, faults: NO_FAULTS }, accuracy, 16);
    assert.deepEqual([many.weights, many.kv], ['w8a8', 'int8']);
    assert.match(many.reason, /2\.86 times as fast as f32 with f32 keys and values at eight rows, and keeps 99\.1 %/);
    const one = decidePrecision({ timings, faults: NO_FAULTS }, accuracy, 1);
    assert.deepEqual([one.weights, one.kv], ['int8', 'f32']);
  });
  it('stays with f32 where little is gained', () => {
    const few = [timing('f32', 'f32', 10, 20), timing('w8a8', 'f32', 9, 17), timing('f32', 'int8', 9, 17.1)];
    const { weights, kv, reason } = decidePrecision({ timings: few, faults: NO_FAULTS }, accuracy, 8);
    assert.deepEqual([weights, kv], ['f32', 'f32']);
    assert.match(reason, /1\.18 times as fast .* less than the 1\.25/);
  });
  it('leaves out what the machine computes wrongly, and says what came', () => {
    const faults = { weights: { w8a8: 'expected 1, received 2' }, kv: 'expected 3, received 4' };
    const right = timings.filter(({ weights, kv }) => weights !== 'w8a8' && kv === 'f32');
    const { weights, kv, lines } = decidePrecision({ timings: right, faults }, accuracy, 8);
    assert.deepEqual([weights, kv], ['int8', 'f32']);
    const against = (w: WeightFormat, k: KvFormat) => lines.find((one) => one.weights === w && one.kv === k)?.against;
    assert.match(against('w8a8', 'f32') ?? '', /computed wrongly here: expected 1, received 2/);
    assert.match(against('f32', 'int8') ?? '', /expected 3, received 4/);
    assert.match(against('int4', 'f32') ?? '', /fewer than 99\.0 %/);
    assert.equal(against('int4/32', 'f32'), 'accuracy not measured');
  });
  it('keeps what an operator fixed and chooses the rest', () => {
    const table = { timings, faults: NO_FAULTS };
    const kv = decidePrecision(table, accuracy, 8, { weights: 'w8a8', kv: 'auto' });
    assert.deepEqual([kv.weights, kv.kv], ['w8a8', 'int8']);
    const weights = decidePrecision(table, accuracy, 8, { weights: 'auto', kv: 'f32' });
    assert.deepEqual([weights.weights, weights.kv], ['w8a8', 'f32']);
    const inaccurate = decidePrecision(table, accuracy, 8, { weights: 'int4', kv: 'auto' });
    assert.deepEqual([inaccurate.weights, inaccurate.kv], ['int4', 'f32']);
  });
  it('prints one line a format, the chosen one marked', () => {
    const decision = decidePrecision({ timings, faults: NO_FAULTS }, accuracy, 16);
    const lines = describePrecision(decision, () => 2 ** 20);
    assert.equal(lines.length, 1 + 2 * WEIGHT_FORMATS.length);
    assert.deepEqual(
      lines.filter((line) => line.startsWith('*')).map((line) => line.split(/\s+/).slice(1, 7)),
      [['w8a8', 'int8', '1.0', '9', '7', '1000']],
    );
  });
});

describe('the decoder that is timed', () => {
  const llama = { vocab: 49_152, imageToken: 3, bosToken: 1, eosTokens: [2], padToken: 0, layers: 30 } as const;
  const large = nanoConfig({ ...llama, hidden: 576, heads: 9, kvHeads: 3, intermediate: 1536 });
  const larger = nanoConfig({ ...llama, hidden: 4096, heads: 32, kvHeads: 8, intermediate: 14_336 });
  it('is the model itself where it is small', () => {
    const nano = nanoConfig({ vocab: 640, imageToken: 3, bosToken: null, eosTokens: [], padToken: null });
    const { config, factor } = shrinkDecoder(nano);
    assert.equal(factor, 1);
    assert.equal(decoderWeights(config), decoderWeights(nano));
  });
  it('is worth as many of the whole as its factor says', () => {
    for (const whole of [large, larger]) {
      const { config, factor } = shrinkDecoder(whole);
      assert.ok(decoderWeights(config) < 9_000_000, `${decoderWeights(config)}`);
      const ratio = (decoderWeights(config) * factor) / decoderWeights(whole);
      assert.ok(Math.abs(ratio - 1) < 0.02, `${ratio}`);
    }
  });
  it('has weights of ordinary size', () => {
    const { config } = shrinkDecoder(large, 100_000);
    for (const [name, { data, shape }] of noiseWeights(config)) {
      if (shape.length < 2) continue;
      const square = (data as Float32Array).reduce((sum, x) => sum + x * x, 0) / data.length;
      assert.ok(Math.abs(square * (shape.at(-1) ?? 1) - 1) < 0.2, `${name}: ${square}`);
    }
  });
  it('reads the size of the last cache, or takes a usual one', () => {
    assert.equal(lastCacheBytes('/no/such/folder'), 32 * 2 ** 20);
    assert.ok(lastCacheBytes() >= 2 ** 18);
  });
});

describe('the stored accuracy', () => {
  it('has a line for every format, and is the stored result of the benchmark', () => {
    const record = storedAccuracy();
    for (const weights of WEIGHT_FORMATS)
      for (const kv of ['f32', 'int8'])
        if (weights !== 'f32' || kv !== 'f32')
          assert.ok(
            record.rows.some((row) => row.weights === weights && row.kv === kv),
            `${weights} ${kv}`,
          );
    const stored = new URL('../../bench/results/precision.json', import.meta.url);
    assert.ok(existsSync(stored));
    assert.deepEqual(JSON.parse(readFileSync(stored, 'utf8')), record);
  });
});
