import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { mkdtemp, readdir, readFile, rm, stat, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, describe, it } from 'node:test';
import { backendArguments, builtBackend } from '../../../deploy/bundle-backend.ts';

describe('the built backend', () => {
  let cache = '';
  before(async () => {
    cache = await mkdtemp(join(tmpdir(), 'mantis-build-'));
  });
  after(() => rm(cache, { recursive: true, force: true }));

  it('is made once, also by two at the same time', async () => {
    const [one, two] = await Promise.all([builtBackend(cache), builtBackend(cache)]);
    assert.equal(one, two);
    assert.deepEqual(await readdir(cache), [one.slice(cache.length + 1)], 'no draft is left');
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
    for (const script of [...scripts, 'train/gradient-worker', 'main'])
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
