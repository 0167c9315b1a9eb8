/**
 * Ragged mixed load over a small model with random weights: what `batching.test.ts` checks a little of and the benchmark
 * `batching` a lot. Everything is drawn from seeds, so a batch that fails can be run again alone.
 */
import { Engine, type EngineEvent } from '../../../gpu-backend/engine/engine.ts';
import { FeatureCache } from '../../../gpu-backend/engine/feature-cache.ts';
import type { EngineRequest } from '../../../gpu-backend/engine/live-request.ts';
import { OnnxRunner } from '../../../gpu-backend/engine/onnx-runner.ts';
import { uniform } from '../../../gpu-backend/engine/random.ts';
import type { Capacity } from '../../../gpu-backend/engine/scheduler/types.ts';
import type { LlavaConfig } from '../../../gpu-backend/models/config.ts';
import { decodeGraph } from '../../../gpu-backend/models/decode.ts';
import { initAdapter } from '../../../gpu-backend/models/presets.ts';
import { visionGraph } from '../../../gpu-backend/models/vlm.ts';
import { LLAMA_LINEARS, type LoraSpec } from '../../../gpu-backend/models/weights.ts';
import { f32, type Tensor } from '../../../gpu-backend/runtime/session.ts';
import { PLAIN_REQUEST, smallCapacity } from '../../fixtures/engine.ts';

/** Large enough that a wrong row, position, mask or adapter changes its greedy choices. */
export const SMALL_CONFIG: LlavaConfig = {
  family: 'llava',
  vision: {
    kind: 'siglip',
    hidden: 16,
    intermediate: 32,
    layers: 2,
    heads: 2,
    imageSize: 12,
    patchSize: 4,
    layerNormEpsilon: 1e-6,
    activation: 'tanh',
  },
  text: {
    hidden: 32,
    intermediate: 64,
    layers: 3,
    heads: 4,
    kvHeads: 2,
    // As the kernel for the beginnings of prompts wants it.
    headDim: 16,
    vocab: 101,
    ropeTheta: 10_000,
    rmsNormEpsilon: 1e-6,
    maxPositions: 256,
    tiedHead: false,
    bosToken: null,
    eosTokens: [1],
    padToken: 0,
  },
  projectorActivation: 'erf',
  projectorBias: true,
  visionLayers: 2,
  dropFirstFeature: false,
  imageToken: 2,
  tokensPerImage: 9,
};

/** Roughly normal values, the same on every machine. */
function randomTensor(shape: readonly number[], seed: number): Tensor {
  const size = shape.reduce((a, b) => a * b, 1);
  const scale = shape.length === 1 ? 0.1 : 1.2 / Math.sqrt(shape.at(-1)!);
  const data = Float32Array.from({ length: size }, (_, i) => {
    let sum = -6;
    for (let k = 0; k < 12; k++) sum += uniform(seed, i * 12 + k);
    return sum * scale + (shape.length === 1 ? 1 : 0);
  });
  return f32(data, shape);
}

export function randomWeights(): Map<string, Tensor> {
  const weights = new Map<string, Tensor>();
  for (const { weights: shapes } of [visionGraph(SMALL_CONFIG), decodeGraph(SMALL_CONFIG, { images: true })])
    for (const [name, shape] of shapes) weights.set(name, randomTensor(shape, weights.size));
  return weights;
}

/** Of different ranks and targets; `sees` changes what pictures look like too. */
const ADAPTERS: Readonly<Record<string, LoraSpec>> = {
  narrow: { r: 2, alpha: 4, targets: ['q_proj', 'v_proj'] },
  wide: { r: 5, alpha: 10, targets: [...LLAMA_LINEARS] },
  sees: { r: 3, alpha: 3, targets: ['gate_proj', 'down_proj', 'linear_1', 'linear_2'] },
};

/** The small model with its adapters. */
export async function openSmallRunner(): Promise<OnnxRunner> {
  const weights = randomWeights();
  const runner = await OnnxRunner.create(SMALL_CONFIG, weights, { threads: 1 });
  for (const [index, [id, lora]] of Object.entries(ADAPTERS).entries()) {
    const own = initAdapter(SMALL_CONFIG, lora, index + 1);
    // B starts at zero, which changes nothing.
    for (const [name, { shape }] of own)
      if (name.endsWith('.lora_B.weight')) own.set(name, randomTensor(shape, 500 + own.size + index));
    await runner.addAdapter(id, { lora, weights: own }, id === 'sees' ? weights : null);
  }
  return runner;
}

/** Numbers in the order they are asked for. */
function drawer(seed: number): (below: number) => number {
  let at = 0;
  return (below) => Math.floor(uniform(seed, at++) * below);
}

const pick = <T>(draw: (below: number) => number, values: readonly T[]): T => values[draw(values.length)]!;

