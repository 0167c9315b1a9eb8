/** The command line against the whole product: what a person types. */
import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, describe, it } from 'node:test';
import { fileURLToPath } from 'node:url';
import sharp from 'sharp';
import { writeRandomNano } from '../../fixtures/random-nano.ts';
import { type Product, startProduct, stopAndForget } from '../e2e/product.ts';

const BIN = fileURLToPath(new URL('../../../gpu-backend/cli/mantis.mjs', import.meta.url));

/** What a server and a command line answer is compared word by word; left alone, each chooses formats for its own load. */
const EXACT = { MANTIS_PRECISION: 'f32', MANTIS_KV: 'f32' };

describe('mantis against the API', () => {
  let dir: string;
  let product: Product;
  let pictures: string[];
  before(async () => {
    dir = await mkdtemp(join(tmpdir(), 'mantis-cli-'));
    await writeRandomNano(join(dir, 'nano'));
    pictures = [join(dir, 'a.png'), join(dir, 'b.jpg')];
    await Promise.all(
      pictures.map((file, i) =>
        sharp({ create: { width: 40, height: 30 + i, channels: 3, background: i === 0 ? '#f00' : '#00f' } }).toFile(
          file,
        ),
      ),
    );
    product = await startProduct({ env: { MANTIS_MODELS: `mantis-nano=${join(dir, 'nano')}`, ...EXACT } });
  });
  after(async () => {
    await stopAndForget(product);
    await rm(dir, { recursive: true, force: true });
  });

  async function mantis(...args: string[]): Promise<{ code: number | null; out: string; err: string }> {
    const child = spawn(process.execPath, [BIN, ...args], {
      stdio: ['ignore', 'pipe', 'pipe'],
      env: { PATH: process.env.PATH, MANTIS_BASE_URL: product.url, MANTIS_API_KEY: product.apiKey, ...EXACT },
    });
    let [out, err] = ['', ''];
    child.stdout.on('data', (chunk: Buffer) => (out += chunk.toString()));
    child.stderr.on('data', (chunk: Buffer) => (err += chunk.toString()));
    const code = await new Promise<number | null>((resolve) => child.once('close', resolve));
    return { code, out, err };
  }

  it('lists the models with their limits', async () => {
    const { code, out } = await mantis('models');
    assert.equal(code, 0);
    assert.match(out, /^mantis-nano {2}512 tokens, up to \d+ images of 16 tokens$/m);
  });

  it('asks about pictures, and the answer is the one the engine gives without a server', async () => {
    const question = ['-i', pictures[0]!, '-i', pictures[1]!, 'What changed?', '--max-tokens', '12'];
    const [served, local] = await Promise.all([
      mantis('ask', ...question),
      mantis('ask', '--local', join(dir, 'nano'), ...question),
    ]);
    assert.equal(served.code, 0, served.err);
    assert.ok(served.out.trim().length > 0);
    assert.equal(served.out, local.out);
  });

  it('tunes a model, follows the job, and asks what came out', async () => {
    const png = await sharp(pictures[0]!).toBuffer();
    const line = JSON.stringify({
      messages: [
        {
          role: 'user',
          content: [
            { type: 'image_url', image_url: { url: `data:image/png;base64,${png.toString('base64')}` } },
            { type: 'text', text: 'Which?' },
          ],
        },
        { role: 'assistant', content: 'red' },
      ],
    });
    const file = join(dir, 'lesson.jsonl');
    await writeFile(file, Array(4).fill(line).join('\n'));
    const tuned = await mantis(
      'finetune',
      file,
      '--epochs',
      '2',
      '--batch-size',
      '2',
      '--suffix',
      'cli',
      '--seed',
      '1',
      '--rank',
      '4',
      '--dora',
    );
    assert.equal(tuned.code, 0, tuned.err);
    assert.match(tuned.err, /uploaded .*lesson\.jsonl as file-/);
    assert.match(tuned.err, /step 4\/4 100 %/);
    const model = tuned.out.trim();
    assert.match(model, /^ft:mantis-nano:[^:]+:cli:/);
    const answer = await mantis('ask', '--model', model, '-i', pictures[0]!, 'Which?', '--max-tokens', '4');
    assert.equal(answer.code, 0, answer.err);

    const listed = await mantis('jobs', 'list', '--json', '--limit', '1');
    const { id, status } = JSON.parse(listed.out) as { id: string; status: string };
    assert.equal(status, 'succeeded');
    const [table, events, checkpoints, followed, cancelled] = await Promise.all([
      mantis('jobs', 'list'),
      mantis('jobs', 'events', id),
      mantis('jobs', 'checkpoints', id),
      mantis('jobs', 'follow', id),
      mantis('jobs', 'pause', id),
    ]);
    assert.match(table.out, new RegExp(`${id}  succeeded +mantis-nano +lora`));
    assert.match(
      events.out.trim().split('\n').at(-1) ?? '',
      /^\d{4}-\d\d-\d\dT[\d:]+Z The job has successfully completed\.$/,
    );
    assert.match(checkpoints.out, /^4 +\d.* ft:mantis-nano:.*:ckpt-step-4$/m);
    assert.equal(followed.out.trim(), model);
    assert.match(followed.err, /step 4\/4 100 % loss \d.*stage 1 lora · epoch 2/);
    assert.equal(cancelled.code, 1);
    assert.match(cancelled.err, /^mantis: .*succeeded/m);
  });

  it('validates data with and without the server, and keeps datasets', async () => {
    const shown = await Promise.all(pictures.map(async (path) => (await readFile(path)).toString('base64')));
    const [red, blue] = [`data:image/png;base64,${shown[0]}`, `data:image/jpeg;base64,${shown[1]}`];
    const line = (url: string, answer: string) =>
      JSON.stringify({
        messages: [
          {
            role: 'user',
            content: [
              { type: 'image_url', image_url: { url } },
              { type: 'text', text: 'Which colour?' },
            ],
          },
          { role: 'assistant', content: answer },
        ],
      });
    const [good, bad] = [join(dir, 'good.jsonl'), join(dir, 'bad-half.jsonl')];
    await writeFile(good, `${line(red, 'red')}\n${line(blue, 'blue')}\n`);
    await writeFile(bad, `${line(red, 'red')}\n{"messages": 1}\n`);
    const checkpoint = join(dir, 'nano');
    const [served, local, refused, made] = await Promise.all([
      mantis('dataset', 'validate', good, '--epochs', '1'),
      mantis('dataset', 'validate', good, '--local', '--model', checkpoint, '--no-estimate'),
      mantis('dataset', 'validate', bad, '--local', '--model', checkpoint, '--json'),
      mantis('datasets', 'create', 'colours', good),
    ]);
    assert.equal(served.code, 0, served.err);
    assert.match(served.out, /^accepted: 2 of 2 examples can be trained on$/m);
    assert.match(served.out, /^training would take .* of memory on .*: 2 steps, \d+ tokens at [\d,]+ a second$/m);
    assert.equal(local.code, 0, local.err);
    // The same words about the same data, wherever it was read.
    assert.equal(local.out.trim(), served.out.slice(0, served.out.indexOf('\n\ntraining would take')).trim());
    assert.equal(refused.code, 1);
    const report = JSON.parse(refused.out) as { verdict: string; problems: { line: number; code: string }[] };
    assert.deepEqual(
      [report.verdict, ...report.problems.flatMap(({ line: at, code }) => [at, code])],
      ['refused', 1, 'image_uniform', 2, 'invalid_type'],
    );

    const id =
      /^(dataset_\w+) {2}colours, version 1: 1 file, /m.exec(made.out)?.[1] ?? assert.fail(made.out + made.err);
    const grown = await mantis('datasets', 'append', id, bad, '--name', 'half');
    assert.match(grown.out, /colours, version 2: 2 files/);
    const listed = await mantis('datasets', 'list');
    assert.match(listed.out, new RegExp(`^${id} +colours +2 +2 `, 'm'));
    const halved = await mantis('dataset', 'validate', id, '--epochs', '1');
    assert.equal(halved.code, 1);
    assert.match(halved.out, /^REFUSED: 3 of 4 examples.*25\.0 % of the lines are bad/m);
    assert.match(halved.out, /error half, line 2: .*\(invalid_type\)/);
    assert.equal((await mantis('datasets', 'delete', id)).out, `deleted ${id}\n`);
    assert.equal((await mantis('datasets', 'get', id)).code, 1);
  });

  it('what the API refuses is told in the API’s own sentence', async () => {
    const unknown = await mantis('ask', '--model', 'no-such-model', 'hi');
    assert.equal(unknown.code, 1);
    assert.match(unknown.err, /^mantis: .*no-such-model/m);
    const file = join(dir, 'bad.jsonl');
    await writeFile(file, '{"messages": []}\n');
    const misplaced = await mantis('finetune', file, '--stage', 'full', '--dora');
    assert.equal(misplaced.code, 2);
    assert.match(misplaced.err, /--rank and --dora are for --stage lora, not full/);
    const bad = await mantis('finetune', file);
    assert.equal(bad.code, 1);
    assert.match(bad.err, /line 1/);
  });
});
