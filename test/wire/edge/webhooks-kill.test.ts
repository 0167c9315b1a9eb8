/** The Worker is killed while it calls a receiver, again and again: everything arrives, and what arrives twice was under way at a kill. */
import assert from 'node:assert/strict';
import { readdir, readFile } from 'node:fs/promises';
import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';
import { test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { type RunningEdge, startEdge } from '../../../deploy/edge.ts';
import { MantisClient } from '../../../shared/client/client.ts';
import { WebhookVerifier } from '../../../shared/client/verifyWebhook.ts';
import { LIMITS } from '../../../shared/contract/limits.ts';
import { API_KEY, SECRET, startInstallation, until } from './installation.ts';

const KILLS = process.env.MANTIS_LONG_TESTS === '1' ? 20 : 3;
const EVENTS = 12 * KILLS;

/** The runtime that this process has started. */
async function workerd(): Promise<number> {
  for (const name of await readdir('/proc')) {
    const pid = Number(name);
    if (!Number.isInteger(pid)) continue;
    const text = await readFile(`/proc/${pid}/stat`, 'utf8').catch(() => '');
    const [, comm, state, parent] = /\((.*)\) (\w) (\d+)/.exec(text) ?? [];
    if (comm === 'workerd' && Number(parent) === process.pid && state !== 'Z') return pid;
  }
  throw new Error('there is no workerd');
}

test(`webhooks survive ${KILLS} kills of the Worker`, { timeout: 300_000 }, async (t) => {
  const arrived = new Map<string, number>();
  let underWay = 0;
  let verifier: WebhookVerifier | null = null;
  const faults: string[] = [];
  // Takes the event at once and says so late: a kill in between is the worst moment.
  const server = createServer((request, response) => {
    const chunks: Buffer[] = [];
    request.on('data', (chunk: Buffer) => chunks.push(chunk));
    request.on('end', async () => {
      underWay++;
      response.on('close', () => underWay--);
      const body = Buffer.concat(chunks).toString();
      await verifier?.verify(body, request.headers).catch((error: unknown) => faults.push(String(error)));
      const id = String(request.headers['webhook-id']);
      arrived.set(id, (arrived.get(id) ?? 0) + 1);
      await sleep(100);
      response.writeHead(204).end();
    });
  });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  const host = `127.0.0.1:${(server.address() as AddressInfo).port}`;
  const vars = { LOG_LEVEL: 'silent' };
  const door = await startInstallation({ egressAllow: host, vars });
  let edge: RunningEdge = door.edge;
  t.after(async () => {
    await edge.dispose();
    await door.close().catch(() => {});
    server.closeAllConnections();
    server.close();
  });
  const api = new MantisClient({ baseUrl: door.url, apiKey: API_KEY });
  const endpoint = await api.webhookEndpoints.create(`http://${host}/hook`);
  verifier = new WebhookVerifier(endpoint.secret);

  const file = await api.files.create(new Blob(['{"nothing": 1}\n']), 'lines.jsonl', 'batch');
  const happen = () =>
    api.batches.create({ input_file_id: file.id, endpoint: '/v1/chat/completions', completion_window: '24h' });
  let lost = 0;
  for (let kill = 0; kill < KILLS; kill++) {
    await Promise.all(Array.from({ length: EVENTS / KILLS }, happen));
    await until(() => underWay > 0, 20_000, 'a call is under way');
    lost += underWay;
    process.kill(await workerd(), 'SIGKILL');
    await edge.dispose().catch(() => {});
    const port = Number(new URL(door.url).port);
    edge = await startEdge({
      port,
      dataDir: door.dataDir,
      backendSecret: SECRET,
      apiKey: API_KEY,
      egressAllow: host,
      vars,
    });
  }
  const sinceMs = Date.now();
  const delivered = async () => {
    let n = 0;
    for (let after: string | undefined; ; ) {
      const page = await api.webhookDeliveries.list({
        status: 'delivered',
        limit: 100,
        ...(after === undefined ? {} : { after }),
      });
      n += page.data.length;
      if (!page.has_more) return n;
      after = page.data.at(-1)?.id;
    }
  };
  await until(async () => (await delivered()) === EVENTS, 60_000, 'all are delivered');
  const endMs = Date.now() - sinceMs;
  assert.deepEqual(faults, []);
  assert.equal(arrived.size, EVENTS);
  const doubles = [...arrived.values()].reduce((sum, times) => sum + times - 1, 0);
  assert.ok(doubles <= KILLS * LIMITS.webhooks.callsAtOnce, `${doubles} doubles`);
  t.diagnostic(
    `${doubles} of ${EVENTS} came twice, ${lost} were seen under way at kills; the end ${endMs} ms after the last`,
  );
});
