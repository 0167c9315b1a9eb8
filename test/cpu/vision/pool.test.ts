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
  // Tests run beside others: only where time is what is tried does it count.
  const pool = new DecodePool({ timeoutMs: 30_000, ...options });
  pools.push(pool);
  return pool;
};
after(() => Promise.all(pools.map((pool) => pool.close())));

/** Slow to decode and resize, though legal: 36 megapixels with noise. */
const slowPicture = sharp({
  create: {
    width: 1500,
    height: 1500,
    channels: 3,
    background: '#345',
    noise: { type: 'gaussian', mean: 128, sigma: 40 },
  },
})
  .resize(6000, 6000, { kernel: 'nearest' })
  .jpeg({ progressive: true, quality: 60 })
  .toBuffer();
const noProc = existsSync('/proc/self/statm') ? false : 'no /proc here';

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

test('a pool gives what decoding here gives, in any order of arrival', async () => {
  const pool = createPool({ processes: 2 });
  const names = ['rgb.png', 'base.jpg', 'lossy.webp', 'animated.gif', 'rgb.png', 'cmyk.jpg'];
  const images = await Promise.all(names.map((name) => pool.preprocess(goldenFile(name), recipe)));
  for (const [i, name] of names.entries()) {
    const here = await preprocessImage(goldenFile(name), recipe);
    assert.equal(images[i]?.digest, here.digest, name);
    assert.deepEqual(images[i]?.pixels_CHW, here.pixels_CHW);
  }
  const { queued, running, heldBytes, done } = pool.stats();
  assert.deepEqual({ queued, running, heldBytes, done }, { queued: 0, running: 0, heldBytes: 0, done: 6 });
});

test('a bad picture is refused as here, and the process goes on', async () => {
  const pool = createPool({});
  await assert.rejects(
    pool.preprocess(Buffer.from('no picture'), recipe),
    (error) => error instanceof ImageError && error.code === 'invalid_image_format',
  );
  assert.equal((await pool.preprocess(goldenFile('rgb.png'), recipe)).width, 24);
  assert.equal(pool.stats().started, 1);
});

test('what takes too long is killed, and only that picture fails', async () => {
  const pool = createPool({ processes: 1, timeoutMs: 150 });
  const failing = pool.preprocess(await slowPicture, recipe);
  const next = pool.preprocess(goldenFile('rgb.png'), recipe);
  await assert.rejects(failing, /took more than 150 ms/);
  assert.equal((await next).width, 24);
  assert.equal(pool.stats().timedOut, 1);
});

test('what takes too much memory is killed', {
  skip: noProc,
}, async () => {
  const pool = createPool({ maxRssBytes: 1 << 20 });
  await assert.rejects(pool.preprocess(await slowPicture, recipe), /more memory to decode/);
  assert.equal(pool.stats().tooLarge, 1);
});

test('a picture that would take more than there is for all is refused before it is touched', async () => {
  const pool = createPool({ budgetBytes: 100 << 20 });
  await assert.rejects(
    pool.preprocess(await slowPicture, recipe),
    (error) => error instanceof ImageError && error.code === 'image_too_large' && /at most 100 MiB/.test(error.message),
  );
  assert.equal(pool.stats().started, 0);
});

test('heavy pictures wait for each other, light ones for none of them', async () => {
  const pool = createPool({ processes: 2 });
  pool.warm();
  await allReady(pool);
  const ended: string[] = [];
  const send = async (name: string, bytes: Uint8Array): Promise<void> => {
    await pool.preprocess(bytes, recipe);
    ended.push(name);
  };
  const slow = await slowPicture;
  const heavy = [0, 1, 2].map((i) => send(`heavy ${i}`, slow));
  const light = Array.from({ length: 8 }, (_, i) => send(`light ${i}`, goldenFile('rgb.png')));
  assert.equal(pool.stats().running, 2);
  await Promise.all([...heavy, ...light]);
  assert.deepEqual(
    ended.filter((name) => name.startsWith('heavy')),
    ['heavy 0', 'heavy 1', 'heavy 2'],
  );
  assert.ok(ended.indexOf('light 7') < ended.indexOf('heavy 1'), ended.join(', '));
});

test('a process is replaced after its share of pictures', async () => {
  const pool = createPool({ processes: 1, maxPictures: 3 });
  for (let i = 0; i < 7; i++) await pool.preprocess(goldenFile('rgb.png'), recipe);
  assert.deepEqual([pool.stats().started, pool.stats().done], [3, 7]);
});

test('warm processes are there before the first picture, and again soon after they were killed', {
  skip: noProc,
}, async () => {
  const before = new Set(children(process.pid));
  const pool = createPool({ processes: 2 });
  pool.warm();
  await allReady(pool);
  for (const pid of children(process.pid)) if (!before.has(pid)) process.kill(pid, 'SIGKILL');
  const killed = performance.now();
  while (pool.stats().started < 4) await new Promise((resolve) => setTimeout(resolve, 5));
  assert.equal((await pool.preprocess(goldenFile('rgb.png'), recipe)).width, 24);
  // One second on an idle machine; tests run beside others.
  assert.ok(performance.now() - killed < 30_000);
});

