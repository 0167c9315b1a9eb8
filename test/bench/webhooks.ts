/**
 * Webhooks. First under a virtual clock: ten thousand events to three endpoints through faults and kills of the dispatcher, a rotation in the middle, every
 * call verified by `standardwebhooks`, the `openai` client and our own verifier. Then by the real Worker: twenty endpoints of one tenant that hang, and how
 * long another tenant's first attempts take beside them and beside twenty that answer.
 * `npm run bench -- webhooks [--events 10000] [--kills 20] [--seed 1] [--hanging 20] [--load 2000]`; `--load 0` leaves the second part out. Ends with one
 * line of JSON.
 */
import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';
import { setTimeout as sleep } from 'node:timers/promises';
import { parseArgs } from 'node:util';
import { MantisClient } from '../../shared/client/client.ts';
import { webhookBar } from '../fixtures/webhook-bar.ts';
import { API_KEY, startInstallation } from '../wire/edge/installation.ts';

/** Of the tenant whose endpoints hang, where the machine can: each goes to twenty endpoints. */
const EVENTS_PER_S = 20;

const { values } = parseArgs({
  options: {
    events: { type: 'string', default: '10000' },
    kills: { type: 'string', default: '20' },
    seed: { type: 'string', default: '1' },
    hanging: { type: 'string', default: '20' },
    load: { type: 'string', default: '2000' },
  },
});

const startedMs = Date.now();
const bar = await webhookBar({
  events: Number(values.events),
  kills: Number(values.kills),
  seed: Number(values.seed),
  everyMs: 1_000,
  openaiEvery: 1,
});
const barSeconds = (Date.now() - startedMs) / 1000;
const isReached =
  bar.unfinished === 0 &&
  bar.deadTooSoon === 0 &&
  bar.deadLettered <= 3 &&
  bar.wrongEffects === 0 &&
  bar.duplicates <= bar.duplicatesAllowed &&
  bar.brokenSequences === 0 &&
  bar.unverified === 0 &&
  bar.afterOverlapByOldKey === 0 &&
  bar.within36MinPct >= 99 &&
  bar.within160MinPct >= 99.7;
console.log(
  `${bar.deliveries} deliveries, ${bar.calls} calls, ${bar.kills} kills: ${bar.delivered} delivered, ${bar.deadLettered} dead letters, ${bar.unfinished} unfinished`,
);
console.log(
  `${bar.within36MinPct.toFixed(2)} % within 36 min, ${bar.within160MinPct.toFixed(2)} % within 2 h 40 min; ${bar.duplicates} doubles of ${bar.duplicatesAllowed} that there may be`,
);
console.log(`verified ${JSON.stringify(bar.verified)}, not verified ${bar.unverified}; ${barSeconds.toFixed(1)} s`);

const load = Number(values.load);
const isolation = load === 0 ? null : await measureIsolation(Number(values.hanging), load);
if (isolation !== null) {
  const { quick, hanging } = isolation;
  console.log(
    `another tenant's first attempts beside ${values.hanging} endpoints that answer: p50 ${quick.p50} ms, p99 ${quick.p99} ms`,
  );
  console.log(`… beside ${values.hanging} that hang: p50 ${hanging.p50} ms, p99 ${hanging.p99} ms`);
}
const isIsolated =
  isolation === null || (isolation.hanging.p99 <= 5_000 && isolation.hanging.p99 <= 2 * isolation.quick.p99);
const ok = isReached && isIsolated;
console.log(JSON.stringify({ bench: 'webhooks', ...bar, barSeconds, isolation, isReached, isIsolated, ok }));
process.exitCode = ok ? 0 : 1;

/** @returns lags of another tenant's first attempts, ms, from the answer that made the event to its arrival */
async function measureIsolation(endpoints: number, events: number) {
  const arrived = new Map<string, number>();
  let hangs = false;
  const server = createServer((request, response) => {
    let body = '';
    request.on('data', (chunk: Buffer) => (body += chunk.toString()));
    request.on('end', () => {
      if (request.url === '/measured') {
        const { data } = JSON.parse(body) as { data: { id: string } };
        if (!arrived.has(data.id)) arrived.set(data.id, performance.now());
      } else if (hangs) {
        const timer = setTimeout(() => response.writeHead(200).end(), 30_000);
        response.on('close', () => clearTimeout(timer));
        return;
      }
      response.writeHead(204).end();
    });
  });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  const host = `127.0.0.1:${(server.address() as AddressInfo).port}`;
  const door = await startInstallation({ egressAllow: host, vars: { LOG_LEVEL: 'silent' } });
  const loud = new MantisClient({ baseUrl: door.url, apiKey: API_KEY });
  const tenant = await loud.admin.tenants.create({ name: 'measured' });
  const { secret } = await loud.admin.keys.create({ name: 'measured', tenant: tenant.id });
  const measured = new MantisClient({ baseUrl: door.url, apiKey: secret });
  await measured.webhookEndpoints.create(`http://${host}/measured`);
  for (let i = 0; i < endpoints; i++) await loud.webhookEndpoints.create(`http://${host}/loud/${i}`);
  // A file that is no batch: each batch of it is an event `batch.failed`, and nothing else.
  const fileOf = async (api: MantisClient) =>
    (await api.files.create(new Blob(['{"nothing": 1}\n']), 'x.jsonl', 'batch')).id;
  const happen = (api: MantisClient, input_file_id: string) =>
    api.batches.create({ input_file_id, endpoint: '/v1/chat/completions', completion_window: '24h' });
  const [loudFile, measuredFile] = [await fileOf(loud), await fileOf(measured)];

  const round = async () => {
    const lags: Promise<number>[] = [];
    let made = 0;
    const makers = Array.from({ length: 2 }, async () => {
      while (made < events) {
        made++;
        const pace = sleep((2 * 1_000) / EVENTS_PER_S);
        await happen(loud, loudFile).catch(() => sleep(50));
        await pace;
      }
    });
    const all = Promise.all(makers);
    let isOver = false;
    void all.then(() => {
      isOver = true;
    });
    while (!isOver) {
      const made = await happen(measured, measuredFile).catch(() => null);
      if (made === null) {
        await sleep(500);
        continue;
      }
      const { id } = made;
      const madeAt = performance.now();
      lags.push(
        (async () => {
          while (!arrived.has(id)) {
            if (performance.now() - madeAt > 60_000) return Number.POSITIVE_INFINITY;
            await sleep(20);
          }
          return Math.max(0, (arrived.get(id) ?? 0) - madeAt);
        })(),
      );
      await sleep(200);
    }
    const sorted = (await Promise.all(lags)).sort((a, b) => a - b);
    const at = (share: number) =>
      Math.round(sorted[Math.min(sorted.length - 1, Math.floor(sorted.length * share))] ?? 0);
    return { attempts: sorted.length, p50: at(0.5), p99: at(0.99) };
  };
  const quick = await round();
  hangs = true;
  const hanging = await round();
  await door.close();
  server.closeAllConnections();
  server.close();
  return { quick, hanging };
}
