/**
 * Continuous batching over one model: rows join and leave at every step. `step()` is the engine in five lines: take the state,
 * plan, do the prompt work, decode one token for every ready row, tell. It runs inside the engine thread (`worker.ts`); the
 * only thing it shares with the outside is `submit`, `cancel` and the events it emits.
 *
 * Always true: slots 0 … decoding-1 hold decoding rows, later slots hold rows whose prompt is still being read, and
 * `#rows[slot]` is the request whose keys and values are in `slot`.
 */
import type { Picture } from '../models/family.ts';
import type { FeatureCache } from './feature-cache.ts';
import { KvArena } from './kv.ts';
import { type EngineRequest, imageRows, type Live, newLive, scheduled } from './live-request.ts';
import type { ForwardBatch, ForwardResult, ModelRunner } from './runner.ts';
import type { SampledToken } from './sampler.ts';
import { type Capacity, plan } from './scheduler.ts';

export type EngineEvent =
  | { readonly type: 'token'; readonly id: string; readonly token: SampledToken }
  | { readonly type: 'end'; readonly id: string; readonly reason: 'stop' | 'length' | 'cancelled' | 'deadline' }
  | { readonly type: 'failed'; readonly id: string; readonly message: string };

/** Sums since start, for metrics. */
export interface EngineCounters {
  steps: number;
  promptTokens: number;
  generatedTokens: number;
  encodedImages: number;
  encodeRuns: number;
  encodeMs: number;
  prefillMs: number;
  decodeMs: number;
  decodeRuns: number;
}

export class Engine {
  readonly counters: EngineCounters = {
    steps: 0,
    promptTokens: 0,
    generatedTokens: 0,
    encodedImages: 0,
    encodeRuns: 0,
    encodeMs: 0,
    prefillMs: 0,
    decodeMs: 0,
    decodeRuns: 0,
  };
  readonly #runner: ModelRunner;
  readonly #capacity: Capacity;
  readonly #cache: FeatureCache;
  readonly #emit: (events: readonly EngineEvent[]) => void;
  readonly #nowMs: () => number;
  readonly #arena: KvArena;
  /** Every request that has not ended, by id. */
  readonly #live = new Map<string, Live>();
  #rows: Live[] = [];
  #decoding = 0;
  #arrivals = 0;

  constructor(options: {
    readonly runner: ModelRunner;
    readonly capacity: Capacity;
    readonly cache: FeatureCache;
    /** Called once per step with what happened in it. */
    readonly emit: (events: readonly EngineEvent[]) => void;
    readonly nowMs: () => number;
  }) {
    this.#runner = options.runner;
    this.#capacity = options.capacity;
    this.#cache = options.cache;
    this.#emit = options.emit;
    this.#nowMs = options.nowMs;
    this.#arena = new KvArena(options.runner.kv, options.capacity.kvStepTokens);
  }

  get busy(): boolean {
    return this.#live.size > 0;
  }

  get load(): {
    readonly running: number;
    readonly waiting: number;
    readonly kvTokens: number;
    readonly kvBytes: number;
  } {
    return {
      running: this.#rows.length,
      waiting: this.#live.size - this.#rows.length,
      kvTokens: this.#arena.rows * this.#arena.capacityTokens,
      kvBytes: this.#arena.bytes,
    };
  }

