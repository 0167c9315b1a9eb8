/** This project's engine as the benchmark drives it: the class that the engine thread runs, with the real runner. */
import { Engine, type EngineEvent } from '../../../gpu-backend/engine/engine.ts';
import { FeatureCache } from '../../../gpu-backend/engine/feature-cache.ts';
import { KvArena } from '../../../gpu-backend/engine/kv/arena.ts';
import { ModelLoader } from '../../../gpu-backend/engine/load-model.ts';
import type { ModelRunner } from '../../../gpu-backend/engine/runner.ts';
import { capacityFor } from '../../../gpu-backend/engine/scheduler/capacity.ts';
import type { Capacity } from '../../../gpu-backend/engine/scheduler/types.ts';
import { chooseStorage, type Storage } from '../../../gpu-backend/models/storage.ts';
import { type Contender, type ServedRequest, stopwatch, type Timing } from './contender.ts';

/** Formats of weights under the names that results have: `w8a8` is int8 with activations rounded too. */
export const OUR_STORAGE = {
  f32: undefined,
  w8a8: { ...chooseStorage({ precision: 'int8' }), w8a8: 'all' },
  int8: chooseStorage({ precision: 'int8' }),
  // Every token of a single row reads all of these: few scales, and four bits in the head too, as Q4_0 has.
  int4: chooseStorage({ precision: 'int4', head: 'int4', blockSize: 128 }),
} as const satisfies Readonly<Record<string, Storage | undefined>>;

export interface OursOptions {
  readonly precision: keyof typeof OUR_STORAGE;
  readonly kv: 'f32' | 'int8';
  readonly threads: number;
}

/** As `mantis serve` sets it, with room for 8 rows of the long case. */
const CAPACITY = capacityFor({ maxRows: 16, kvTokens: 8 * 2304 });

/** Rows of a decoding case fill up one by one while others decode already: a large chunk keeps them of one length. */
const FILLING: Capacity = { ...CAPACITY, busyChunkTokens: 512 };

/** Keys and values kept for prompts that begin alike; none of the timed ones do. */
const PREFIX_CACHE_BYTES = 256 << 20;

/** Positions that rows may be from the case's context when a window starts; further on, their requests are sent anew. */
const DRIFT_TOKENS = 48;

export class Ours implements Contender {
  #engine: Engine;
  #events: EngineEvent[] = [];
  #sent = 0;
  #prompts: readonly (readonly number[])[] = [];
  #rowIds: string[] = [];
  /** Steps of the present rows since the last of them began. */
  #steps = Number.POSITIVE_INFINITY;

  private constructor(private readonly runner: ModelRunner) {
    this.#engine = this.#newEngine(CAPACITY);
  }

  static async create(checkpointDir: string, { precision, kv, threads }: OursOptions): Promise<Ours> {
    const storage = OUR_STORAGE[precision];
    const compile = { threads, kv, ...(storage === undefined ? {} : { storage }) };
    const { runner } = await new ModelLoader().load(checkpointDir, null, compile);
    return new Ours(runner);
  }

  /** Of the runner itself, over the whole vocabulary: the engine reports the likeliest tokens only, whose errors are not typical. */
  async logits(ids: readonly number[]): Promise<Float32Array> {
    const arena = new KvArena(this.runner.kv);
    arena.addRow();
    const run = async (from: number, to: number): Promise<Float32Array> => {
      const tokens = to - from;
      arena.ensureCapacity(to);
      const { logits_RV, fresh } = await this.runner.forward({
        rows: 1,
        newTokens: tokens,
        pastTokens: arena.capacityTokens,
        ids_BS: Int32Array.from(ids.slice(from, to)),
        positions_BS: Int32Array.from({ length: tokens }, (_, index) => from + index),
        imageRows: [],
        past: arena.views(0, 1),
        pastBias_B11T: arena.biasFor(0, 1),
        isPastEmpty: from === 0,
        logitRows_R: Int32Array.of(tokens - 1),
        adapters: [null],
      });
      if (fresh === null) arena.extend(0, tokens);
      else arena.append(0, tokens, { ...fresh, batchRow: 0, stride: tokens });
      return logits_RV.slice();
    };
    // The last token goes through the cache.
    await run(0, ids.length - 1);
    return await run(ids.length - 1, ids.length);
  }

