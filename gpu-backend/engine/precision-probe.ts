import type { VlmConfig } from '../models/config.ts';
import type { KvFormat } from '../models/decode.ts';
import type { WeightMap } from '../models/load.ts';
import { nanoConfig } from '../models/presets.ts';
import { Engine, type EngineEvent } from './engine.ts';
import { FeatureCache } from './feature-cache.ts';
import type { EngineRequest } from './live-request.ts';
import { OnnxRunner } from './onnx-runner.ts';
import { storageFor, WEIGHT_FORMATS, type WeightFormat } from './precision.ts';
import { findKernelFaults, type KernelFaults } from './precision-exactness.ts';
import { lastCacheBytes } from './precision-machine.ts';
import { decoderWeights, noiseWeights, shrinkDecoder } from './precision-shrink.ts';
import { capacityFor } from './scheduler/capacity.ts';

/** Context that steps are timed over, tokens: a few pictures. Prompts are as long. */
export const PROBE_CONTEXT_TOKENS = 256;
/** Rows of the two loads that steps are timed at. */
export const PROBE_ROWS = [1, 8] as const;
/** Timed steps of one load; the fastest counts, since everything that disturbs a step makes it slower. */
const STEPS = 6;
/** Of a decoder that is timed whole: its steps are short, and their times spread. */
const SHORT_STEPS = 24;

/** What a decoder takes in one format on this machine, estimated from a smaller one with the same matrices. */
export interface FormatTiming {
  readonly weights: WeightFormat;
  readonly kv: KvFormat;
  /** Milliseconds of a step, that is of one token for each of the rows, over PROBE_CONTEXT_TOKENS; by PROBE_ROWS. */
  readonly stepMs: readonly [one: number, eight: number];
  /** Of prompts of PROBE_CONTEXT_TOKENS, without pictures. */
  readonly prefillTokensPerS: number;
}

export interface ProbeReport {
  /** Formats of weights that were asked for. */
  readonly formats: readonly WeightFormat[];
  readonly timings: readonly FormatTiming[];
  readonly faults: KernelFaults;
  readonly ms: number;
}

interface Times {
  readonly stepMs: readonly number[];
  readonly prefillMs: number;
}

/**
 * Times formats through the engine itself, on a decoder of noise. Takes some 0.4 s for each; blocks the thread.
 * @param formats of weights; f32 is timed always
 */
export async function probeFormats(
  config: VlmConfig,
  threads: number,
  formats: readonly WeightFormat[] = WEIGHT_FORMATS,
): Promise<ProbeReport> {
  const startedAt = performance.now();
  const faults = await findKernelFaults(threads);
  const small = shrinkDecoder(config);
  const weights = noiseWeights(small.config);
  // What calls cost whatever is in them: part of a step once, not once for each piece of the decoder.
  const call =
    small.factor === 1 ? null : await time(NOTHING, noiseWeights(NOTHING), { weights: 'f32', kv: 'f32', threads });
  const whole = (times: Times): Times => {
    const scaled = (ms: number, own: number): number => own + Math.max(0, ms - own) * small.factor;
    if (call === null) return times;
    return {
      stepMs: times.stepMs.map((ms, i) => scaled(ms, call.stepMs[i] ?? 0)),
      prefillMs: scaled(times.prefillMs, call.prefillMs),
    };
  };
  const measure = async (format: WeightFormat, kv: KvFormat): Promise<FormatTiming> => {
    const bytes = decoderWeights(config) * (format === 'f32' ? 4 : format.startsWith('int4') ? 0.5 : 1);
    // A decoder larger than the cache reads its weights from memory at every step; a small one that stands for it must too.
    const evict = bytes > lastCacheBytes();
    const times = whole(
      await time(small.config, weights, { weights: format, kv, threads, ...(small.factor === 1 ? {} : { evict }) }),
    );
    return timing(format, kv, times);
  };
  const timings: FormatTiming[] = [];
  const right = WEIGHT_FORMATS.filter(
    (format) => format === 'f32' || (formats.includes(format) && faults.weights[format] === undefined),
  );
  for (const kv of ['f32', 'int8'] as const)
    if (kv === 'f32' || faults.kv === null) for (const format of right) timings.push(await measure(format, kv));
  return { formats, timings, faults, ms: Math.round(performance.now() - startedAt) };
}

/** A decoder whose kernels take no time to speak of. */
const NOTHING = nanoConfig({
  vocab: 64,
  imageToken: 0,
  bosToken: null,
  eosTokens: [],
  padToken: null,
  visionHidden: 64,
  visionLayers: 1,
  imageSize: 20,
  hidden: 32,
  layers: 1,
  heads: 1,
  kvHeads: 1,
  intermediate: 32,
});

