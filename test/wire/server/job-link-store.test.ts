/** A job's link with checkpoints in S3: told before they are there, whole when they come back, and swept when nothing needs them. */
import assert from 'node:assert/strict';
import { randomBytes } from 'node:crypto';
import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { createServer, type Server } from 'node:http';
import type { AddressInfo } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, beforeEach, test } from 'node:test';
import { EdgeClient } from '../../../gpu-backend/server/edge-client.ts';
import { BrokenCheckpoint, JobLink, LeaseLost } from '../../../gpu-backend/server/job-link.ts';
import { OutsideFiles } from '../../../gpu-backend/server/outside-files.ts';
import { AnnounceFileRequest, CheckpointRequest } from '../../../shared/contract/backend.ts';
import { S3Server } from '../../fixtures/s3-server.ts';

const SECRET = 'a-secret-of-the-tests';
let folder: string;
let s3: S3Server;
let edge: Server;
let client: EdgeClient;
/** `POST path body`, in order, with what was in the bucket then. */
let calls: { path: string; body: unknown; stored: number }[] = [];
let due: string[] = [];
let isStale = false;

before(async () => {
  folder = await mkdtemp(join(tmpdir(), 'job-link-'));
  s3 = await S3Server.start();
  Object.assign(process.env, s3.environment);
  edge = createServer(async (request, response) => {
    const chunks: Buffer[] = [];
    for await (const chunk of request) chunks.push(chunk as Buffer);
    const body: unknown = JSON.parse(Buffer.concat(chunks).toString());
    calls.push({ path: request.url ?? '', body, stored: s3.objects.size });
    if (isStale) {
      response.writeHead(409, { 'content-type': 'application/json' });
      response.end(JSON.stringify({ error: { code: 'stale_lease', message: 'stale', type: 'x', param: null } }));
      return;
    }
    response.setHeader('content-type', 'application/json');
    if (request.url === '/internal/outside/due') response.end(JSON.stringify({ locations: due }));
    else {
      if (request.url === '/internal/outside/gone') due = [];
      response.end('{}');
    }
  });
  await new Promise<void>((resolve) => edge.listen(0, '127.0.0.1', resolve));
  client = new EdgeClient({ url: `http://127.0.0.1:${(edge.address() as AddressInfo).port}`, secret: SECRET });
});
after(async () => {
  edge.closeAllConnections();
  edge.close();
  await s3.stop();
  await rm(folder, { recursive: true, force: true });
});
beforeEach(() => {
  calls = [];
  isStale = false;
  s3.objects.clear();
  s3.faults.length = 0;
});

const names = ['model.safetensors', 'state.json'] as const;
async function save(step: number, token = 3): Promise<{ files: CheckpointRequest['files']; bytes: Buffer[] }> {
  const bytes = [randomBytes(200_000), randomBytes(50)];
  for (const [i, name] of names.entries()) await writeFile(join(folder, name), bytes[i] ?? '');
  const link = new JobLink(client, 'ftjob-1', token, new OutsideFiles('s3://models/mantis'));
  await link.checkpoint(step, { kind: 'lora', metrics: { step }, evaluates: false }, folder, names);
  const { files } = CheckpointRequest.parse(calls.at(-1)?.body);
  return { files, bytes };
}

test('every file is told before it is there, and the manifest comes last', async () => {
  const { files, bytes } = await save(8);
  assert.deepEqual(
    calls.map(({ path, stored }) => [path, stored]),
    [
      ['/internal/jobs/ftjob-1/checkpoints/8/files', 0],
      ['/internal/jobs/ftjob-1/checkpoints/8/files', 1],
      ['/internal/jobs/ftjob-1/checkpoints', 2],
    ],
  );
  const announced = AnnounceFileRequest.parse(calls[0]?.body);
  assert.deepEqual([announced.location, announced.token], ['s3://models/mantis/jobs/ftjob-1/8/3/model.safetensors', 3]);
  // Another backend, which has no store of its own, reads them.
  const reader = new JobLink(client, 'ftjob-1', 4);
  const dir = join(folder, 'back');
  s3.faults.push({ on: 'GET /models/', as: 'flip', times: 1 });
  await reader.fetchCheckpoint({ step: 8, metrics: { step: 8 }, files }, dir);
  for (const [i, name] of names.entries()) assert.ok((await readFile(join(dir, name))).equals(bytes[i] ?? Buffer.of()));
});

test('what is damaged for good, or gone, is a broken checkpoint; a store that is away is none', async () => {
  const { files } = await save(9);
  const fetch = () =>
    new JobLink(client, 'ftjob-1', 4).fetchCheckpoint({ step: 9, metrics: { step: 9 }, files }, join(folder, 'no'));
  s3.faults.push({ on: 'GET /models/', as: 'flip', times: 99 });
  await assert.rejects(fetch(), BrokenCheckpoint);
  s3.faults.length = 0;
  s3.objects.delete('/models/mantis/jobs/ftjob-1/9/3/state.json');
  await assert.rejects(fetch(), (error) => error instanceof BrokenCheckpoint && /no such object/.test(error.message));
});

test('who has lost the lease puts nothing there', async () => {
  isStale = true;
  await assert.rejects(save(10), LeaseLost);
  assert.equal(s3.objects.size, 0);
});

test('what nothing needs any more is deleted, and said', async () => {
  const { files } = await save(11);
  due = files.flatMap(({ location }) => location ?? []);
  assert.equal(await new OutsideFiles('s3://models/mantis').sweep(client), 2);
  assert.equal(s3.objects.size, 0);
  assert.deepEqual(
    calls.slice(-3).map(({ path }) => path),
    ['/internal/outside/due', '/internal/outside/gone', '/internal/outside/due'],
  );
  due = ['s3://models/of-others/a'];
  await assert.rejects(new OutsideFiles('s3://models/mantis').sweep(client), /expected an object of/);
  due = [];
});