  async prepare(prompts: readonly (readonly number[])[]): Promise<void> {
    this.#prompts = prompts;
    this.#engine = this.#newEngine(FILLING);
    this.#steps = Number.POSITIVE_INFINITY;
    await this.#fill();
  }

  async decode(ms: number): Promise<Timing> {
    if (this.#steps > DRIFT_TOKENS) await this.#fill();
    await this.#step();
    this.#take();
    const clock = stopwatch();
    let steps = 0;
    do {
      await this.#step();
      steps++;
    } while (steps < 2 || clock().ms < ms);
    const elapsed = clock();
    const tokens = this.#take().filter(({ type }) => type === 'token').length;
    if (tokens !== steps * this.#prompts.length)
      throw new Error(`expected ${this.#prompts.length} tokens in each of ${steps} steps, counted ${tokens}`);
    return { tokens, ...elapsed };
  }

  async finish(): Promise<void> {
    this.#engine = this.#newEngine(CAPACITY);
    this.#prompts = [];
    globalThis.gc?.();
  }

  async prefill(ids: readonly number[]): Promise<Timing> {
    const clock = stopwatch();
    this.#submit(ids, 1);
    await this.#finishAll();
    const elapsed = clock();
    this.#take();
    return { tokens: ids.length, ...elapsed };
  }

  async serve(requests: readonly ServedRequest[]): Promise<Timing> {
    this.#engine = this.#newEngine(CAPACITY);
    const clock = stopwatch();
    for (const { ids, newTokens } of requests) this.#submit(ids, newTokens);
    await this.#finishAll();
    const elapsed = clock();
    const events = this.#take();
    const tokens = events.filter(({ type }) => type === 'token').length;
    return { tokens, ...elapsed };
  }

  #newEngine(capacity: Capacity): Engine {
    this.#events = [];
    return new Engine({
      runner: this.runner,
      capacity,
      cache: new FeatureCache(1 << 20),
      prefixCacheBytes: PREFIX_CACHE_BYTES,
      // The made-up prompts repeat nothing, and a step has to be one token a row for rates to mean what they mean for the peers.
      speculate: false,
      emit: (events) => {
        this.#events.push(...events);
      },
      nowMs: Date.now,
    });
  }

  #submit(ids: readonly number[], maxNewTokens: number): string {
    const id = `request ${this.#sent++}`;
    this.#engine.submit({
      id,
      cacheScope: 'bench',
      adapter: null,
      priority: 'interactive',
      readFrom: null,
      tokenIds: Int32Array.from(ids),
      images: [],
      maxNewTokens,
      sampling: { temperature: 0, topP: 1, topK: 0, seed: 0 },
      stopIds: [],
      topLogprobs: -1,
      deadlineAtMs: null,
    });
    return id;
  }

  /** Sends the rows' prompts and runs until each has its first token. */
  async #fill(): Promise<void> {
    for (const id of this.#rowIds) this.#engine.cancel(id);
    while (this.#engine.busy) await this.#engine.step();
    this.#take();
    this.#rowIds = this.#prompts.map((ids) => this.#submit(ids, 256));
    const waiting = new Set(this.#rowIds);
    while (waiting.size > 0) {
      await this.#engine.step();
      for (const event of this.#take()) if (event.type === 'token') waiting.delete(event.id);
    }
    this.#steps = 0;
  }

  async #step(): Promise<void> {
    await this.#engine.step();
    this.#steps++;
  }

  async #finishAll(): Promise<void> {
    while (this.#engine.busy) await this.#engine.step();
  }

  #take(): EngineEvent[] {
    const events = this.#events;
    this.#events = [];
    const failed = events.find((event) => event.type === 'failed');
    if (failed?.type === 'failed') throw new Error(`${failed.id} failed: ${failed.message}`);
    return events;
  }
}
