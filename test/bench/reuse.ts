/**
 * Ten questions about the same eight pictures, with and without what the engine keeps of them (features, keys and values):
 * requests per second and time to the first token, through the service that a backend runs. The last line is JSON.
 *
 *     node --import tsx test/bench/reuse.ts [--models nano,135m] [--precision f32] [--kv f32] [--tokens 4] [--rounds 2] [--threads 1]
 *
 * `135m` is the random checkpoint of the inference benchmark. Without reuse: no budget for either cache, and requests of nobody.
 */
import { parseArgs } from 'node:util';
import { ModelPool } from '../../gpu-backend/engine/model-pool.ts';
import { EngineModelService } from '../../gpu-backend/engine/model-service.ts';
import { storageFor } from '../../gpu-backend/engine/precision.ts';
import { capacityFor } from '../../gpu-backend/engine/scheduler/capacity.ts';
import { DecodePool } from '../../gpu-backend/vision/pool.ts';
import type { GenerateRequest } from '../../shared/contract/backend.ts';
import { NANO_DIR } from '../cpu/engine/nano-service.ts';
import { scenePictures, servedBenchCheckpoint } from './served-checkpoint.ts';

const { values: flags } = parseArgs({
  options: {
    models: { type: 'string', default: 'nano,135m' },
    precision: { type: 'string', default: 'f32' },
    kv: { type: 'string', default: 'f32' },
    tokens: { type: 'string', default: '4' },
    rounds: { type: 'string', default: '2' },
    threads: { type: 'string', default: '1' },
  },
});
const precision = (['f32', 'w8a8', 'int8', 'int4'] as const).find((known) => known === flags.precision);
const kv = (['f32', 'int8'] as const).find((known) => known === flags.kv);
if (precision === undefined || kv === undefined)
  throw new Error('--precision is one of f32, w8a8, int8, int4; --kv f32 or int8');
const [maxTokens, rounds, threads] = [Number(flags.tokens), Number(flags.rounds), Number(flags.threads)];
const storage = storageFor(precision);
const compile = { threads, kv, ...(storage === undefined ? {} : { storage }) };

const PICTURES = 8;
const QUESTIONS = [
  'Is there a black square in image 1?',
  'Is there a yellow circle in image 2?',
  'How many of them are blue in image 3?',
  'Is there a blue circle in image 4 or in image 5?',
  'How many black circles are there in image 6?',
  'Is there a square in image 7?',
  'Are there two yellow squares in image 8?',
  'Is there a circle in image 1 and in image 8?',
  'How many squares are there in image 2?',
  'Is there a black circle in image 3?',
];

interface Served {
  readonly service: EngineModelService;
  readonly close: () => Promise<void>;
}

async function open(dir: string, reuse: boolean): Promise<Served> {
  const capacity = capacityFor({ maxRows: 16, kvTokens: 32_768 });
  const decoders = new DecodePool();
  const pool = new ModelPool({
    models: [{ id: 'm', dir }],
    capacity,
    compile,
    prefixCacheBytes: reuse ? 512 << 20 : 0,
    featureCacheBytes: reuse ? 64 << 20 : 0,
    maxOverlays: 1,
    fetchOverlay: () => Promise.reject(new Error('no fine-tune is asked for')),
    onEngineDeath: (error) => {
      throw error;
    },
  });
  await pool.start();
  return {
    service: new EngineModelService(pool, capacity, decoders),
    close: async () => {
      await decoders.close();
      await pool.close();
    },
  };
}

interface Asked {
  readonly firstTokenMs: number;
  readonly totalMs: number;
  /** Of this process, the engine's thread included; pictures are decoded in others. */
  readonly cpuMs: number;
  readonly cachedTokens: number;
  readonly promptTokens: number;
}

let requests = 0;

async function ask({ service }: Served, pictures: readonly Uint8Array[], text: string, reuse: boolean): Promise<Asked> {
  const request: GenerateRequest = {
    requestId: `r${requests++}`,
    ...(reuse ? { tenant: 'b'.repeat(32) } : {}),
    model: 'm',
    messages: [
      {
        role: 'user',
        parts: [...pictures.map((_, blob) => ({ type: 'image' as const, blob })), { type: 'text', text }],
      },
    ],
    // A log-probability makes every token an event, though it be half a character.
    sampling: { maxTokens, temperature: 0, topP: 1, stop: [], logprobs: 0 },
    deadlineMs: 600_000,
  };
  const start = performance.now();
  const cpu = process.cpuUsage();
  let firstTokenMs = Number.NaN;
  for await (const event of service.generate(request, pictures, new AbortController().signal)) {
    if (event.type === 'error') throw new Error(event.error.message);
    if ((event.type === 'delta' || event.type === 'finished') && Number.isNaN(firstTokenMs))
      firstTokenMs = performance.now() - start;
    if (event.type === 'finished')
      return {
        firstTokenMs,
        totalMs: performance.now() - start,
        cpuMs: cpuMsSince(cpu),
        cachedTokens: event.usage.cachedTokens,
        promptTokens: event.usage.promptTokens,
      };
  }
  throw new Error('the answer has no end');
}

