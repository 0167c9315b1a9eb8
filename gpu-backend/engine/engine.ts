/**
 * Continuous batching over one model and its adapters: rows join and leave at every step. `step()` is the engine in five lines:
 * take the state, plan, do the prompt work, decode one token for every ready row, tell. It runs inside the engine thread
 * (`worker.ts`); the only thing it shares with the outside is `submit`, `cancel` and the events it emits.
 */
import { EngineCounters } from './counters.ts';
import type { FeatureCache } from './feature-cache.ts';
import type { KvArena } from './kv/arena.ts';
import { type EngineRequest, generatedTokens, imageRows, type Live, newLive, scheduled } from './live-request.ts';
import { encodePending } from './pending-images.ts';
import { PrefixCache } from './prefix-cache.ts';
import { Rows } from './rows.ts';
import type { ForwardBatch, ForwardResult, ModelRunner } from './runner.ts';
import { logSumExp, type SampledToken } from './sampler.ts';
import { plan } from './scheduler/plan.ts';
import { fitsAlone } from './scheduler/room.ts';
import type { Capacity, PromptWork, StepPlan } from './scheduler/types.ts';
import { DRAFT_TOKENS, draft, Speculation } from './speculation.ts';

export type EngineEvent =
  /** The prompt is done; `cachedTokens` of its positions came from the prefix cache. Comes once, before the first token. */
  | { readonly type: 'started'; readonly id: string; readonly cachedTokens: number }
  /** Natural logarithms of the probabilities of the prompt's tokens from `readFrom` on. */
  | { readonly type: 'read'; readonly id: string; readonly logprobs: readonly number[] }
  | { readonly type: 'token'; readonly id: string; readonly token: SampledToken }
  | { readonly type: 'end'; readonly id: string; readonly reason: 'stop' | 'length' | 'cancelled' | 'deadline' }
  | { readonly type: 'failed'; readonly id: string; readonly message: string; readonly stack?: string };

export interface EngineOptions {
  readonly runner: ModelRunner;
  readonly capacity: Capacity;
  /** Features of pictures, over all engines of the thread. */
  readonly cache: FeatureCache;
  /** Keys and values kept for requests that begin alike; 0 = none. */
  readonly prefixCacheBytes: number;
  /** Try several tokens a run where one row decodes alone. Default true. */
  readonly speculate?: boolean;
  /** Called after the decoding and after the prompt work of a step, with what happened in it. */
  readonly emit: (events: readonly EngineEvent[]) => void;
  readonly nowMs: () => number;
}

export interface EngineLoad {
  readonly running: number;
  readonly waiting: number;
  /** Positions that rows take. */
  readonly kvTokens: number;
  /** Of the memory for keys and values, what is kept for the next rows included. */
  readonly kvBytes: number;
  readonly prefixBytes: number;
}

export class Engine {
  readonly counters = new EngineCounters();
  readonly #o: EngineOptions;
  readonly #rows: Rows;
  readonly #prefixes: PrefixCache;
  readonly #speculation = new Speculation();
  /** Every request that has not ended, by id. */
  readonly #live = new Map<string, Live>();
  #events: EngineEvent[] = [];
  #arrivals = 0;

  constructor(options: EngineOptions) {
    const { capacity, runner } = options;
    this.#o = options;
    this.#rows = new Rows(runner.kv, capacity.kvTokens, capacity.kvStepTokens);
    this.#prefixes = new PrefixCache(options.prefixCacheBytes);
  }

  get busy(): boolean {
    return this.#live.size > 0;
  }

  get load(): EngineLoad {
    const { pool, count } = this.#rows;
    return {
      running: count,
      waiting: this.#live.size - count,
      kvTokens: pool.usedPositions,
      kvBytes: pool.bytes,
      prefixBytes: this.#prefixes.bytes,
    };
  }

  get prefixCounters(): PrefixCache['counters'] {
    return this.#prefixes.counters;
  }