const picture = (seed: number) => ({
  pixels_CHW: Float32Array.from({ length: 3 * 12 * 12 }, (_, i) => uniform(1000 + seed, i) * 2 - 1),
  width: 12,
  height: 12,
});

/**
 * A request by number: one of a few beginnings with a picture or two, then words and pictures of its own; greedy or drawn with a
 * seed; for the base model or an adapter.
 */
export function makeRequest(index: number): EngineRequest {
  const draw = drawer(77 + index);
  const ids: number[] = [];
  const images: EngineRequest['images'][number][] = [];
  const adapter = pick(draw, [null, null, ...Object.keys(ADAPTERS)]);
  const text = (count: number, from: (below: number) => number) => {
    for (let i = 0; i < count; i++) ids.push(3 + from(SMALL_CONFIG.text.vocab - 3));
  };
  const show = (seed: number) => {
    const key = adapter === 'sees' ? `sees p${seed}` : `p${seed}`;
    images.push({ start: ids.length, tokens: SMALL_CONFIG.tokensPerImage, key, picture: picture(seed) });
    for (let t = 0; t < SMALL_CONFIG.tokensPerImage; t++) ids.push(SMALL_CONFIG.imageToken);
  };
  const stem = draw(5);
  if (stem > 0) {
    const own = drawer(5000 + stem);
    text(1 + own(12), own);
    if (stem > 1) show(own(3));
    text(1 + own(16), own);
  }
  text(1 + draw(12), draw);
  for (let count = draw(3); count > 0; count--) {
    show(draw(3));
    text(1 + draw(5), draw);
  }
  return {
    ...PLAIN_REQUEST,
    id: `r${index}`,
    cacheScope: `of ${adapter}`,
    adapter,
    tokenIds: Int32Array.from(ids),
    images,
    maxNewTokens: 3 + draw(18),
    sampling: { temperature: draw(3) === 0 ? 0.8 : 0, topP: 0.95, topK: 0, seed: index },
    stopIds: [1],
    // The second best shows where a greedy choice hung by a thread.
    topLogprobs: 2,
  };
}

export interface Answer {
  readonly tokens: readonly number[];
  /** By token: how much less probable, in nats, the second best was than the best. */
  readonly leads: readonly number[];
  readonly end: EngineEvent | undefined;
}

/** Answers of requests that had the model for themselves: no batch, no chunks, no cache, no speculation. Each is computed once. */
export class SoloAnswers {
  readonly #runner: OnnxRunner;
  readonly #known = new Map<number, Answer>();

  constructor(runner: OnnxRunner) {
    this.#runner = runner;
  }

  async of(index: number): Promise<Answer> {
    let answer = this.#known.get(index);
    if (answer === undefined) {
      const request = makeRequest(index);
      const engine = new TestedEngine(this.#runner, smallCapacity({ maxRows: 1, kvTokens: 512, kvStepTokens: 16 }), {
        prefixCacheBytes: 0,
        speculate: false,
      });
      engine.submit(request);
      await engine.finish();
      answer = engine.answer(request.id);
      this.#known.set(index, answer);
    }
    return answer;
  }
}

class TestedEngine {
  readonly engine: Engine;
  readonly #events: EngineEvent[] = [];
  #nowMs = 0;

  constructor(
    runner: OnnxRunner,
    capacity: Capacity,
    options: { readonly prefixCacheBytes: number; readonly speculate: boolean },
  ) {
    this.engine = new Engine({
      runner,
      capacity,
      ...options,
      // Small enough that features of pictures that nobody holds are evicted.
      cache: new FeatureCache(3 * SMALL_CONFIG.tokensPerImage * SMALL_CONFIG.text.hidden * 4),
      nowMs: () => this.#nowMs,
      emit: (events) => this.#events.push(...events),
    });
  }

  submit(request: EngineRequest): void {
    this.engine.submit(request);
  }

  async step(): Promise<void> {
    this.#nowMs += 10;
    await this.engine.step();
  }

  async finish(): Promise<void> {
    for (let step = 0; this.engine.busy; step++) {
      if (step > 5000) throw new Error('the engine does not come to an end');
      await this.step();
    }
  }

  answer(id: string): Answer {
    const tokens = this.#events.flatMap((event) => (event.type === 'token' && event.id === id ? [event.token] : []));
    return {
      tokens: tokens.map((token) => token.id),
      leads: tokens.map(({ top }) => top[0]!.logprob - top[1]!.logprob),
      end: this.#events.find((event) => (event.type === 'end' || event.type === 'failed') && event.id === id),
    };
  }
}

export interface BatchCounts {
  batches: number;
  requests: number;
  tokens: number;
  greedyTokens: number;
  cancelled: number;
  preemptions: number;
  cachedTokens: number;
  draftedTokens: number;
  acceptedTokens: number;
  decodeRuns: number;
  /** Greedy choices that a rounding error decided: the solo run's best two were closer than `TIE`. */
  ties: number;
}

