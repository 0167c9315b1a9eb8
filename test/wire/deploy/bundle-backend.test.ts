import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { mkdir, mkdtemp, readdir, readFile, rm, stat, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, describe, it } from 'node:test';
import { unstable_getMiniflareWorkerOptions } from 'wrangler';
import { bundleWorker } from '../../../deploy/bundle.ts';
import { backendArguments, builtBackend } from '../../../deploy/bundle-backend.ts';
import { copyTables, preparedSetup, preparedWorker } from '../../../deploy/prepared.ts';

describe('the built backend', () => {
  let cache = '';
  before(async () => {
    cache = await mkdtemp(join(tmpdir(), 'mantis-build-'));
  });
  after(() => rm(cache, { recursive: true, force: true }));

  it('is made once, also by two at the same time', async () => {
    const [one, two] = await Promise.all([builtBackend(cache), builtBackend(cache)]);
    assert.equal(one, two);
    assert.deepEqual(
      (await readdir(cache)).sort(),
      [one.slice(cache.length + 1), 'current'].sort(),
      'no draft is left',
    );
    const main = join(one, 'gpu-backend/main.js');
    const { ino } = await stat(main);
    assert.equal(await builtBackend(cache), one);
    assert.equal((await stat(main)).ino, ino);
  });

  it('has every script that the backend starts, and leads to no source', async () => {
    const built = await builtBackend(cache);
    const files = (await readdir(built, { recursive: true })).filter((name) => name.endsWith('.js'));
    const scripts = [
      'engine/worker',
      'engine/precision-child',
      'vision/pool-worker',
      'server/job-child',
      'runtime/device-child',
    ];
    for (const script of [...scripts, 'train/gradient-worker', 'train/nano/data-worker', 'main', 'cli/main'])
      assert.ok(files.includes(`gpu-backend/${script}.js`), script);
    for (const file of files) {
      const text = await readFile(join(built, file), 'utf8');
      assert.doesNotMatch(text, /new URL\(['"][^'"]*\.ts['"]/, `${file} starts a source`);
      assert.doesNotMatch(text, /import\.meta\.resolve/, file);
      assert.doesNotMatch(text, /MANTIS_FAULT_POINTS/, `${file} has fault points`);
    }
  });

  it('refuses a wrong environment as the sources do', async () => {
    const [main = ''] = await backendArguments();
    const { status, stderr } = spawnSync(process.execPath, [main], {
      encoding: 'utf8',
      env: { PATH: process.env.PATH },
    });
    assert.equal(status, 78);
    assert.match(stderr, /MANTIS_BACKEND_SECRET/);
  });

  it('says so where it cannot be written', async () => {
    const file = join(cache, 'a-file');
    await writeFile(file, '');
    await assert.rejects(builtBackend(join(file, 'cache')), /ENOTDIR|EEXIST/);
  });
});

describe('what a start of the door finds prepared', () => {
  let dir = '';
  before(async () => {
    dir = await mkdtemp(join(tmpdir(), 'mantis-prepared-'));
  });
  after(() => rm(dir, { recursive: true, force: true }));

  it('is what it would be without', async () => {
    const [fresh, prepared, again] = await Promise.all([
      bundleWorker({ testSeams: false }),
      preparedWorker({ testSeams: false }),
      preparedWorker({ testSeams: true }),
    ]);
    assert.ok(prepared === fresh, 'the Worker');
    assert.ok(again !== fresh, 'the Worker of the tests is another one');
    const { workerOptions } = unstable_getMiniflareWorkerOptions(
      new URL('../../../deploy/wrangler.jsonc', import.meta.url).pathname,
    );
    assert.deepEqual(await preparedSetup(), JSON.parse(JSON.stringify(workerOptions)));
  });

  it('has tables that are made once, and leaves a database alone', async () => {
    const [one, two] = [join(dir, 'one'), join(dir, 'two')];
    let made = 0;
    const make = async (storeDir: string) => {
      made++;
      await mkdir(join(storeDir, 'd1'));
      await writeFile(join(storeDir, 'd1', 'tables'), 'of all migrations');
    };
    await Promise.all([one, two].map((storeDir) => mkdir(storeDir)));
    // A state of its own, so that nothing real is replaced.
    const cache = join(dir, 'cache');
    assert.equal(await copyTables(one, ['0001_init.sql'], make, cache), true);
    assert.equal(await copyTables(two, ['0001_init.sql'], make, cache), true);
    assert.equal(made, 1);
    assert.deepEqual(await readdir(two), ['d1'], 'no draft is left');
    assert.equal(await readFile(join(two, 'd1', 'tables'), 'utf8'), 'of all migrations');
    await writeFile(join(two, 'd1', 'tables'), 'and rows');
    assert.equal(await copyTables(two, ['0001_init.sql'], make, cache), false);
    assert.equal(await readFile(join(two, 'd1', 'tables'), 'utf8'), 'and rows');
    await rm(join(one, 'd1'), { recursive: true });
    await copyTables(
      one,
      (await readdir(new URL('../../../edge/store/migrations/', import.meta.url))).slice(0, 2),
      make,
      cache,
    );
    assert.equal(made, 2, 'other migrations make other tables');
  });

  it('is done without where nothing can be kept', async () => {
    const file = join(dir, 'a-file');
    await writeFile(file, '');
    const storeDir = join(dir, 'three');
    await mkdir(storeDir);
    assert.equal(await copyTables(storeDir, ['0001_init.sql'], () => assert.fail('made for nothing'), file), false);
    assert.deepEqual(await readdir(storeDir), []);
  });
});