function timing(weights: WeightFormat, kv: KvFormat, { stepMs, prefillMs }: Times): FormatTiming {
  const [one = 0, eight = 0] = stepMs.map((ms) => Number(ms.toPrecision(3)));
  const prefillTokensPerS = Math.round((1000 * PROBE_CONTEXT_TOKENS) / prefillMs);
  return { weights, kv, stepMs: [one, eight], prefillTokensPerS };
}

interface Timed {
  readonly weights: WeightFormat;
  readonly kv: KvFormat;
  readonly threads: number;
  /** Whether the processor's caches are emptied before each step; absent for a decoder that is timed whole. */
  readonly evict?: boolean;
}

/** Fastest prefill and steps of a model. */
async function time(config: VlmConfig, weights: WeightMap, how: Timed): Promise<Times> {
  const storage = storageFor(how.weights);
  const { threads, kv } = how;
  const runner = await OnnxRunner.create(config, weights, {
    threads,
    kv,
    ...(storage === undefined ? {} : { storage }),
  });
  const events: EngineEvent[] = [];
  const [, most] = PROBE_ROWS;
  const steps = how.evict === undefined ? SHORT_STEPS : STEPS;
  const room = PROBE_CONTEXT_TOKENS + 2 * (steps + most);
  const engine = new Engine({
    runner,
    capacity: capacityFor({ maxRows: most, kvTokens: 2 * most * room }),
    cache: new FeatureCache(0),
    // Rows of the larger load begin as the smaller one did, and need not read it again.
    prefixCacheBytes: 2 ** 28,
    speculate: false,
    emit: (some) => events.push(...some),
    nowMs: () => performance.now(),
  });
  let scrap = 0;
  /** Milliseconds of the next step, and how many rows it gave a token that had been decoding before. */
  const step = async (): Promise<{ ms: number; tokens: number; started: number }> => {
    if (how.evict === true) scrap += evictCaches();
    events.length = 0;
    const before = clockMs(threads);
    await engine.step();
    const ms = clockMs(threads) - before;
    const failed = events.find((event) => event.type === 'failed');
    if (failed?.type === 'failed') throw new Error(failed.message);
    const count = (type: EngineEvent['type']): number => events.filter((event) => event.type === type).length;
    return { ms, tokens: count('token'), started: count('started') };
  };
  const run = async (rows: number, scope: string, tokens: number): Promise<{ prefillMs: number; stepMs: number }> => {
    for (let row = 0; row < rows; row++) engine.submit(request(`${scope} ${rows} ${row}`, scope, config, tokens));
    let [prefillMs, stepMs] = [0, Number.POSITIVE_INFINITY];
    while (engine.busy) {
      const { ms, tokens: got, started } = await step();
      if (got === rows && started === 0) stepMs = Math.min(stepMs, ms);
      else prefillMs += ms;
    }
    return { prefillMs, stepMs };
  };
  try {
    const [one, eight] = PROBE_ROWS;
    const warm = await run(1, 'warm', 2);
    const single = await run(one, 'context', steps + 1);
    // Rows join one after the other where a step reads one prompt.
    const many = await run(eight, 'context', steps + 1 + eight);
    if (!Number.isFinite(single.stepMs + many.stepMs + scrap))
      throw new Error('internal: the probe saw no step of all rows');
    return { prefillMs: Math.min(warm.prefillMs, single.prefillMs), stepMs: [single.stepMs, many.stepMs] };
  } finally {
    await runner.dispose();
  }
}

function request(id: string, cacheScope: string, { text }: VlmConfig, maxNewTokens: number): EngineRequest {
  return {
    id,
    cacheScope,
    adapter: null,
    priority: 'interactive',
    tokenIds: Int32Array.from({ length: PROBE_CONTEXT_TOKENS }, (_, i) => 1 + ((i * 31) % (text.vocab - 1))),
    images: [],
    maxNewTokens,
    readFrom: null,
    sampling: { temperature: 0, topP: 1, topK: 0, seed: 0 },
    stopIds: [],
    topLogprobs: -1,
    deadlineAtMs: null,
  };
}

/** Where kernels run on this thread alone, time on the processor: work of others on the machine is no part of it. */
function clockMs(threads: number): number {
  if (threads > 1) return performance.now();
  const { user, system } = process.cpuUsage();
  return (user + system) / 1000;
}

let scrub: Float64Array | null = null;

/** Reads one number of each line of a memory larger than the caches. */
function evictCaches(): number {
  scrub ??= new Float64Array((1.25 * lastCacheBytes()) / 8).fill(1);
  let sum = 0;
  for (let i = 0; i < scrub.length; i += 8) sum += scrub[i] ?? 0;
  return sum;
}
