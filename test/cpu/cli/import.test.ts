import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { existsSync } from 'node:fs';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, describe, it } from 'node:test';
import { fileURLToPath } from 'node:url';
import { loadCheckpoint } from '../../../gpu-backend/models/load.ts';
import { writeRandomNano } from '../../fixtures/random-nano.ts';

const BIN = fileURLToPath(new URL('../../../gpu-backend/cli/mantis.mjs', import.meta.url));
const PICTURE = fileURLToPath(new URL('../../fixtures/pictures/yellow-circle.png', import.meta.url));

async function mantis(...args: string[]): Promise<{ code: number | null; out: string; err: string }> {
  const child = spawn(process.execPath, [BIN, ...args], {
    stdio: ['ignore', 'pipe', 'pipe'],
    env: { PATH: process.env.PATH },
  });
  let [out, err] = ['', ''];
  child.stdout.on('data', (chunk: Buffer) => (out += chunk.toString()));
  child.stderr.on('data', (chunk: Buffer) => (err += chunk.toString()));
  const code = await new Promise<number | null>((resolve) => child.once('close', resolve));
  return { code, out, err };
}

describe('mantis import, inspect, export', () => {
  let dir: string;
  before(async () => {
    dir = await mkdtemp(join(tmpdir(), 'mantis-import-cli-'));
    await writeRandomNano(join(dir, 'nano'));
  });
  after(() => rm(dir, { recursive: true, force: true }));

  it('go from a checkpoint to an answer and back', async () => {
    const [nano, quantized, back] = [join(dir, 'nano'), join(dir, 'int4'), join(dir, 'back')];
    const imported = await mantis(
      'import',
      nano,
      '--out',
      quantized,
      '--precision',
      'int4',
      '--projector',
      'f16',
      '--json',
    );
    assert.equal(imported.code, 0, imported.err);
    assert.match(imported.err, /vision int8, projector f16, decoder int4, head int8; blocks of 32/);
    const report = JSON.parse(imported.out) as Record<string, unknown>;
    assert.equal(report.outcome, 'imported');
    assert.ok(Number(report.peakRssBytes) < 1.2e9);

    const inspected = await mantis('inspect', quantized);
    assert.equal(inspected.code, 0, inspected.err);
    assert.match(inspected.out, /stored as +vision int8, projector f16, decoder int4, head int8/);
    assert.match(inspected.out, /tokens per image +16, 26 with the text around it/);

    const answered = await mantis('ask', '--local', quantized, '-i', PICTURE, '--max-tokens', '4', 'What is it?');
    assert.equal(answered.code, 0, answered.err);
    assert.ok(answered.out.trim().length > 0);

    const exported = await mantis('export', quantized, '--out', back, '--dtype', 'f32');
    assert.equal(exported.code, 0, exported.err);
    assert.match(exported.err, /\d+ of them were quantised: they hold the values that the quantised weights stand for/);
    assert.deepEqual([...loadCheckpoint(back).weights.keys()].sort(), [...loadCheckpoint(nano).weights.keys()].sort());
  });

  it('say what is wrong in one sentence', async () => {
    const out = join(dir, 'never');
    const cases: readonly (readonly [string[], number, RegExp])[] = [
      [
        ['import', join(dir, 'nano'), '--out', out, '--precision', 'int3'],
        2,
        /Allowed choices are f32, f16, int8, int4/,
      ],
      [['import', join(dir, 'nano'), '--out', out, '--block', '48'], 2, /Expected one of 16, 32, 64, 128, 256/],
      [
        ['import', join(dir, 'nowhere'), '--out', out],
        2,
        /expected a checkpoint folder or a hub id such as owner\/name/,
      ],
      [['import', join(dir, 'nano'), '--out', dir], 1, /exists and is not this import/],
      [['inspect', join(dir, 'nowhere')], 2, /expected a checkpoint folder with a config\.json/],
      [['export', join(dir, 'nano'), '--out', dir], 1, /is not empty/],
    ];
    for (const [args, code, message] of cases) {
      const result = await mantis(...args);
      assert.equal(result.code, code, `${args.join(' ')}: ${result.err}`);
      assert.match(result.err, message);
    }
    assert.ok(!existsSync(out) && !existsSync(`${out}.partial`));
  });
});