function cpuMsSince(start: NodeJS.CpuUsage): number {
  const { user, system } = process.cpuUsage(start);
  return (user + system) / 1000;
}

const median = (values: readonly number[]): number => values.toSorted((a, b) => a - b)[values.length >> 1]!;
const sum = (values: readonly number[]): number => values.reduce((a, b) => a + b, 0);
const rounded = (value: number): number => Number(value.toPrecision(4));

interface Found {
  readonly promptTokens: number;
  /** Of the last question. */
  readonly cachedTokens: number;
  readonly firstTokenMs: number;
  readonly repeatFirstTokenMs: number;
  /** CPU time; on a machine that others use too, it says more than the clock. */
  readonly firstCpuMs: number;
  readonly repeatCpuMs: number;
  readonly tenAtOnceCpuMs: number;
  readonly tenPerSecond: number;
  /** Without the first of the ten. */
  readonly repeatsPerSecond: number;
  readonly tenAtOncePerSecond: number;
}

/** One after another, then all at once about other pictures; medians over rounds. */
async function measure(dir: string, reuse: boolean, seed: number): Promise<Found> {
  const served = await open(dir, reuse);
  try {
    await ask(served, await scenePictures(seed, PICTURES), QUESTIONS[0]!, reuse);
    const found: Found[] = [];
    for (let round = 0; round < rounds; round++) {
      const pictures = await scenePictures(seed + 1 + 2 * round, PICTURES);
      const asked: Asked[] = [];
      for (const question of QUESTIONS) asked.push(await ask(served, pictures, question, reuse));
      const others = await scenePictures(seed + 2 + 2 * round, PICTURES);
      const start = performance.now();
      const cpu = process.cpuUsage();
      await Promise.all(QUESTIONS.map((question) => ask(served, others, question, reuse)));
      const togetherMs = performance.now() - start;
      const tenAtOnceCpuMs = cpuMsSince(cpu);
      const [first, ...repeats] = asked;
      found.push({
        promptTokens: first!.promptTokens,
        cachedTokens: repeats.at(-1)!.cachedTokens,
        firstTokenMs: first!.firstTokenMs,
        repeatFirstTokenMs: median(repeats.map(({ firstTokenMs }) => firstTokenMs)),
        firstCpuMs: first!.cpuMs,
        repeatCpuMs: median(repeats.map(({ cpuMs }) => cpuMs)),
        tenAtOnceCpuMs,
        tenPerSecond: (1000 * asked.length) / sum(asked.map(({ totalMs }) => totalMs)),
        repeatsPerSecond: (1000 * repeats.length) / sum(repeats.map(({ totalMs }) => totalMs)),
        tenAtOncePerSecond: (1000 * QUESTIONS.length) / togetherMs,
      });
    }
    const medianOf = (name: keyof Found): number => rounded(median(found.map((one) => one[name])));
    return {
      promptTokens: medianOf('promptTokens'),
      cachedTokens: medianOf('cachedTokens'),
      firstTokenMs: medianOf('firstTokenMs'),
      repeatFirstTokenMs: medianOf('repeatFirstTokenMs'),
      firstCpuMs: medianOf('firstCpuMs'),
      repeatCpuMs: medianOf('repeatCpuMs'),
      tenAtOnceCpuMs: medianOf('tenAtOnceCpuMs'),
      tenPerSecond: medianOf('tenPerSecond'),
      repeatsPerSecond: medianOf('repeatsPerSecond'),
      tenAtOncePerSecond: medianOf('tenAtOncePerSecond'),
    };
  } finally {
    await served.close();
  }
}

const results = [];
for (const model of flags.models.split(',')) {
  if (model !== 'nano' && model !== '135m') throw new Error(`--models: expected nano or 135m, got ${model}`);
  const dir = model === 'nano' ? NANO_DIR : await servedBenchCheckpoint();
  const without = await measure(dir, false, 100);
  const reused = await measure(dir, true, 100);
  const ratios = {
    /** The first question, which finds nothing, counts too: with ten, 10 is the most there can be. */
    tenInARow: rounded(reused.tenPerSecond / without.tenPerSecond),
    tenAtOnce: rounded(reused.tenAtOncePerSecond / without.tenAtOncePerSecond),
    repeats: rounded(reused.repeatsPerSecond / without.repeatsPerSecond),
    tenInARowByCpu: rounded(
      (without.firstCpuMs + 9 * without.repeatCpuMs) / (reused.firstCpuMs + 9 * reused.repeatCpuMs),
    ),
    tenAtOnceByCpu: rounded(without.tenAtOnceCpuMs / reused.tenAtOnceCpuMs),
    repeatsByCpu: rounded(without.repeatCpuMs / reused.repeatCpuMs),
    repeatFirstTokenShare: rounded(reused.repeatFirstTokenMs / reused.firstTokenMs),
  };
  console.error(`${model}: ${JSON.stringify({ without, reused, ratios }, null, 2)}`);
  results.push({ model, without, reused, ratios });
}
console.log(
  JSON.stringify({
    benchmark: 'reuse',
    node: process.version,
    precision,
    kv,
    threads,
    maxTokens,
    rounds,
    results,
  }),
);
process.exit(0);