  /** Whether a request of this adapter has not ended. */
  uses(adapter: string): boolean {
    return [...this.#live.values()].some(({ request }) => request.adapter === adapter);
  }

  /** Queues a request. It must have passed `admission.ts`; an id that is still running is a caller's bug. */
  submit(request: EngineRequest): void {
    if (this.#live.has(request.id)) throw new Error(`internal: request ${request.id} is already running`);
    if (request.tokenIds.length < 1 || (request.maxNewTokens < 1 && request.readFrom === null))
      throw new Error(`internal: ${request.id} asks for nothing`);
    const live = newLive(request, this.#arrivals++, this.#o.nowMs());
    if (!fitsAlone(scheduled(live), this.#o.capacity))
      throw new Error(
        `internal: ${request.id} needs ${request.tokenIds.length + request.maxNewTokens} positions, which never fit`,
      );
    this.#live.set(request.id, live);
  }

  /** Takes effect in the next step: at most one more token is computed for the row. Unknown ids (already ended) are ignored. */
  cancel(id: string): void {
    const live = this.#live.get(id);
    if (live !== undefined) live.cancelled = true;
  }

  /** Gives back the memory that is kept for the next rows; for when none have come for a while. */
  trim(): void {
    this.#rows.pool.trim();
  }

  /** One step of everything that is ready. Errors of the model end the requests that were in the failed run, nothing else. */
  async step(): Promise<void> {
    const decided = this.#plan();
    this.counters.steps++;
    for (const { id, reason } of decided.retire) this.#retire(this.#live.get(id)!, reason);
    for (const id of decided.preempt) this.#preempt(this.#live.get(id)!);
    for (const { id, class: index } of decided.admit) this.#admit(this.#live.get(id)!, index);
    const decodingAt = this.#o.nowMs();
    const decoding = this.#rows.decoding();
    const isAlone = decoding.length === 1 && decoding[0]?.rows.length === 1;
    for (const { rows } of decoding) {
      if (isAlone && this.#o.speculate !== false && (await this.#decodeAhead(rows[0]!))) continue;
      await this.#decode(rows);
    }
    // Prompts may take as long as the decoding did, and one unit in any case: where rows are many and prompts short, those who
    // wait for a first token would otherwise wait for everybody's next one each time.
    const promptsAt = this.#o.nowMs();
    this.#tell();
    let work = decided.promptWork;
    while (work !== null) {
      await this.#promptWork(work);
      work = this.#o.nowMs() - promptsAt < promptsAt - decodingAt ? this.#morePromptWork() : null;
    }
    this.#tell();
  }

  #tell(): void {
    const events = this.#events;
    this.#events = [];
    if (events.length > 0) this.#o.emit(events);
  }

  #plan(): StepPlan {
    const requests = [...this.#live.values()].map(scheduled);
    return plan({ nowMs: this.#o.nowMs(), step: this.counters.steps, requests }, this.#o.capacity);
  }

  /** Work for rows that are running already; who else may come in is for the next step to say. */
  #morePromptWork(): PromptWork | null {
    const { promptWork } = this.#plan();
    if (promptWork === null) return null;
    const ids = promptWork.kind === 'encode' ? promptWork.items.map(({ id }) => id) : [promptWork.id];
    return ids.every((id) => this.#live.get(id)?.stage === 'prefill') ? promptWork : null;
  }

  #retire(live: Live, reason: 'cancelled' | 'deadline' | 'never-fits'): void {
    if (reason === 'never-fits') this.#fail([live], new Error('the request needs more KV memory than there is'));
    else this.#end(live, { type: 'end', id: live.request.id, reason });
  }

  #preempt(live: Live): void {
    this.counters.preemptions++;
    this.#store(live);
    this.#rows.remove(live, false);
    // They are computed again with the rest of the prompt.
    live.reads.length = 0;
    live.stage = 'waiting';
    live.sharing = null;
  }

  #admit(live: Live, index: number): void {
    this.#rows.add(live, index);
    live.stage = 'prefill';
    this.#restore(live);
    live.cachedTokens ??= live.held;
    this.counters.cachedTokens += live.held;
    live.sharing = this.#prefixes.findSharer(live, this.#rows.prefilling());
  }

  async #promptWork(work: PromptWork): Promise<void> {
    if (work.kind === 'encode') {
      const lives = work.items.map(({ id, images }) => ({ live: this.#live.get(id)!, images }));
      const failed = await encodePending(lives, this.#o.runner, this.#o.cache, this.counters);
      for (const { live, error } of failed) this.#fail([live], error);
      return;
    }
    const live = this.#live.get(work.id)!;
    try {
      await this.#prefill(live, work.tokens);
    } catch (error) {
      this.#fail([live], error);
    }
  }

  async #prefill(live: Live, most: number): Promise<void> {
    const start = performance.now();
    if (live.sharing !== null) {
      // What the other row has computed meanwhile is in the cache by now.
      live.sharing = null;
      const restored = this.#restore(live);
      if (generatedTokens(live) === 0) live.cachedTokens = (live.cachedTokens ?? 0) + restored;
      this.counters.cachedTokens += restored;
    }
    const from = live.held;
    const tokens = Math.min(most, live.count - from);
    const to = from + tokens;
    const readFrom = live.request.readFrom ?? Number.POSITIVE_INFINITY;
    const isDone = to === live.count;
    // The logits at a position are about the next token: those that are asked about, and the last ones for what comes.
    const wanted: number[] = [];
    for (let at = Math.max(from, readFrom - 1); at < to && at + 1 < live.count; at++) wanted.push(at - from);
    const readCount = wanted.length;
    if (isDone || readCount === 0) wanted.push(tokens - 1);
    const slot = this.#rows.slot(live);
    this.#rows.pool.ensureCapacity(live.class, to);
    const result = await this.#forward([live], slot, {
      newTokens: tokens,
      ids_BS: live.tokens.slice(from, to),
      positions_BS: Int32Array.from({ length: tokens }, (_, index) => from + index),
      imageRows: imageRows(live, from, to),
      logitRows_R: Int32Array.from(wanted),
    });
    const arena = this.#rows.arena(live);
    keep(arena, slot, 0, tokens, result);
    live.held = to;
    this.counters.promptTokens += tokens;
    this.counters.prefillMs += performance.now() - start;
    this.#read(live, result, wanted, readCount, from);
    this.#store(live);
    if (isDone) this.#startAnswer(live, lastRow(result.logits_RV, wanted.length));
  }

  /** Log-probabilities of the prompt's own next tokens at the first `count` of the wanted rows. */
  #read(live: Live, { logits_RV }: ForwardResult, wanted: readonly number[], count: number, from: number): void {
    const vocabulary = logits_RV.length / wanted.length;
    for (let row = 0; row < count; row++) {
      const logits_V = logits_RV.subarray(row * vocabulary, (row + 1) * vocabulary);
      live.reads.push(logits_V[live.tokens[from + wanted[row]! + 1]!]! - logSumExp(logits_V));
    }
  }

  #startAnswer(live: Live, logits_V: Float32Array): void {
    const { id, readFrom, maxNewTokens } = live.request;
    if (generatedTokens(live) === 0) {
      this.#events.push({ type: 'started', id, cachedTokens: live.cachedTokens ?? 0 });
      if (readFrom !== null) this.#events.push({ type: 'read', id, logprobs: live.reads });
      if (maxNewTokens === 0) {
        this.#end(live, { type: 'end', id, reason: 'stop' });
        return;
      }
    }
    live.stage = 'decode';
    this.#rows.startDecoding(live);
    this.#take(live, logits_V);
  }

  async #decode(rows: readonly Live[]): Promise<void> {
    const start = performance.now();
    const first = rows[0]!;
    const arena = this.#rows.arena(first);
    this.#rows.pool.ensureCapacity(first.class, 1 + rows.reduce((most, { held }) => Math.max(most, held), 0));
    let result: ForwardResult;
    try {
      result = await this.#forward(rows, 0, {
        newTokens: 1,
        ids_BS: Int32Array.from(rows, ({ tokens, count }) => tokens[count - 1]!),
        positions_BS: Int32Array.from(rows, ({ held }) => held),
        imageRows: [],
        logitRows_R: Int32Array.from(rows.keys()),
      });
    } catch (error) {
      this.#fail(rows, error);
      return;
    }
    const vocabulary = result.logits_RV.length / rows.length;
    for (const [slot, row] of rows.entries()) {
      keep(arena, slot, slot, 1, result);
      row.held++;
    }
    for (const [slot, row] of rows.entries())
      this.#take(row, result.logits_RV.subarray(slot * vocabulary, (slot + 1) * vocabulary));
    this.counters.decodeMs += performance.now() - start;
    this.counters.decodeRuns++;
  }

  /** One run over the next token and a few guessed ones. @returns whether it was tried */
  async #decodeAhead(live: Live): Promise<boolean> {
    const arena = this.#rows.arena(live);
    const left = live.request.maxNewTokens - generatedTokens(live);
    const room = Math.min(DRAFT_TOKENS, left - 1, arena.capacityTokens - live.held - 1);
    if (room < 1 || !this.#speculation.pays) return false;
    const guessed = draft(live.tokens, live.count, room).slice();
    if (guessed.length === 0) return false;
    const start = performance.now();
    const tokens = 1 + guessed.length;
    const slot = this.#rows.slot(live);
    let result: ForwardResult;
    try {
      result = await this.#forward([live], slot, {
        newTokens: tokens,
        ids_BS: Int32Array.of(live.tokens[live.count - 1]!, ...guessed),
        positions_BS: Int32Array.from({ length: tokens }, (_, index) => live.held + index),
        imageRows: [],
        logitRows_R: Int32Array.from({ length: tokens }, (_, index) => index),
      });
    } catch (error) {
      this.#fail([live], error);
      return true;
    }
    const vocabulary = result.logits_RV.length / tokens;
    keep(arena, slot, 0, tokens, result);
    live.held += tokens;
    let right = 0;
    for (;;) {
      this.#take(live, result.logits_RV.subarray(right * vocabulary, (right + 1) * vocabulary), guessed.length - right);
      if (!this.#live.has(live.request.id)) break;
      if (right === guessed.length || live.tokens[live.count - 1] !== guessed[right]) break;
      right++;
    }
    if (this.#live.has(live.request.id) && right < guessed.length) {
      arena.truncate(slot, guessed.length - right);
      live.held -= guessed.length - right;
    }
    this.#speculation.observe(right);
    this.counters.draftedTokens += guessed.length;
    this.counters.acceptedTokens += right;
    this.counters.decodeMs += performance.now() - start;
    this.counters.decodeRuns++;
    return true;
  }

  #forward(
    rows: readonly Live[],
    firstSlot: number,
    batch: Pick<ForwardBatch, 'newTokens' | 'ids_BS' | 'positions_BS' | 'imageRows' | 'logitRows_R'>,
  ): Promise<ForwardResult> {
    const arena = this.#rows.arena(rows[0]!);
    return this.#o.runner.forward({
      ...batch,
      rows: rows.length,
      pastTokens: arena.capacityTokens,
      past: arena.views(firstSlot, rows.length),
      pastBias_B11T: arena.biasFor(firstSlot, rows.length),
      isPastEmpty: rows.every(({ held }) => held === 0),
      adapters: rows.map(({ request }) => request.adapter),
    });
  }

  /**
   * Samples the row's next token; ends the row at a stop token or at its budget.
   * @param unsure positions at the end of the row that hold guessed tokens, which must not be kept if the row ends here
   */
  #take(live: Live, logits_V: Float32Array, unsure = 0): void {
    const { request } = live;
    let token: SampledToken;
    try {
      token = live.sampler.next(logits_V);
    } catch (error) {
      this.#fail([live], error);
      return;
    }
    live.tokens[live.count++] = token.id;
    this.counters.generatedTokens++;
    const isStop = request.stopIds.includes(token.id);
    if (!isStop) this.#events.push({ type: 'token', id: request.id, token });
    if (isStop || live.sampler.finished) this.#end(live, { type: 'end', id: request.id, reason: 'stop' }, unsure);
    else if (generatedTokens(live) >= request.maxNewTokens)
      this.#end(live, { type: 'end', id: request.id, reason: 'length' }, unsure);
  }

  #restore(live: Live): number {
    const makeRoom = (tokens: number) => this.#rows.pool.ensureCapacity(live.class, tokens);
    return this.#prefixes.restore(live, this.#rows.arena(live), this.#rows.slot(live), makeRoom);
  }

  #store(live: Live): void {
    this.#prefixes.store(live, this.#rows.arena(live), this.#rows.slot(live));
  }

  #fail(rows: readonly Live[], error: unknown): void {
    const message = error instanceof Error ? error.message : String(error);
    const stack = error instanceof Error && error.stack !== undefined ? { stack: error.stack } : {};
    for (const live of rows)
      if (this.#live.has(live.request.id)) this.#end(live, { type: 'failed', id: live.request.id, message, ...stack });
  }

  /** Takes the request out of the books and its row out of the arena. */
  #end(live: Live, event: EngineEvent, unsure = 0): void {
    this.#events.push(event);
    this.#live.delete(live.request.id);
    if (!this.#rows.has(live)) return;
    live.held -= unsure;
    // What an answer added to the prompt is the beginning of the next turn's prompt.
    if (event.type === 'end') this.#store(live);
    this.#rows.remove(live, event.type === 'failed');
  }
}

/** Keeps the keys and values of new tokens of one row of the batch behind what its row in the arena holds. */
function keep(arena: KvArena, slot: number, batchRow: number, tokens: number, { fresh }: ForwardResult): void {
  if (fresh === null) arena.extend(slot, tokens);
  else arena.append(slot, tokens, { ...fresh, batchRow, stride: tokens });
}

function lastRow(logits_RV: Float32Array, rows: number): Float32Array {
  const vocabulary = logits_RV.length / rows;
  return logits_RV.subarray((rows - 1) * vocabulary);
}
