import assert from 'node:assert/strict';
import { mkdir, mkdtemp, rm, stat, utimes, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, it } from 'node:test';
import { pathToFileURL } from 'node:url';

const module = new URL('../../../gpu-backend/cli/built.mjs', import.meta.url).href;
const { builtMain } = (await import(module)) as { builtMain(root: URL): string | null };

let dir = '';
let root: URL;
before(async () => {
  dir = await mkdtemp(join(tmpdir(), 'mantis-built-'));
  root = pathToFileURL(`${dir}/`);
});
after(() => rm(dir, { recursive: true, force: true }));

it('the command line starts from what was built of just the sources that are there', async () => {
  assert.equal(builtMain(root), null, 'nothing was built');
  const builds = join(dir, 'node_modules/.cache/mantis-edge/builds');
  await mkdir(join(builds, 'one'), { recursive: true });
  const source = join(dir, 'a.ts');
  await writeFile(source, 'export {};');
  const [was, later] = [new Date(1_700_000_000_000), new Date(1_700_000_005_000)];
  await utimes(source, was, was);
  const { size, mtimeMs } = await stat(source);
  await writeFile(join(builds, 'one', 'sources.json'), JSON.stringify([['a.ts', size, mtimeMs]]));
  assert.equal(builtMain(root), null, 'nothing says that it is the last one');
  await writeFile(join(builds, 'current'), 'one');
  assert.equal(builtMain(root), pathToFileURL(join(builds, 'one/gpu-backend/cli/main.js')).href);

  await utimes(source, later, later);
  assert.equal(builtMain(root), null, 'a source was written');
  await utimes(source, was, was);
  assert.notEqual(builtMain(root), null);
  await writeFile(source, 'export { };');
  await utimes(source, was, was);
  assert.equal(builtMain(root), null, 'a source has another size');
  await rm(source);
  assert.equal(builtMain(root), null, 'a source is gone');
});
