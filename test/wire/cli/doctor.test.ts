/** `mantis doctor` against installations that are broken in the ways in which they break. */
import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { mkdir, mkdtemp, rm, writeFile } from 'node:fs/promises';
import { createServer, type Server } from 'node:http';
import type { AddressInfo } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, describe, it } from 'node:test';
import { fileURLToPath } from 'node:url';
import type { Result } from '../../../gpu-backend/cli/doctor.ts';
import { API_KEY, type Installation, startInstallation } from '../edge/installation.ts';

const BIN = fileURLToPath(new URL('../../../gpu-backend/cli/mantis.mjs', import.meta.url));

type Report = { ok: boolean; failed: number; checks: Result[] };

async function doctor(
  env: Record<string, string>,
  ...args: string[]
): Promise<{ code: number | null; out: string; report: Report | null; of: (name: string) => Result | undefined }> {
  const child = spawn(process.execPath, [BIN, 'doctor', ...args], {
    stdio: ['ignore', 'pipe', 'inherit'],
    env: { PATH: process.env.PATH, ...env },
  });
  let out = '';
  child.stdout.on('data', (chunk: Buffer) => (out += chunk.toString()));
  const code = await new Promise<number | null>((resolve) => child.once('close', resolve));
  const report = args.includes('--json') ? (JSON.parse(out) as Report) : null;
  return { code, out, report, of: (name) => report?.checks.find((check) => check.name === name) };
}

describe('mantis doctor', () => {
  let door: Installation;
  let dir: string;
  let stranger: Server;
  before(async () => {
    [door, dir] = await Promise.all([startInstallation({ backend: true }), mkdtemp(join(tmpdir(), 'mantis-doctor-'))]);
    stranger = createServer((_, response) => response.writeHead(404).end('hello'));
    await new Promise<void>((resolve) => stranger.listen(0, '127.0.0.1', resolve));
  });
  after(async () => {
    stranger.close();
    await door.close();
    await rm(dir, { recursive: true, force: true });
  });

  it('finds nothing wrong where nothing is', async () => {
    const { code, report, of } = await doctor(
      { MANTIS_BASE_URL: door.url, MANTIS_API_KEY: API_KEY, MANTIS_DATA_DIR: door.dataDir },
      '--json',
    );
    const failed = report?.checks.filter(({ status }) => status === 'fail' || status === 'skip');
    assert.deepEqual(failed, []);
    assert.equal(code, 0);
    assert.match(of('answer')?.found ?? '', /answered about two pictures in \d+ ms/);
    assert.match(of('stores')?.found ?? '', /there and back/);
    assert.match(of('port')?.found ?? '', /running installation/);
  });

  it('says what to do about a wrong key and a data folder that cannot be written', async () => {
    const file = join(dir, 'a-file');
    await writeFile(file, '');
    const { code, out } = await doctor({
      MANTIS_BASE_URL: door.url,
      MANTIS_API_KEY: 'mk_wrong',
      MANTIS_DATA_DIR: join(file, 'below'),
    });
    assert.equal(code, 1);
    assert.match(out, /^FAIL data folder .*\n {5}→ .*MANTIS_DATA_DIR/m);
    assert.match(out, /^FAIL api key .*refused.*\n {5}→ .*MANTIS_API_KEY/m);
    assert.match(out, /^- {4}answer .*not checked: needs "backend"/m);
    assert.match(out, /^2 checks failed/m);
    assert.doesNotMatch(out, /mk_wrong/);
  });

  it('tells a port that another program has from an edge that is not there', async () => {
    const { port } = stranger.address() as AddressInfo;
    const env = { MANTIS_API_KEY: API_KEY, MANTIS_DATA_DIR: dir };
    const [taken, nobody] = await Promise.all([
      doctor({ ...env, MANTIS_BASE_URL: `http://127.0.0.1:${port}` }, '--json'),
      doctor({ ...env, MANTIS_BASE_URL: 'http://127.0.0.1:9' }, '--json'),
    ]);
    assert.deepEqual([taken.code, nobody.code], [1, 1]);
    assert.match(taken.of('port')?.found ?? '', /taken by another program/);
    assert.match(taken.of('edge')?.found ?? '', /not mantis-edge/);
    assert.equal(nobody.of('port')?.status, 'ok');
    assert.match(nobody.of('edge')?.remedy ?? '', /npm start/);
    for (const { status, remedy } of [...(taken.report?.checks ?? []), ...(nobody.report?.checks ?? [])])
      assert.equal(remedy !== undefined, status === 'fail' || status === 'warn');
  });

  it('says so where no backend is there, and where a table is broken', async () => {
    await door.backend?.stop(15_000);
    const tables = join(dir, 'backend', 'precision');
    await mkdir(tables, { recursive: true });
    await writeFile(join(tables, 'broken.json'), '{"times": [1, -3]}');
    const { code, of } = await doctor(
      { MANTIS_BASE_URL: door.url, MANTIS_API_KEY: API_KEY, MANTIS_DATA_DIR: dir },
      '--json',
      '--model',
      'nobody',
    );
    assert.equal(code, 1);
    assert.equal(of('health')?.status, 'warn');
    assert.match(of('health')?.found ?? '', /no backend is ready/);
    assert.equal(of('backend')?.status, 'fail');
    assert.match(of('precision table')?.found ?? '', /broken\.json/);
  });
});
