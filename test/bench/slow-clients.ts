/**
 * Clients that take their time: so many that send a header a second, that send their body by bytes, that do not read their stream. Whether others notice,
 * what memory it takes, and whether the runtime ends them by itself. The last line is JSON.
 *
 *     npm run bench -- slow-clients [--headers 1000] [--bodies 1000] [--readers 500] [--hold 30] [--seconds 5] [--rate 20]
 */
import { type ChildProcess, fork } from 'node:child_process';
import { once } from 'node:events';
import { openSync } from 'node:fs';
import { mkdtemp, rm } from 'node:fs/promises';
import { connect, type Socket } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { parseArgs } from 'node:util';
import type { Outcome, Task } from './edge-hop/load.ts';
import { memoryOf } from './edge-hop/processes.ts';
import { RequestMaker } from './edge-hop/requests.ts';

const { values: flags } = parseArgs({
  options: {
    headers: { type: 'string', default: '1000' },
    bodies: { type: 'string', default: '1000' },
    readers: { type: 'string', default: '500' },
    hold: { type: 'string', default: '30' },
    seconds: { type: 'string', default: '5' },
    rate: { type: 'string', default: '20' },
  },
});
const API_KEY = 'mk_key_of_the_benchmark';
const SECRET = 'a secret of the benchmark';
/** Of streams that nobody reads: longer than the test, and so slow that it is the waiting which is measured. */
const [UNREAD_TOKENS, UNREAD_TOKEN_MS] = [4_000, 500];
const SETTLE_MS = 5_000;
const MIB = 2 ** 20;

const rounded = (value: number): number => Number(value.toPrecision(4));
const quantile = (sorted: readonly number[], q: number): number =>
  rounded(sorted[Math.min(sorted.length - 1, Math.floor(q * sorted.length))] ?? Number.NaN);

function child(file: string, args: readonly string[] = [], stderr: number | 'inherit' = 'inherit'): ChildProcess {
  return fork(join(import.meta.dirname, 'edge-hop', file), args, {
    execArgv: ['--import', 'tsx'],
    stdio: ['ignore', 'inherit', stderr, 'ipc'],
  });
}

/** Sockets that are held open, and how many of them the other side has ended. */
class Crowd {
  readonly #sockets: Socket[] = [];
  closed = 0;

  /** @param begin what each sends first; @param drip what it sends every second from then on */
  async join(
    port: number,
    size: number,
    begin: () => string | Buffer,
    drip: string | null,
    reads: boolean,
  ): Promise<void> {
    for (let i = 0; i < size; i++) {
      const socket = connect(port, '127.0.0.1');
      socket.on('error', () => {});
      socket.on('close', () => this.closed++);
      if (reads) socket.resume();
      else socket.pause();
      this.#sockets.push(socket);
      await once(socket, 'connect');
      socket.write(begin());
      if (drip !== null) {
        const timer = setInterval(() => socket.destroyed || socket.write(drip), 1_000);
        socket.on('close', () => clearInterval(timer));
      }
      // A connection at a time: it is slowness that is measured, not a burst.
      if (i % 50 === 49) await sleep(10);
    }
  }

  leave(): void {
    for (const socket of this.#sockets) socket.removeAllListeners('close').destroy();
  }
}

const dataDir = await mkdtemp(join(tmpdir(), 'mantis-slow-'));
const door = child('door.ts', [dataDir, SECRET, API_KEY], openSync(join(dataDir, 'edge.log'), 'w'));
const [{ url, workerd }] = (await once(door, 'message')) as [{ url: string; workerd: number }];
const port = Number(new URL(url).port);
const upstream = child('upstream.ts', [url, SECRET]);
const load = child('load.ts');
await once(upstream, 'message');

/** Requests of people who wait for their answers. */
async function healthy(): Promise<{ p50Ms: number; p99Ms: number; failures: number }> {
  const task: Task = {
    kind: 'open',
    target: 'edge',
    port,
    apiKey: API_KEY,
    secret: SECRET,
    seconds: Number(flags.seconds),
    rate: Number(flags.rate),
  };
  load.send(task);
  const [{ ms, failures }] = (await once(load, 'message')) as [Outcome];
  return { p50Ms: quantile(ms, 0.5), p99Ms: quantile(ms, 0.99), failures };
}

const head = `POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer ${API_KEY}\r\n`;
const maker = await RequestMaker.make(API_KEY, SECRET, UNREAD_TOKENS, true, UNREAD_TOKEN_MS);
const kinds = {
  headers: { size: Number(flags.headers), begin: () => head, drip: 'x-slow: 1\r\n', reads: true },
  bodies: {
    size: Number(flags.bodies),
    begin: () => `${head}content-type: application/json\r\ncontent-length: 137000\r\n\r\n{"model":"trivial",`,
    drip: '   ',
    reads: true,
  },
  readers: {
    size: Number(flags.readers),
    begin: () => {
      const request = maker.edge();
      return Buffer.concat([Buffer.from(request.head), request.body]);
    },
    drip: null,
    reads: false,
  },
} as const;

try {
  await healthy();
  const result: Record<string, unknown> = {};
  let ok = true;
  for (const [name, kind] of Object.entries(kinds)) {
    const before = { ...(await healthy()), rss: memoryOf(workerd).rssBytes };
    const crowd = new Crowd();
    await crowd.join(port, kind.size, kind.begin, kind.drip, kind.reads);
    // They have come; what is measured is that they are here.
    await sleep(SETTLE_MS);
    const during = await healthy();
    await sleep(Math.max(0, Number(flags.hold) - Number(flags.seconds)) * 1_000);
    const { rssBytes } = memoryOf(workerd);
    const ended = crowd.closed;
    crowd.leave();
    await sleep(1_000);
    const after = await healthy();
    const ratio = rounded(during.p99Ms / Math.max(before.p99Ms, 1));
    const kibEach = Math.round((rssBytes - before.rss) / 1_024 / Math.max(kind.size, 1));
    ok &&= ratio <= 2 && during.failures === 0 && after.failures === 0;
    result[name] = {
      clients: kind.size,
      beforeP99Ms: before.p99Ms,
      duringP99Ms: during.p99Ms,
      afterP99Ms: after.p99Ms,
      ratio,
      rssMiB: Math.round(rssBytes / MIB),
      kibEach,
      endedByRuntime: ended,
      heldS: Number(flags.hold),
    };
    console.log(
      `${name}: ${kind.size} clients, healthy p99 ${before.p99Ms} → ${during.p99Ms} ms (${ratio}x), ${kibEach} KiB each, ${ended} ended by the runtime within ${flags.hold} s`,
    );
  }
  console.log(JSON.stringify({ bench: 'slow-clients', ok, ...result, memory: memoryOf(workerd) }));
  process.exitCode = ok ? 0 : 1;
} finally {
  load.disconnect();
  upstream.disconnect();
  door.disconnect();
  await once(door, 'exit');
  await rm(dataDir, { recursive: true, force: true });
}