  /** Queues a request. It must have passed `admission.ts`; an id that is still running is a caller's bug. */
  submit(request: EngineRequest): void {
    if (this.#live.has(request.id)) throw new Error(`internal: request ${request.id} is already running`);
    const fits = plan(
      { nowMs: 0, step: 0, requests: [scheduled(newLive(request, 0))].map((one) => ({ ...one, deadlineAtMs: null })) },
      this.#capacity,
    );
    if (fits.admit.length === 0)
      throw new Error(
        `internal: ${request.id} needs ${request.tokenIds.length + request.maxNewTokens} positions, which never fit`,
      );
    this.#live.set(request.id, newLive(request, this.#arrivals++));
  }

  /** Takes effect in the next step: at most one more token is computed for the row. Unknown ids (already ended) are ignored. */
  cancel(id: string): void {
    const live = this.#live.get(id);
    if (live !== undefined) live.cancelled = true;
  }

  /** One step of everything that is ready. Errors of the model end the requests that were in the failed run, nothing else. */
  async step(): Promise<void> {
    const events: EngineEvent[] = [];
    const requests = [...this.#live.values()].map(scheduled);
    const decided = plan({ nowMs: this.#nowMs(), step: this.counters.steps++, requests }, this.#capacity);
    for (const { id, reason } of decided.retire) this.#end(this.#live.get(id)!, { type: 'end', id, reason }, events);
    for (const id of decided.admit) {
      const live = this.#live.get(id)!;
      live.stage = 'prefill';
      this.#arena.addRow();
      this.#rows.push(live);
    }
    const ready = decided.decode.length;
    if (ready > 0) await this.#decode(events);
    const work = decided.promptWork;
    if (work !== null) {
      const live = this.#live.get(work.id)!;
      try {
        if (work.kind === 'encode') await this.#encode(live, work.images);
        else await this.#prefill(live, work.tokens, events);
      } catch (error) {
        this.#fail([live], error, events);
      }
    }
    if (events.length > 0) this.#emit(events);
  }

  async #encode(live: Live, count: number): Promise<void> {
    const start = performance.now();
    const first = live.features.length;
    const slots = live.request.images.slice(first, first + count);
    const missing: { readonly key: string; readonly picture: Picture }[] = [];
    const found = new Map<string, Float32Array>();
    for (const [index, { key }] of slots.entries()) {
      if (found.has(key) || missing.some((other) => other.key === key)) continue;
      const cached = this.#cache.acquire(key);
      const picture = live.pictures[first + index] ?? null;
      if (cached !== null) {
        found.set(key, cached);
        this.#cache.release(key);
      } else if (picture === null) throw new Error(`internal: features of ${key} were evicted while held`);
      else missing.push({ key, picture });
    }
    if (missing.length > 0) {
      const encoded = await this.#runner.encode(missing.map(({ picture }) => picture));
      for (const [index, { key }] of missing.entries()) {
        const features = encoded[index]!;
        found.set(key, features);
        this.#cache.insert(key, features);
        this.#cache.release(key);
      }
      this.counters.encodedImages += missing.length;
      this.counters.encodeRuns++;
    }
    for (const { key } of slots) live.features.push(found.get(key)!);
    live.pictures.fill(null, first, first + slots.length);
    this.counters.encodeMs += performance.now() - start;
  }

  async #prefill(live: Live, tokens: number, events: EngineEvent[]): Promise<void> {
    const start = performance.now();
    const { tokenIds } = live.request;
    const from = live.prefilledTokens;
    const to = from + tokens;
    const slot = this.#rows.indexOf(live);
    this.#arena.ensureCapacity(to);
    const result = await this.#run(slot, 1, {
      newTokens: tokens,
      ids_BS: tokenIds.slice(from, to),
      positions_BS: Int32Array.from({ length: tokens }, (_, index) => from + index),
      imageRows: imageRows(live, from, to),
      logitRows_R: Int32Array.of(tokens - 1),
    });
    this.#arena.append(slot, tokens, { ...result, batchRow: 0, stride: tokens });
    live.prefilledTokens = to;
    this.counters.promptTokens += tokens;
    this.counters.prefillMs += performance.now() - start;
    if (to < tokenIds.length) return;
    live.stage = 'decode';
    live.features = []; // they live on as keys and values
    this.#swap(slot, this.#decoding);
    this.#decoding++;
    this.#take(live, result.logits_RV, events);
  }

