import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, describe, it } from 'node:test';
import { fileURLToPath } from 'node:url';
import sharp from 'sharp';
import { writeRandomNano } from '../../fixtures/random-nano.ts';

const BIN = fileURLToPath(new URL('../../../gpu-backend/cli/mantis.mjs', import.meta.url));
const CASES = fileURLToPath(new URL('../../fixtures/checkpoints', import.meta.url));

async function mantis(...args: string[]): Promise<{ code: number | null; out: string; err: string }> {
  const child = spawn(process.execPath, [BIN, ...args], {
    stdio: ['ignore', 'pipe', 'pipe'],
    cwd: tmpdir(), // it is run from anywhere
    env: { PATH: process.env.PATH },
  });
  let [out, err] = ['', ''];
  child.stdout.on('data', (chunk: Buffer) => (out += chunk.toString()));
  child.stderr.on('data', (chunk: Buffer) => (err += chunk.toString()));
  const code = await new Promise<number | null>((resolve) => child.once('close', resolve));
  return { code, out, err };
}

const lastLine = (text: string) => JSON.parse(text.trim().split('\n').at(-1) ?? '') as Record<string, unknown>;

/** An NLVR split of our own: boxes of one colour, statements that need no reading. */
async function writeSplit(dir: string): Promise<void> {
  const boxes = await Promise.all(
    ['#ff0000', '#00ff00', '#0000ff'].map((background) =>
      sharp({ create: { width: 100, height: 100, channels: 3, background } })
        .png()
        .toBuffer(),
    ),
  );
  const index = new Uint32Array(2 * boxes.length);
  for (const [box, png] of boxes.entries()) {
    const offset = box === 0 ? 0 : index[2 * box - 2]! + index[2 * box - 1]!;
    index.set([offset, png.byteLength], 2 * box);
  }
  const lines = Array.from({ length: 4 }, (_, i) => ({
    id: `e${i}`,
    group: `g${i % 2}`,
    statement: `there is box ${i}`,
    label: i % 2 === 0,
    boxes: [
      [0, 1, 2],
      [2, 1, 0],
    ],
  }));
  await writeFile(join(dir, 'own.box.bin'), Buffer.concat(boxes));
  await writeFile(join(dir, 'own.box.idx'), Buffer.from(index.buffer));
  await writeFile(join(dir, 'own.jsonl'), lines.map((line) => JSON.stringify(line)).join('\n'));
}

describe('mantis', () => {
  let dir: string;
  let model: string;
  let picture: string;
  before(async () => {
    dir = await mkdtemp(join(tmpdir(), 'mantis-cli-'));
    model = join(dir, 'nano');
    picture = join(dir, 'a.png');
    await Promise.all([
      writeRandomNano(model),
      sharp({ create: { width: 30, height: 30, channels: 3, background: '#123456' } })
        .png()
        .toFile(picture),
      writeSplit(dir),
    ]);
  });
  after(() => rm(dir, { recursive: true, force: true }));

  it('--help lists every command with what it is for', async () => {
    const { code, out } = await mantis('--help');
    assert.equal(code, 0);
    for (const name of ['ask', 'finetune', 'models', 'train', 'eval', 'verify', 'serve'])
      assert.match(out, new RegExp(`^  ${name} `, 'm'));
  });

  it('ask --local answers from a folder, the same every time', async () => {
    const args = ['ask', '--local', model, '-i', picture, '--image', picture, 'What is it?', '--max-tokens', '6'];
    const [first, second] = [await mantis(...args), await mantis(...args)];
    assert.equal(first.code, 0, first.err);
    assert.ok(first.out.length > 1);
    assert.equal(first.out, second.out);
  });

  it('verify passes our reference cases and ends with one line of JSON', async () => {
    const { code, out, err } = await mantis('verify', join(CASES, 'tiny-siglip'), join(CASES, 'tiny-clip'), '--json');
    assert.equal(code, 0, err);
    const report = lastLine(out);
    assert.equal(report.ok, true);
    assert.equal(report.failed, 0);
    assert.ok(Number(report.checks) >= 8);
  });

  it('eval nlvr scores a split of the folder format and ends with one line of JSON', async () => {
    const { code, out, err } = await mantis(
      'eval',
      'nlvr',
      '--data',
      dir,
      '--split',
      'own',
      '--model',
      model,
      '--threads',
      '1',
      '--out',
      join(dir, 'run'),
      '--json',
    );
    assert.equal(code, 0, err);
    const report = lastLine(out);
    assert.deepEqual([report.examples, report.groups, report.answers], [4, 2, 8]);
    assert.ok(typeof report.accuracy === 'number' && typeof report.consistency === 'number');
    const shown = await mantis('eval', 'show', join(dir, 'run'), '--json');
    assert.equal(shown.code, 0, shown.err);
    const whole = lastLine(shown.out) as { specHash?: unknown; headline?: { mean: unknown } };
    assert.deepEqual([whole.specHash, whole.headline?.mean], [report.specHash, report.accuracy]);
  });

  const mistakes: [string, string[], number, RegExp][] = [
    [
      'an image that is none',
      ['ask', '--local', 'MODEL', '-i', BIN, 'hi'],
      2,
      /mantis\.mjs: .*expected a JPEG, PNG, WebP or GIF/,
    ],
    [
      'an image that is not there',
      ['ask', '--local', 'MODEL', '-i', '/no/such.png', 'hi'],
      2,
      /cannot read \/no\/such\.png/,
    ],
    ['no key', ['ask', 'hi'], 2, /MANTIS_API_KEY/],
    ['no server', ['models', '--api-key', 'x', '--url', 'http://127.0.0.1:1'], 1, /is the server running/],
    ['no reference folder', ['verify', '/no/such'], 2, /expected a folder/],
    ['no split', ['eval', 'nlvr', '--data', '/no/such'], 2, /dev\./],
    ['an unknown option', ['ask', '--colour', 'red', 'hi'], 2, /unknown option.*--help/s],
  ];
  for (const [name, args, code, message] of mistakes)
    it(`${name}: one sentence, exit code ${code}`, async () => {
      const result = await mantis(...args.map((arg) => (arg === 'MODEL' ? model : arg)));
      assert.equal(result.code, code, result.err);
      assert.match(result.err, message);
      assert.doesNotMatch(result.err, /\n {4}at /);
    });
});
