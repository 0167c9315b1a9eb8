/**
 * Bar 1 of the door: hostile pictures through the public door of an installation as `npm start` makes it. Mutations of pictures of
 * every kind, bombs, valid pictures with known pixels; codes, times, memory of every process, and what neighbours notice.
 *
 *     npm run bench -- hostile-images [--mutations 10000] [--valid 1000] [--seed 1] [--at-once 4] [--neighbours 30]
 *     npm run bench -- hostile-images --only 4711 --write FILE     makes one mutation again, and sends nothing
 *
 * With `--state FILE` a run that was interrupted goes on where it was. Without `--mutations` and the rest it is the whole bar.
 */
import { existsSync, readFileSync, writeFileSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';
import { parseArgs } from 'node:util';
import { decodeImage } from '../../gpu-backend/vision/decode.ts';
import { type Bomb, makeBombs } from '../fixtures/pictures/bombs.ts';
import {
  answerFault,
  asDataUrl,
  ask,
  canary,
  type Door,
  isSameCanary,
  type Sent,
  sendPicture,
} from '../fixtures/pictures/door.ts';
import { hostilePicture, hostileSeeds } from '../fixtures/pictures/hostile.ts';
import { pixelFault, validPictures } from '../fixtures/pictures/valid.ts';
import { dataUrl, picture } from '../wire/e2e/pictures.ts';
import { type Product, startProduct, stopAndForget } from '../wire/e2e/product.ts';

const { values: options } = parseArgs({
  options: {
    mutations: { type: 'string', default: '10000' },
    valid: { type: 'string', default: '1000' },
    seed: { type: 'string', default: '1' },
    'at-once': { type: 'string', default: '4' },
    neighbours: { type: 'string', default: '30' },
    state: { type: 'string' },
    only: { type: 'string' },
    write: { type: 'string' },
  },
});

const seed = Number(options.seed);
const atOnce = Number(options['at-once']);
const SLOWEST_MS = 2_000;
/** Requests of the neighbours a second, each with a picture nobody has sent before. */
const NEIGHBOUR_RATE = 5;
/** Hostile pictures a second while neighbours are watched. */
const HOSTILE_RATE = 10;

/** Sums over everything that was sent, and the first faults in words. */
interface Tally {
  next: number;
  sent: number;
  codes: Record<string, number>;
  times: number[];
  faults: string[];
  slow: string[];
}

function count(tally: Tally, name: string, sent: Sent, fault: string | null): void {
  tally.sent++;
  const key = `${sent.status} ${sent.code}`;
  tally.codes[key] = (tally.codes[key] ?? 0) + 1;
  tally.times.push(Math.round(sent.ms));
  if (fault !== null) tally.faults.push(`${name}: ${fault}`);
  if (sent.ms > SLOWEST_MS) tally.slow.push(`${name}: ${Math.round(sent.ms)} ms`);
}

const emptyTally = (): Tally => ({ next: 0, sent: 0, codes: {}, times: [], faults: [], slow: [] });

function quantile(values: readonly number[], q: number): number {
  const sorted = values.toSorted((a, b) => a - b);
  return Math.round(sorted[Math.min(sorted.length - 1, Math.floor(sorted.length * q))] ?? 0);
}

/** Largest resident memory seen of each part, MiB: the edge's runtime, the backend, its decoders together, and `npm start`. */
class MemoryWatch {
  readonly peaks: Record<string, number> = {};
  readonly first: Record<string, number> = {};
  readonly last: Record<string, number> = {};
  private readonly timer: NodeJS.Timeout;

  constructor(private readonly product: Product) {
    this.timer = setInterval(() => void this.look(), 250);
  }

  async look(): Promise<void> {
    const now: Record<string, number> = {};
    for (const pid of await this.product.processes()) {
      try {
        const command = readFileSync(`/proc/${pid}/cmdline`, 'utf8');
        const part = /workerd/.test(command)
          ? 'edge'
          : /pool-worker/.test(command)
            ? 'decoders'
            : /gpu-backend\/main/.test(command)
              ? 'backend'
              : 'start';
        const pages = Number(readFileSync(`/proc/${pid}/statm`, 'latin1').split(' ')[1]);
        now[part] = (now[part] ?? 0) + (pages * 4096) / 2 ** 20;
      } catch {
        // It ended between the two.
      }
    }
    for (const [part, mib] of Object.entries(now)) {
      this.first[part] ??= Math.round(mib);
      this.last[part] = Math.round(mib);
      this.peaks[part] = Math.max(this.peaks[part] ?? 0, Math.round(mib));
    }
  }

  stop(): void {
    clearInterval(this.timer);
  }
}

/** Runs `send` over the numbers from `tally.next` to `end`, a few at once. */
async function inLanes(tally: Tally, end: number, send: (index: number) => Promise<void>): Promise<void> {
  const lane = async (): Promise<void> => {
    while (tally.next < end) {
      const index = tally.next++;
      await send(index);
      if (options.state !== undefined && index % 500 === 0)
        writeFileSync(options.state, JSON.stringify({ seed, tally }));
    }
  };
  await Promise.all(Array.from({ length: atOnce }, lane));
}

async function sendMutations(door: Door): Promise<Tally> {
  const seeds = await hostileSeeds(seed);
  const tally = emptyTally();
  if (options.state !== undefined && existsSync(options.state)) {
    const kept = JSON.parse(readFileSync(options.state, 'utf8')) as { seed: number; tally: Tally };
    if (kept.seed !== seed) throw new Error(`${options.state}: expected seed ${seed}, it was begun with ${kept.seed}`);
    Object.assign(tally, kept.tally);
  }
  const started = performance.now();
  await inLanes(tally, Number(options.mutations), async (index) => {
    const hostile = hostilePicture(seeds, seed, index);
    const sent = await sendPicture(door, hostile, index % 5 === 0 ? 'file' : 'data');
    count(tally, `mutation ${index} (${hostile.name})`, sent, answerFault(sent));
    if (index % 2000 === 1999)
      console.log(`  ${index + 1} mutations, ${Math.round((performance.now() - started) / 1000)} s`);
  });
  return tally;
}

async function sendBombs(door: Door, bombs: readonly Bomb[]): Promise<Tally> {
  const tally = emptyTally();
  // One after the other: each one's own time.
  for (const { name, end, ...bomb } of bombs) {
    const sent = await sendPicture(door, bomb, 'data');
    const isWrong = (end === 'image' && sent.status !== 200) || (end === 'refused' && sent.status === 200);
    count(tally, name, sent, answerFault(sent) ?? (isWrong ? `${sent.status} ${sent.message}` : null));
  }
  return tally;
}

/** Through the door for the answer, and through the decoder that backends use for the pixels. */
async function sendValid(door: Door): Promise<Tally> {
  const tally = emptyTally();
  const pictures = validPictures(Number(options.valid), seed + 1);
  await inLanes(tally, Number(options.valid), async (index) => {
    const { value } = await pictures.next();
    if (value === undefined) return;
    const sent = await sendPicture(door, value, index % 5 === 0 ? 'file' : 'data');
    const fault =
      sent.status === 200 ? pixelFault(await decodeImage(value.bytes), value) : `${sent.status} ${sent.message}`;
    count(tally, value.name, sent, fault);
  });
  return tally;
}

/** Times of neighbours' requests at a steady rate, each with a picture of its own. */
async function neighbours(door: Door, seconds: number, first: number): Promise<number[]> {
  const pictures = [];
  for await (const { bytes, mime } of validPictures(seconds * NEIGHBOUR_RATE, 1_000 + first))
    pictures.push(asDataUrl(bytes, mime));
  const started = performance.now();
  return await Promise.all(
    pictures.map(async (url, i) => {
      await sleep(Math.max(0, started + (i * 1000) / NEIGHBOUR_RATE - performance.now()));
      const { status, ms, message } = await ask(door, [url]);
      if (status !== 200) throw new Error(`a neighbour was answered ${status}: ${message}`);
      return ms;
    }),
  );
}

/** Hostile pictures at a steady rate until `isOver`. */
async function modestAttack(door: Door, bombs: readonly Bomb[], isOver: () => boolean): Promise<Tally> {
  const seeds = await hostileSeeds(seed);
  const tally = emptyTally();
  const running = new Set<Promise<void>>();
  for (let index = 0; !isOver(); index++) {
    const isBomb = index % 5 === 0;
    const hostile = isBomb ? bombs[(index / 5) % bombs.length]! : hostilePicture(seeds, seed + 7, 600 + index);
    const one = sendPicture(door, hostile, 'data').then((sent) => count(tally, hostile.name, sent, answerFault(sent)));
    running.add(one);
    void one.finally(() => running.delete(one));
    await sleep(1000 / HOSTILE_RATE);
  }
  await Promise.all(running);
  return tally;
}

function report(what: string, { sent, codes, times, faults, slow }: Tally) {
  const counts = Object.entries(codes).sort(([, a], [, b]) => b - a);
  console.log(
    `${what}: ${sent} sent, ${faults.length} faults, ${slow.length} over ${SLOWEST_MS} ms; p50 ${quantile(times, 0.5)} ms, p99 ${quantile(times, 0.99)} ms, slowest ${quantile(times, 1)} ms`,
  );
  console.log(`  ${counts.map(([code, n]) => `${n} × ${code}`).join(', ')}`);
  for (const line of [...faults.slice(0, 20), ...slow.slice(0, 20)]) console.log(`  ! ${line}`);
  const serverErrors = counts.reduce((sum, [code, n]) => sum + (code.startsWith('5') ? n : 0), 0);
  return {
    sent,
    faults: faults.length,
    serverErrors,
    overTwoSeconds: slow.length,
    p99Ms: quantile(times, 0.99),
    slowestMs: quantile(times, 1),
  };
}

async function attack(product: Product): Promise<void> {
  const model = (await product.client.models.list()).data[0]!.id;
  const door: Door = { url: product.url, apiKey: product.apiKey, model };
  const shown = [dataUrl(picture('frame-1')), dataUrl(picture('frame-2'))];
  await ask(door, [dataUrl(picture('yellow-circle'))]);
  const expected = await canary(door, shown);
  const memory = new MemoryWatch(product);
  await memory.look();
  const bombs = await makeBombs({ withLarge: true });
  console.log(`seed ${seed}; memory at the start, MiB: ${JSON.stringify(memory.first)}`);
  const seconds = Number(options.neighbours);
  await neighbours(door, 5, 0);
  const alone = await neighbours(door, seconds, 1);
  let isOver = false;
  const [beside, modest] = await Promise.all([
    neighbours(door, seconds, 2).finally(() => {
      isOver = true;
    }),
    modestAttack(door, bombs, () => isOver),
  ]);
  const ratio = quantile(beside, 0.99) / quantile(alone, 0.99);
  console.log(
    `neighbours at ${NEIGHBOUR_RATE}/s: p50 ${quantile(alone, 0.5)} ms, p99 ${quantile(alone, 0.99)} ms alone; p50 ${quantile(beside, 0.5)} ms, p99 ${quantile(beside, 0.99)} ms beside ${HOSTILE_RATE} hostile pictures a second, a fifth of them bombs (${ratio.toFixed(2)} times)`,
  );
  const results = {
    modest: report('hostile beside neighbours', modest),
    bombs: report('bombs', await sendBombs(door, bombs)),
    valid: report('valid pictures', await sendValid(door)),
    mutations: report('mutations', await sendMutations(door)),
  };
  memory.stop();
  const isCanaryEqual = isSameCanary(expected, await canary(door, shown));
  const ends = product.output().match(/backend_ended/g)?.length ?? 0;
  console.log(`memory at its height, MiB: ${JSON.stringify(memory.peaks)}; at the end ${JSON.stringify(memory.last)}`);
  console.log(`canary ${isCanaryEqual ? 'equal' : 'DIFFERS'}; ${ends} backends ended`);
  console.log(
    JSON.stringify({
      bench: 'hostile-images',
      seed,
      ...results,
      neighbours: {
        aloneP99Ms: quantile(alone, 0.99),
        besideP99Ms: quantile(beside, 0.99),
        ratio: Math.round(ratio * 100) / 100,
      },
      memoryMib: { start: memory.first, peak: memory.peaks, end: memory.last },
      isCanaryEqual,
      backendsEnded: ends,
    }),
  );
}

if (options.only !== undefined) {
  const { name, mime, bytes } = hostilePicture(await hostileSeeds(seed), seed, Number(options.only));
  const path = options.write ?? `mutation-${seed}-${options.only}`;
  writeFileSync(path, bytes);
  console.log(
    JSON.stringify({
      bench: 'hostile-images',
      seed,
      only: Number(options.only),
      name,
      mime,
      bytes: bytes.length,
      path,
    }),
  );
} else {
  const product = await startProduct({ env: { MANTIS_JOBS: 'off' } });
  try {
    await attack(product);
  } finally {
    await stopAndForget(product);
  }
}
