import assert from 'node:assert/strict';
import { mkdtempSync, readdirSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, describe, it } from 'node:test';
import { fileURLToPath } from 'node:url';
import { cacheScope } from '../../../gpu-backend/engine/feature-key.ts';
import type { CompileOptions } from '../../../gpu-backend/engine/load-model.ts';
import { ModelPool } from '../../../gpu-backend/engine/model-pool.ts';
import { AUTO_PRECISION, parsePrecision, storageFor, WEIGHT_FORMATS } from '../../../gpu-backend/engine/precision.ts';
import { choosePrecision, type PrecisionContext, weightBytes } from '../../../gpu-backend/engine/precision-choice.ts';
import { findKernelFaults } from '../../../gpu-backend/engine/precision-exactness.ts';
import { precisionTable } from '../../../gpu-backend/engine/precision-table.ts';
import { capacityFor } from '../../../gpu-backend/engine/scheduler/capacity.ts';
import { readConfig } from '../../../gpu-backend/models/load.ts';

const nano = fileURLToPath(new URL('../../../gpu-backend/models/nano', import.meta.url));
const folder = mkdtempSync(join(tmpdir(), 'mantis-precision-'));
after(() => rmSync(folder, { recursive: true, force: true }));
const context: PrecisionContext = { dirs: [nano], device: 'cpu', threads: 1, maxRows: 8, tables: folder };
const config = readConfig(nano);

describe('precision on this machine', () => {
  it('compares the kernels with sums at the ends of their ranges', async () => {
    const { weights, kv } = await findKernelFaults(1);
    // With VNNI all are exact; without it what is not is named with both numbers.
    for (const fault of [...Object.values(weights), kv ?? []].flat())
      assert.match(fault, /expected -?\d+, received -?\d+/);
    const flags = readFileSync('/proc/cpuinfo', 'utf8');
    if (/avx512_vnni|avx_vnni/.test(flags)) assert.deepEqual({ weights, kv }, { weights: {}, kv: null });
  });

  it('times formats in a process of its own once, and keeps the table', async () => {
    const table = await precisionTable(config, 1, ['f32', 'int8'], folder);
    const timed = table.timings.map(({ weights, kv }) => `${weights} ${kv}`);
    for (const line of ['f32 f32', 'int8 f32']) assert.ok(timed.includes(line), timed.join());
    for (const { stepMs, prefillTokensPerS } of table.timings) {
      assert.ok(stepMs[0] > 0 && stepMs[1] > 0 && Number.isFinite(stepMs[0] + stepMs[1]));
      assert.ok(prefillTokensPerS > 0);
    }
    const [file = ''] = readdirSync(folder);
    assert.deepEqual(await precisionTable(config, 1, ['int8'], folder), table);
    writeFileSync(join(folder, file), '{"version":');
    const again = await precisionTable(config, 1, ['f32'], folder);
    assert.deepEqual(again.formats, ['f32']);
  });

  it('chooses by the table, and prints it', async () => {
    const { lines, table, name } = await choosePrecision(AUTO_PRECISION, context);
    assert.ok(table !== null);
    assert.match(lines[0] ?? '', new RegExp(`^precision: weights ${name}, keys and values (f32|int8): `));
    assert.equal(lines.filter((line) => line.startsWith('*')).length, 1);
  });

  it('measures nothing where nothing is left to choose', async () => {
    const fixed = await choosePrecision({ weights: parsePrecision('w8a8'), kv: 'f32' }, context);
    assert.deepEqual([fixed.name, fixed.kv, fixed.table], ['w8a8', 'f32', null]);
    assert.equal(fixed.storage?.w8a8, 'all');
    const device = await choosePrecision(AUTO_PRECISION, { ...context, device: 'webgpu' });
    assert.deepEqual([device.name, device.kv, device.table], ['f32', 'f32', null]);
    const parts = await choosePrecision({ weights: parsePrecision('decoder=int4'), kv: 'auto' }, context);
    assert.deepEqual([parts.storage?.precision.decoder, parts.kv, parts.table], ['int4', 'f32', null]);
  });

  it('keeps apart what formats have computed: no scope of a cache is that of another', async () => {
    const compute = async (precision: Pick<CompileOptions, 'storage' | 'kv'>): Promise<string> => {
      const pool = new ModelPool({
        models: [],
        capacity: capacityFor({ maxRows: 1, kvTokens: 64 }),
        compile: { threads: 1, ...precision },
        featureCacheBytes: 0,
        maxOverlays: 0,
        fetchOverlay: () => Promise.reject(new Error('none')),
        onEngineDeath: () => {},
      });
      try {
        return pool.compute;
      } finally {
        await pool.close();
      }
    };
    const front = { checkpointDigest: 'a', visionDigest: 'b' };
    const scopes = new Set<string>();
    for (const format of WEIGHT_FORMATS)
      for (const kv of ['f32', 'int8'] as const) {
        const storage = storageFor(format);
        const how = await compute({ kv, ...(storage === undefined ? {} : { storage }) });
        scopes.add(cacheScope({ front, tenant: 'one', compute: how }));
      }
    assert.equal(scopes.size, 2 * WEIGHT_FORMATS.length);
  });

  it('counts the bytes that a format takes', () => {
    const f32 = weightBytes(config, undefined);
    const choice = parsePrecision('int8');
    assert.ok(choice !== 'auto');
    const int8 = weightBytes(config, choice.storage);
    // The file has names and shapes besides.
    const { size } = statSync(join(nano, 'model.safetensors'));
    assert.ok(f32 <= size && f32 > 0.99 * size, `${f32} of ${size}`);
    assert.ok(int8 < 0.36 * f32, `${int8}`);
  });
});
