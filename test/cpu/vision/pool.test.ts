import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { after, test } from 'node:test';
import sharp from 'sharp';
import { ImageError } from '../../../gpu-backend/vision/image-error.ts';
import { DecodePool, DecodePoolFullError } from '../../../gpu-backend/vision/pool.ts';
import { preprocessImage } from '../../../gpu-backend/vision/preprocess.ts';
import { siglipRecipe } from '../../../gpu-backend/vision/recipes.ts';
import { goldenFile } from './golden.ts';

const recipe = siglipRecipe(24);
const pools: DecodePool[] = [];
const createPool = (options: ConstructorParameters<typeof DecodePool>[0]): DecodePool => {
  const pool = new DecodePool(options);
  pools.push(pool);
  return pool;
};
after(() => Promise.all(pools.map((pool) => pool.close())));

/** Slow to decode and resize, though legal: 36 megapixels. */
const slowPicture = sharp({ create: { width: 6000, height: 6000, channels: 3, background: '#345' } })
  .png({ compressionLevel: 1 })
  .toBuffer();

test('a pool gives what decoding here gives, in any order of arrival', async () => {
  const pool = createPool({ processes: 2 });
  const names = ['rgb.png', 'base.jpg', 'lossy.webp', 'animated.gif', 'rgb.png', 'cmyk.jpg'];
  const images = await Promise.all(names.map((name) => pool.preprocess(goldenFile(name), recipe)));
  for (const [i, name] of names.entries()) {
    const here = await preprocessImage(goldenFile(name), recipe);
    assert.equal(images[i]?.digest, here.digest, name);
    assert.deepEqual(images[i]?.pixels_CHW, here.pixels_CHW);
  }
  assert.deepEqual(pool.stats(), { queued: 0, running: 0, done: 6, lost: 0 });
});

test('a bad picture is refused as here, and the process goes on', async () => {
  const pool = createPool({});
  await assert.rejects(
    pool.preprocess(Buffer.from('no picture'), recipe),
    (error) => error instanceof ImageError && error.code === 'invalid_image_format',
  );
  assert.equal((await pool.preprocess(goldenFile('rgb.png'), recipe)).width, 24);
  assert.equal(pool.stats().lost, 0);
});

test('what takes too long is killed, and only that picture fails', async () => {
  const pool = createPool({ timeoutMs: 400 });
  await assert.rejects(pool.preprocess(await slowPicture, siglipRecipe(2000)), /took more than 400 ms/);
  assert.equal((await pool.preprocess(goldenFile('rgb.png'), recipe)).width, 24);
  assert.equal(pool.stats().lost, 1);
});

test('what takes too much memory is killed', {
  skip: existsSync('/proc/self/statm') ? false : 'no /proc here',
}, async () => {
  const pool = createPool({ maxRssBytes: 1 << 20 });
  await assert.rejects(pool.preprocess(await slowPicture, siglipRecipe(2000)), /bytes of memory/);
});

/** Children of this process, by /proc. */
function children(pid: number): number[] {
  return readdirSync('/proc').flatMap((name) => {
    try {
      return Number(readFileSync(`/proc/${name}/stat`, 'latin1').split(') ')[1]?.split(' ')[1]) === pid
        ? [Number(name)]
        : [];
    } catch {
      return [];
    }
  });
}

test('a crashing decoder is replaced', { skip: existsSync('/proc/self/statm') ? false : 'no /proc here' }, async () => {
  const before = new Set(children(process.pid));
  const pool = createPool({});
  await pool.preprocess(goldenFile('rgb.png'), recipe);
  const [decoder] = children(process.pid).filter((pid) => !before.has(pid));
  const inHand = pool.preprocess(await slowPicture, siglipRecipe(2000));
  process.kill(decoder!, 'SIGSEGV');
  await assert.rejects(inHand, (error) => error instanceof ImageError && error.code === 'image_parse_error');
  assert.equal((await pool.preprocess(goldenFile('rgb.png'), recipe)).width, 24);
});

test('a full queue refuses, and closing rejects what waits', async () => {
  const pool = createPool({ maxQueued: 2 });
  const waiting = [0, 1].map(() => pool.preprocess(goldenFile('rgb.png'), recipe));
  await assert.rejects(pool.preprocess(goldenFile('rgb.png'), recipe), DecodePoolFullError);
  const settled = Promise.allSettled(waiting);
  await pool.close();
  assert.deepEqual(
    (await settled).map(({ status }) => status),
    ['rejected', 'rejected'],
  );
  await assert.rejects(pool.preprocess(goldenFile('rgb.png'), recipe), /was closed/);
});

test('decoders neither hold their parent nor outlive it', {
  skip: existsSync('/proc/self/statm') ? false : 'no /proc here',
}, async () => {
  const file = (path: string): string => JSON.stringify(new URL(path, import.meta.url).href);
  const script = `
    const { DecodePool } = await import(${file('../../../gpu-backend/vision/pool.ts')});
    const { siglipRecipe } = await import(${file('../../../gpu-backend/vision/recipes.ts')});
    const { goldenFile } = await import(${file('./golden.ts')});
    const image = await new DecodePool().preprocess(goldenFile('rgb.png'), siglipRecipe(24));
    process.stdout.write('width ' + image.width);
    if (process.argv.includes('stay')) setInterval(() => {}, 1000);`;
  const run = (...args: string[]) =>
    spawn(process.execPath, ['--import', 'tsx', '--input-type=module', '-e', script, '--', ...args], {
      stdio: ['ignore', 'pipe', 'inherit'],
    });
  const leaving = run();
  const [code] = await once(leaving, 'exit');
  assert.equal(code, 0);
  const staying = run('stay');
  await once(staying.stdout, 'data');
  const decoders = children(staying.pid!);
  assert.ok(decoders.length > 0);
  staying.kill('SIGKILL');
  for (let i = 0; i < 50 && decoders.some((pid) => existsSync(`/proc/${pid}`)); i++)
    await new Promise((resolve) => setTimeout(resolve, 100));
  assert.deepEqual(
    decoders.filter((pid) => existsSync(`/proc/${pid}`)),
    [],
  );
});
