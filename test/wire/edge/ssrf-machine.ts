/**
 * A machine of its own for the address tests: run inside `unshare -rmn`, it has a loopback interface with private, link-local and (for contrast) public
 * addresses, a hosts file that gives public-looking names to private addresses, and something that listens on all of them. There it starts the real
 * Worker and drives every address of the list through pictures and webhooks. Prints one JSON line: what was connected to, and how requests were answered.
 */
import { execFileSync } from 'node:child_process';
import { writeFileSync } from 'node:fs';
import { mkdtemp, rm } from 'node:fs/promises';
import { createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { Readable } from 'node:stream';
import { setTimeout as sleep } from 'node:timers/promises';
import { Miniflare } from 'miniflare';
import { toFile } from 'openai';
import { PUBLIC_NETWORK } from '../../../deploy/edge.ts';
import type { ErrorEnvelope } from '../../../shared/contract/errors.ts';
import { LIMITS } from '../../../shared/contract/limits.ts';
import { ADDRESSES } from '../../fixtures/egress/addresses.ts';
import { FAULT_CARD, FaultBackend } from './fault-backend.ts';
import { startFlippingDns } from './flipping-dns.ts';
import { startInstallation, until } from './installation.ts';
import { Origin, redirectRaw } from './origin.ts';

const PUBLIC = ['93.184.216.34', '2606:2800:220:1::1'];
const PRIVATE = [
  ...['127.0.0.1', '127.0.0.2', '169.254.169.254', '169.254.170.2', '10.9.8.7', '172.16.0.1', '192.168.1.1'],
  ...['100.64.0.1', '100.100.100.200', '198.18.0.1', 'fd00::1', 'fd00:ec2::254'],
];
const NAMES: readonly [address: string, name: string][] = [
  ['127.0.0.1', 'localhost'],
  ['::1', 'localhost'],
  ['127.0.0.1', 'rebind.example.com'],
  ['::1', 'six.example.com'],
  ['169.254.169.254', 'linklocal.example.com'],
  ['10.9.8.7', 'private.example.com'],
  ['192.168.1.1', 'home.example.com'],
  ['100.64.0.1', 'cgnat.example.com'],
  ['0.0.0.0', 'zero.example.com'],
  ['::', 'unspecified.example.com'],
  ['fd00::1', 'ula.example.com'],
  ['::ffff:127.0.0.1', 'mapped.example.com'],
  ['10.55.0.1', 'silent.example.com'],
  ['10.44.0.1', 'closed.example.com'],
  ['127.0.0.1', 'both.example.com'],
  [PUBLIC[0]!, 'both.example.com'],
  [PUBLIC[0]!, 'public.example.com'],
];
const PORTS = [80, 443, 8080];

function sh(command: string): void {
  execFileSync('sh', ['-c', command], { stdio: ['ignore', 'ignore', 'inherit'] });
}

/** Tries of a name whose addresses change with every question, and of each kind of private target that is timed. */
const FLIPS = Number(process.env.SSRF_FLIPS ?? 160);
const TIMED = Number(process.env.SSRF_TIMED ?? 20);
/** Addresses that webhooks are redirected to. */
const REDIRECTS = Number(process.env.SSRF_REDIRECTS ?? 320);

/** Connections by address and port. */
const connections = new Map<string, number>();

async function becomeMachine(): Promise<void> {
  sh('ip link set lo up');
  for (const address of [...PUBLIC, ...PRIVATE].filter((one) => !one.startsWith('127.')))
    sh(`ip addr add ${address}/${address.includes(':') ? 128 : 32} dev lo`);
  // Packets to the one vanish, to the other are refused at once.
  sh('ip route add unreachable 10.44.0.0/16');
  sh('ip link add void0 type veth peer name void1 && ip link set void0 up && ip link set void1 up');
  sh('ip addr add 10.55.0.9/24 dev void0 && ip neigh add 10.55.0.1 lladdr 02:00:00:00:00:01 dev void0 nud permanent');
  const dir = await mkdtemp(join(tmpdir(), 'mantis-hosts-'));
  writeFileSync(join(dir, 'hosts'), NAMES.map((line) => `${line.join(' ')}\n`).join(''));
  writeFileSync(join(dir, 'resolv.conf'), 'nameserver 127.0.0.1\noptions timeout:1 attempts:1\n');
  for (const name of ['hosts', 'resolv.conf'])
    sh(`[ ! -e /etc/${name} ] || mount --bind ${join(dir, name)} "$(readlink -f /etc/${name})"`);
  // What is mounted stays readable.
  await rm(dir, { recursive: true, force: true });
  for (const port of PORTS) {
    const canary = createServer((socket) => {
      const where = `${socket.localAddress?.replace(/^::ffff:/, '')} ${port}`;
      connections.set(where, (connections.get(where) ?? 0) + 1);
      socket.on('error', () => {});
      socket.end('HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nhi');
    });
    await new Promise<void>((resolve) => canary.listen(port, '::', resolve));
  }
}

/** What was connected to since the last call: private addresses, and how often public ones. */
function connected(): { canaries: string[]; publicHits: number } {
  const isPublic = (where: string) => PUBLIC.includes(where.split(' ')[0] ?? '');
  const canaries = [...connections.keys()].filter((where) => !isPublic(where));
  const publicHits = [...connections].reduce((sum, [where, count]) => sum + (isPublic(where) ? count : 0), 0);
  connections.clear();
  return { canaries, publicHits };
}

const urls = ADDRESSES.map(({ url }) => url);

/** The network binding alone, without any look at the spelling. */
async function networkAlone() {
  const script = `export default { async fetch(request, env) {
    const urls = await request.json();
    const answers = [];
    const ask = (url) => env.NET.fetch(url, { redirect: 'manual', signal: AbortSignal.timeout(3000) }).then((r) => r.status, () => 'refused');
    while (urls.length > 0) answers.push(...(await Promise.all(urls.splice(0, 16).map(ask))));
    return Response.json(answers);
  } }`;
  const miniflare = new Miniflare({
    cf: false,
    workers: [
      {
        name: 'network',
        modules: [{ type: 'ESModule', path: 'worker.js', contents: script }],
        compatibilityDate: '2026-04-20',
        serviceBindings: { NET: PUBLIC_NETWORK },
      },
    ],
    // Each refusal is a stack there; unread, they would stop it.
    handleRuntimeStdio(stdout: Readable, stderr: Readable) {
      stdout.resume();
      stderr.resume();
    },
  });
  const worker = await miniflare.getWorker();
  const plain = urls.flatMap((url) => [url, url.replace(/^https:/i, 'http:')]).filter((url) => /^https?:/i.test(url));
  const response = await worker.fetch('http://x/', { method: 'POST', body: JSON.stringify(plain) });
  const answers = (await response.json()) as (number | string)[];
  await miniflare.dispose();
  return { asked: plain.length, answered: answers.filter((answer) => answer !== 'refused').length, ...connected() };
}

type Door = Awaited<ReturnType<typeof startInstallation>>;

/** As many pictures a request as may be; every one must be refused by name. */
async function pictures(door: Door, addressOf: (index: number) => string) {
  const passed: string[] = [];
  const size = LIMITS.images.remote.maxPerRequest;
  for (let from = 0; from < urls.length; from += size) {
    const some = urls.slice(from, from + size).map((_, i) => addressOf(from + i));
    const content = some.map((url) => ({ type: 'image_url', image_url: { url } }));
    const { body } = await door.call('POST', '/v1/chat/completions', {
      model: FAULT_CARD.id,
      messages: [{ role: 'user', content }],
    });
    const details = (body as Partial<ErrorEnvelope>).error?.details ?? [];
    for (const [i, url] of some.entries()) {
      const problem = details.find(({ param }) => param === `messages[0].content[${i}].image_url`);
      if (problem === undefined || !/^(failed_to_download_image|invalid_image_url)$/.test(problem.code))
        passed.push(url);
    }
  }
  return { asked: urls.length, passed, ...connected() };
}

async function createEndpoint(door: Door, url: string): Promise<string | null> {
  const { status, body } = await door.call('POST', '/v1/webhook_endpoints', { url });
  return status === 200 ? (body as { id: string }).id : null;
}

/** An event for every endpoint there is. */
async function cancelOneJob(door: Door, trainingFile: string): Promise<void> {
  const job = await door.openai.fineTuning.jobs.create({ model: FAULT_CARD.id, training_file: trainingFile });
  await door.openai.fineTuning.jobs.cancel(job.id);
}

/** Those that pass by their spelling are called, all at once. */
async function webhooksDirect(door: Door, trainingFile: string) {
  const ids: { id: string; url: string }[] = [];
  for (let from = 0; from < urls.length; from += 16) {
    await Promise.all(
      urls.slice(from, from + 16).map(async (url) => {
        const id = await createEndpoint(door, url);
        if (id !== null) ids.push({ id, url });
      }),
    );
  }
  await cancelOneJob(door, trainingFile);
  await sleep(1_000);
  for (const { id } of ids) await door.call('DELETE', `/v1/webhook_endpoints/${id}`);
  return { asked: urls.length, accepted: ids.map(({ url }) => url), ...connected() };
}

/** Receivers that are allowed and redirect each delivery to the next address. */
async function webhooksRedirected(door: Door, origin: Origin, trainingFile: string) {
  let next = 0;
  origin.on('/hook/*', (request, response) => {
    request.resume();
    redirectRaw(response, headerSafe(urls[next++ % urls.length] ?? ''));
  });
  for (let i = 0; i < LIMITS.webhooks.maxEndpoints; i++) await createEndpoint(door, origin.url(`/hook/${i}`));
  while (next < Math.min(REDIRECTS, urls.length)) {
    const before = next;
    await cancelOneJob(door, trainingFile);
    await until(() => next >= before + LIMITS.webhooks.maxEndpoints, 10_000, 'all receivers were called');
  }
  await sleep(500);
  return { asked: next, ...connected() };
}

/** Names that are public in one answer and private in the next. */
async function flips(door: Door) {
  const [open = '', closed = ''] = [PUBLIC[0], '127.0.0.1'];
  const dns = await startFlippingDns('flip.example.org', [
    [open],
    [closed],
    [open, closed],
    [closed, open],
    ['169.254.169.254'],
  ]);
  const size = LIMITS.images.remote.maxPerRequest;
  for (let from = 0; from < FLIPS; from += size) {
    const content = Array.from({ length: size }, (_, i) => ({
      type: 'image_url',
      image_url: { url: `https://n${from + i}.flip.example.org/x.png` },
    }));
    await door.call('POST', '/v1/chat/completions', { model: FAULT_CARD.id, messages: [{ role: 'user', content }] });
  }
  dns.close();
  return { asked: FLIPS, questions: dns.questions, ...connected() };
}

/** What a client can tell of private targets that listen, that refuse, and that swallow what is sent: texts, and median times in ms. */
async function oracle(door: Door) {
  const times: Record<string, number[]> = { open: [], closed: [], silent: [] };
  const texts = new Set<string>();
  const ask = async (kind: string, name: string) => {
    const startMs = performance.now();
    const { status, body } = await door.call('POST', '/v1/chat/completions', {
      model: FAULT_CARD.id,
      messages: [{ role: 'user', content: [{ type: 'image_url', image_url: { url: `https://${name}/x.png` } }] }],
    });
    times[kind]?.push(performance.now() - startMs);
    texts.add(`${status} ${(body as ErrorEnvelope).error.message}`);
  };
  for (let i = 0; i < TIMED; i++) {
    await ask('open', 'rebind.example.com');
    await ask('silent', 'silent.example.com');
    await ask('closed', 'closed.example.com');
  }
  const median = (list: number[]) => list.sort((a, b) => a - b)[list.length >> 1] ?? Number.NaN;
  const medianMs = Object.fromEntries(Object.entries(times).map(([kind, list]) => [kind, median(list)]));
  return { asked: 3 * TIMED, medianMs, texts: [...texts], ...connected() };
}

/** Line ends would end the header. */
const headerSafe = (url: string) =>
  url.replaceAll(/[\r\n\0]/g, (char) => `%${char.charCodeAt(0).toString(16).padStart(2, '0')}`);

await becomeMachine();
const network = await networkAlone();
const origin = await Origin.start();
const door = await startInstallation({ egressAllow: origin.host });
const backend = await FaultBackend.join(door);
origin.on('/to/*', (request, response) =>
  redirectRaw(response, headerSafe(urls[Number(request.url?.split('/').at(-1))] ?? '')),
);
const imageDirect = await pictures(door, (i) => urls[i] ?? '');
const imageRedirect = await pictures(door, (i) => origin.url(`/to/${i}`));
const line = JSON.stringify({
  messages: [
    { role: 'user', content: 'a' },
    { role: 'assistant', content: 'b' },
  ],
});
const trainingFile = await door.openai.files.create({
  file: await toFile(Buffer.from(line), 'x.jsonl'),
  purpose: 'fine-tune',
});
const webhookDirect = await webhooksDirect(door, trainingFile.id);
const webhookRedirect = await webhooksRedirected(door, origin, trainingFile.id);
const rebinding = await flips(door);
const portScan = await oracle(door);
await backend.close();
await door.close();
await origin.close();
console.log(
  JSON.stringify({ network, imageDirect, imageRedirect, webhookDirect, webhookRedirect, rebinding, portScan }),
);
process.exit();