export function noCounts(): BatchCounts {
  return {
    batches: 0,
    requests: 0,
    tokens: 0,
    greedyTokens: 0,
    cancelled: 0,
    preemptions: 0,
    cachedTokens: 0,
    draftedTokens: 0,
    acceptedTokens: 0,
    decodeRuns: 0,
    ties: 0,
  };
}

/** Nats; f32 sums in another order differ by less. */
const TIE = 1e-5;

/**
 * Runs one batch, all of whose circumstances are drawn from `seed`, and compares every answer with the solo one.
 * @param pool requests are drawn from numbers 0 … pool-1
 * @throws Error naming seed, request and tokens of the first difference
 */
export async function checkBatch(
  runner: OnnxRunner,
  solo: SoloAnswers,
  seed: number,
  pool: number,
  counts: BatchCounts,
): Promise<void> {
  const draw = drawer(1_000_000 + seed);
  const capacity = smallCapacity({
    maxRows: 2 + draw(7),
    kvTokens: pick(draw, [128, 192, 320, 640]),
    kvStepTokens: 16,
    classBounds: pick(draw, [[], [48], [32, 80]]),
    idleChunkTokens: pick(draw, [5, 16, 64, 512]),
    busyChunkTokens: pick(draw, [1, 3, 7, 32]),
    imagesPerRun: 1 + draw(4),
    growthTokens: pick(draw, [0, 2, 8, Number.POSITIVE_INFINITY]),
    agingMs: pick(draw, [50, 400, 10_000]),
  });
  const engine = new TestedEngine(runner, capacity, {
    prefixCacheBytes: pick(draw, [0, 40_000, 400_000]),
    speculate: draw(2) === 0,
  });
  const spread = pick(draw, [1, 10, 40]);
  // Some batches ask the same few questions again and again.
  const [first, others] = [draw(pool), pick(draw, [3, 8, pool])];
  const load = Array.from({ length: 2 + draw(11) }, (_, place) => {
    const index = (first + draw(others)) % pool;
    const request: EngineRequest = {
      ...makeRequest(index),
      id: `${place} r${index}`,
      priority: pick(draw, ['interactive', 'batch'] as const),
    };
    return { index, request, atStep: draw(spread), cancelAtStep: draw(6) === 0 ? draw(60) : null };
  });
  const last = Math.max(...load.map(({ atStep }) => atStep));
  for (let step = 0; step <= last || engine.engine.busy; step++) {
    if (step > 5000) throw new Error(`batch ${seed} does not come to an end`);
    for (const { request, atStep, cancelAtStep } of load) {
      if (atStep === step) engine.submit(request);
      if (cancelAtStep === step) engine.engine.cancel(request.id);
    }
    await engine.step();
  }
  engine.engine.trim();
  const { prefixBytes: _, ...left } = engine.engine.load;
  if (Object.values(left).some((value) => value !== 0))
    throw new Error(`batch ${seed} leaves ${JSON.stringify(left)} behind`);
  for (const { index, request } of load)
    compare(`batch ${seed}, request ${request.id}`, request, await solo.of(index), engine.answer(request.id), counts);
  const { preemptions, cachedTokens, draftedTokens, acceptedTokens, decodeRuns } = engine.engine.counters;
  counts.batches++;
  counts.requests += load.length;
  counts.preemptions += preemptions;
  counts.cachedTokens += cachedTokens;
  counts.draftedTokens += draftedTokens;
  counts.acceptedTokens += acceptedTokens;
  counts.decodeRuns += decodeRuns;
}

function compare(name: string, request: EngineRequest, alone: Answer, got: Answer, counts: BatchCounts): void {
  if (got.end?.type !== 'end') throw new Error(`${name} ended with ${JSON.stringify(got.end)}`);
  const isCancelled = got.end.reason === 'cancelled';
  counts.cancelled += Number(isCancelled);
  const isGreedy = request.sampling.temperature === 0;
  const expected = isCancelled ? alone.tokens.slice(0, got.tokens.length) : alone.tokens;
  const length = Math.max(expected.length, got.tokens.length);
  for (let at = 0; at < length; at++) {
    if (expected[at] === got.tokens[at]) continue;
    if (isGreedy && (alone.leads[at] ?? Number.POSITIVE_INFINITY) < TIE) {
      counts.ties++;
      return;
    }
    throw new Error(
      `${name} (${request.adapter ?? 'base'}, ${isGreedy ? 'greedy' : 'sampled'}): token ${at} is ${got.tokens[at]}, ` +
        `alone ${expected[at]}; the best two were ${alone.leads[at]} nats apart.\n  got   ${got.tokens}\n  alone ${alone.tokens}`,
    );
  }
  counts.tokens += length;
  counts.greedyTokens += isGreedy ? length : 0;
  if (!isCancelled && alone.end?.type === 'end' && got.end.reason !== alone.end.reason)
    throw new Error(`${name} ended with ${got.end.reason}, alone with ${alone.end.reason}`);
}