async function allReady(pool: DecodePool): Promise<void> {
  while (pool.stats().ready < 2) await new Promise((resolve) => setTimeout(resolve, 5));
}

/** Kills decoders that hold a picture until the promise has settled; how many died. */
async function killWhile(
  pool: DecodePool,
  before: ReadonlySet<number>,
  running: Promise<unknown>,
  signal: NodeJS.Signals,
): Promise<number> {
  let isOver = false;
  const settled = running
    .catch(() => {})
    .finally(() => {
      isOver = true;
    });
  let killed = 0;
  while (!isOver) {
    if (pool.stats().running > 0)
      for (const pid of children(process.pid))
        if (!before.has(pid)) {
          process.kill(pid, signal);
          killed++;
        }
    await new Promise((resolve) => setTimeout(resolve, 10));
  }
  await settled;
  return killed;
}

test('a picture that no decoder survives is refused after two', { skip: noProc }, async () => {
  const before = new Set(children(process.pid));
  const pool = createPool({});
  await pool.preprocess(goldenFile('rgb.png'), recipe);
  const inHand = pool.preprocess(await slowPicture, recipe);
  await killWhile(pool, before, inHand, 'SIGSEGV');
  await assert.rejects(inHand, (error) => error instanceof ImageError && error.code === 'image_parse_error');
  assert.equal(pool.stats().crashed, 1);
  assert.equal((await pool.preprocess(goldenFile('rgb.png'), recipe)).width, 24);
});

const crashes = process.env.MANTIS_LONG_TESTS === '1' ? 100 : 5;
test(`${crashes} decoders shot while they work cost no picture: each gets another`, { skip: noProc }, async () => {
  const before = new Set(children(process.pid));
  const pool = createPool({ processes: 2 });
  pool.warm();
  await allReady(pool);
  const expected = (await preprocessImage(goldenFile('base.jpg'), recipe)).digest;
  let isOver = false;
  let answered = 0;
  const stream = async (): Promise<void> => {
    while (!isOver) {
      assert.equal((await pool.preprocess(goldenFile('base.jpg'), recipe)).digest, expected);
      answered++;
    }
  };
  const streams = Promise.all([stream(), stream(), stream()]);
  for (let shot = 0; shot < crashes; shot++) {
    const { started } = pool.stats();
    const victim = children(process.pid).find((pid) => !before.has(pid));
    process.kill(victim!, shot % 2 === 0 ? 'SIGKILL' : 'SIGSEGV');
    while (pool.stats().started === started) await new Promise((resolve) => setTimeout(resolve, 2));
    // The picture that it held comes next: it is not to be hit twice.
    const seen = answered;
    while (answered < seen + 4) await new Promise((resolve) => setTimeout(resolve, 2));
  }
  isOver = true;
  await streams;
  const { crashed, started } = pool.stats();
  assert.equal(crashed, 0);
  assert.equal(started, 2 + crashes);
});

test('where no decoder starts, the pictures that wait are told, and the next one tries again', {
  skip: noProc,
}, async () => {
  const before = new Set(children(process.pid));
  const pool = createPool({ processes: 1 });
  const waiting = pool.preprocess(goldenFile('rgb.png'), recipe);
  let isOver = false;
  const settled = waiting
    .catch(() => {})
    .finally(() => {
      isOver = true;
    });
  while (!isOver) {
    for (const pid of children(process.pid)) if (!before.has(pid)) process.kill(pid, 'SIGKILL');
    await new Promise((resolve) => setTimeout(resolve, 5));
  }
  await settled;
  await assert.rejects(waiting, /decoder did not start \(SIGKILL\)/);
  assert.equal(pool.stats().started, 4);
  assert.equal((await pool.preprocess(goldenFile('rgb.png'), recipe)).width, 24);
});

test('a full queue refuses, and closing rejects what waits', async () => {
  const pool = createPool({ processes: 1, maxQueued: 2 });
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
  skip: noProc,
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

test('who waits for a decoder to end is there when it does, whatever it still said', async () => {
  const script = `
    const { DecodeProcess } = await import(${JSON.stringify(new URL('../../../gpu-backend/vision/decode-process.ts', import.meta.url).href)});
    const decoder = new DecodeProcess({ onReply: () => {}, onExit: () => {} });
    decoder.hold(false);
    const gone = decoder.kill();
    // As the pool does when a process is ready that is being closed.
    decoder.hold(false);
    await gone;
    process.stdout.write('gone');`;
  const child = spawn(process.execPath, ['--import', 'tsx', '--input-type=module', '-e', script], {
    stdio: ['ignore', 'pipe', 'inherit'],
  });
  const [[code], [said]] = await Promise.all([once(child, 'exit'), once(child.stdout, 'data').catch(() => [''])]);
  assert.deepEqual([code, String(said)], [0, 'gone']);
});