  async #decode(events: EngineEvent[]): Promise<void> {
    const start = performance.now();
    const rows = this.#rows.slice(0, this.#decoding);
    let longest = 0;
    for (let slot = 0; slot < rows.length; slot++) longest = Math.max(longest, this.#arena.length(slot));
    this.#arena.ensureCapacity(longest + 1);
    let result: ForwardResult;
    try {
      result = await this.#run(0, rows.length, {
        newTokens: 1,
        ids_BS: Int32Array.from(rows, (row) => row.lastToken),
        positions_BS: Int32Array.from(rows, (_, slot) => this.#arena.length(slot)),
        imageRows: [],
        logitRows_R: Int32Array.from(rows.keys()),
      });
    } catch (error) {
      this.#fail(rows, error, events);
      return;
    }
    for (const slot of rows.keys()) this.#arena.append(slot, 1, { ...result, batchRow: slot, stride: 1 });
    const vocabulary = result.logits_RV.length / rows.length;
    for (const [slot, row] of rows.entries())
      this.#take(row, result.logits_RV.subarray(slot * vocabulary, (slot + 1) * vocabulary), events);
    this.counters.decodeMs += performance.now() - start;
    this.counters.decodeRuns++;
  }

  #run(
    first: number,
    rows: number,
    batch: Pick<ForwardBatch, 'newTokens' | 'ids_BS' | 'positions_BS' | 'imageRows' | 'logitRows_R'>,
  ): Promise<ForwardResult> {
    const layers = Array.from({ length: this.#runner.kv.layers }, (_, layer) => layer);
    return this.#runner.forward({
      ...batch,
      rows,
      pastTokens: this.#arena.capacityTokens,
      pastKeys: layers.map((layer) => this.#arena.keys(layer, first, rows)),
      pastValues: layers.map((layer) => this.#arena.values(layer, first, rows)),
      pastBias_B11T: this.#arena.biasFor(first, rows),
    });
  }

  /** Samples the row's next token; ends the row at a stop token or at its budget. */
  #take(live: Live, logits_V: Float32Array, events: EngineEvent[]): void {
    const { request } = live;
    let token: SampledToken;
    try {
      token = live.sampler.next(logits_V);
    } catch (error) {
      this.#fail([live], error, events);
      return;
    }
    live.generatedTokens++;
    this.counters.generatedTokens++;
    live.lastToken = token.id;
    if (request.stopIds.includes(token.id)) {
      this.#end(live, { type: 'end', id: request.id, reason: 'stop' }, events);
      return;
    }
    events.push({ type: 'token', id: request.id, token });
    if (live.sampler.finished) this.#end(live, { type: 'end', id: request.id, reason: 'stop' }, events);
    else if (live.generatedTokens >= request.maxNewTokens)
      this.#end(live, { type: 'end', id: request.id, reason: 'length' }, events);
  }

  #fail(rows: readonly Live[], error: unknown, events: EngineEvent[]): void {
    const message = error instanceof Error ? error.message : String(error);
    for (const live of rows)
      if (this.#live.has(live.request.id)) this.#end(live, { type: 'failed', id: live.request.id, message }, events);
  }

  /** Takes the request out of the books and its row out of the arena. */
  #end(live: Live, event: EngineEvent, events: EngineEvent[]): void {
    events.push(event);
    this.#live.delete(live.request.id);
    const slot = this.#rows.indexOf(live);
    if (slot < 0) return;
    let hole = slot;
    if (slot < this.#decoding) {
      // Close the gap among the decoding rows first, so that the row moved into the hole is never a prefilling one.
      this.#decoding--;
      this.#swap(slot, this.#decoding);
      hole = this.#decoding;
    }
    this.#arena.removeRow(hole);
    const last = this.#rows.pop()!;
    if (hole < this.#rows.length) this.#rows[hole] = last;
  }

  #swap(a: number, b: number): void {
    if (a === b) return;
    this.#arena.swapRows(a, b);
    const first = this.#rows[a]!;
    this.#rows[a] = this.#rows[b]!;
    this.#rows[b] = first;
  }
}
