import assert from 'node:assert/strict';
import { KvPool } from '../../../../gpu-backend/engine/kv/pool.ts';
import { PrefixTree } from '../../../../gpu-backend/engine/kv/prefix-tree.ts';
import { commonLength, type PromptSymbols } from '../../../../gpu-backend/engine/kv/prompt-symbols.ts';
import type { KvShape } from '../../../../gpu-backend/engine/kv/span.ts';
import { plan } from '../../../../gpu-backend/engine/scheduler/plan.ts';
import type { Capacity, Priority, ScheduledRequest, StepPlan } from '../../../../gpu-backend/engine/scheduler/types.ts';

/** A request as a test describes it; steps are its clock. */
export interface Asked {
  readonly arriveAt: number;
  /** The prompt: the image of two tokens that `key` names, if any, then `text`. */
  readonly key: string | null;
  readonly text: readonly number[];
  readonly newTokens: number;
  readonly priority: Priority;
  readonly cancelAt: number | null;
}

interface Live {
  readonly asked: Asked;
  readonly id: string;
  readonly arrival: number;
  readonly symbols: PromptSymbols;
  readonly promptTokens: number;
  stage: ScheduledRequest['stage'];
  class: number;
  /** The mark of each position, as a request alone would have it. */
  readonly marks: number[];
  count: number;
  held: number;
  hasFeatures: boolean;
  sharing: { readonly with: Live; readonly length: number } | null;
  admissions: number;
}

export interface Outcome {
  readonly arrival: number;
  readonly leftAt: number;
  readonly why: 'done' | 'cancelled' | 'deadline' | 'never-fits';
  readonly tokens: readonly number[];
  readonly preemptions: number;
}

const IMAGE_TOKENS = 2;
const MODULUS = 65_521;

/** The fake model: a position's keys and values are a mark of the whole prefix, and the next token follows from the last mark. */
function mark(before: number, symbol: number): number {
  return (before * 31 + symbol + 1) % MODULUS;
}
const nextToken = (last: number): number => 10 + (last % 5);

function symbolNumber(symbols: PromptSymbols, position: number): number {
  const image = symbols.images[0];
  if (image !== undefined && position < image.tokens) return 1000 + 10 * image.key.charCodeAt(0) + position;
  return symbols.tokenIds[position]!;
}

const answers = new Map<string, readonly number[]>();

/** What a request alone, without any cache, answers. */
export function soloTokens(asked: Asked): readonly number[] {
  const name = `${asked.key} ${asked.text.join()} ${asked.newTokens}`;
  let answer = answers.get(name);
  if (answer === undefined) {
    const live = newLive(asked, 0);
    for (let made = 0; made < asked.newTokens; made++) take(live);
    answer = [...live.symbols.tokenIds.subarray(live.promptTokens, live.count)];
    answers.set(name, answer);
  }
  return answer;
}

function newLive(asked: Asked, arrival: number): Live {
  const images = asked.key === null ? [] : [{ start: 0, tokens: IMAGE_TOKENS, key: asked.key }];
  const promptTokens = images.length * IMAGE_TOKENS + asked.text.length;
  const tokenIds = new Int32Array(promptTokens + asked.newTokens);
  tokenIds.set(asked.text, promptTokens - asked.text.length);
  const symbols = { tokenIds, images };
  const marks: number[] = [];
  for (let at = 0; at < promptTokens; at++) marks.push(mark(marks[at - 1] ?? 0, symbolNumber(symbols, at)));
  return {
    ...{ asked, id: `r${arrival}`, arrival, symbols, promptTokens, marks, count: promptTokens },
    ...{ stage: 'waiting', class: 0, held: 0, hasFeatures: images.length === 0, sharing: null, admissions: 0 },
  };
}

/** Draws the next token. */
function take(live: Live): void {
  const token = nextToken(live.marks[live.count - 1]!);
  live.symbols.tokenIds[live.count] = token;
  live.marks.push(mark(live.marks[live.count - 1]!, token));
  live.count++;
}

/**
 * Executes plans as the engine does, with the real arenas and the real prefix tree, one step a millisecond, and checks after
 * every step what must always be true.
 */
export class Simulation {
  readonly capacity: Capacity;
  readonly outcomes: Outcome[] = [];
  readonly pool: KvPool;
  readonly tree: PrefixTree;
  /** Live requests by class and slot. */
  readonly rows = new Map<number, Live[]>();
  step = 0;
  preemptions = 0;
  restoredTokens = 0;
  readonly #live = new Map<string, Live>();
  #arrivals = 0;

  constructor(capacity: Capacity, options: { readonly treeBytes: number; readonly format?: KvShape['format'] }) {
    const format = options.format ?? 'f32';
    const shape: KvShape = { layers: 1, kvHeads: 1, headDim: format === 'f32' ? 1 : 4, format, keyTileTokens: 2 };
    this.capacity = capacity;
    this.pool = new KvPool(shape, capacity.kvTokens, capacity.kvStepTokens);
    this.tree = new PrefixTree(options.treeBytes);
  }

  get live(): number {
    return this.#live.size;
  }

  add(asked: Asked): number {
    const live = newLive(asked, this.#arrivals++);
    this.#live.set(live.id, live);
    return live.arrival;
  }

  run(): StepPlan {
    const nowMs = this.step;
    const requests = [...this.#live.values()].map((live) => scheduled(live, nowMs));
    const decided = plan({ nowMs, step: this.step, requests }, this.capacity);
    this.step++;
    for (const { id, reason } of decided.retire) this.#leave(this.#known(id), reason);
    for (const id of decided.preempt) {
      const live = this.#known(id);
      assert.notEqual(live.stage, 'waiting', 'only running rows are preempted');
      this.#store(live);
      this.#removeRow(live);
      live.stage = 'waiting';
      live.sharing = null;
      this.preemptions++;
    }
    for (const { id, class: index } of decided.admit) this.#admit(this.#known(id), index);
    this.#checkBudget();
    const ready = [...this.#live.values()].filter(({ stage }) => stage === 'decode').map(({ id }) => id);
    const decoding = decided.decode.flatMap(({ ids }) => ids);
    assert.equal(decoding.sort().join(), ready.sort().join(), 'every ready row decodes');
    for (const { class: index, ids } of decided.decode)
      for (const id of ids) {
        const live = this.#known(id);
        assert.equal(live.class, index);
        this.#compute(live, 1);
        this.#take(live);
      }
    const work = decided.promptWork;
    if (work?.kind === 'encode') {
      assert.ok(work.items.reduce((sum, { images }) => sum + images, 0) <= this.capacity.imagesPerRun);
      for (const { id } of work.items) {
        assert.equal(this.#known(id).stage, 'prefill');
        this.#known(id).hasFeatures = true;
      }
    } else if (work !== null) {
      const live = this.#known(work.id);
      assert.equal(live.stage, 'prefill');
      assert.ok(work.tokens >= 1);
      assert.ok(decided.decode.length === 0 || work.tokens <= this.capacity.busyChunkTokens);
      if (live.sharing !== null) this.#restore(live);
      live.sharing = null;
      this.#compute(live, Math.min(work.tokens, live.count - live.held));
      this.#store(live);
      if (live.held === live.count) {
        live.stage = 'decode';
        this.#take(live);
      }
    }
    this.#checkBudget();
    const isBusy = decided.retire.length + decided.preempt.length + decided.admit.length + decided.decode.length > 0;
    assert.ok(isBusy || work !== null || this.#live.size === 0, 'a step with requests does something');
    return decided;
  }

  #known(id: string): Live {
    const live = this.#live.get(id);
    assert.ok(live, `${id} has left already`);
    return live;
  }

  #admit(live: Live, index: number): void {
    assert.equal(live.stage, 'waiting');
    this.pool.addRow(index);
    const group = this.rows.get(index) ?? [];
    group.push(live);
    this.rows.set(index, group);
    live.class = index;
    live.stage = 'prefill';
    live.held = 0;
    live.admissions++;
    this.#restore(live);
    for (const other of this.#live.values()) {
      if (other === live || other.stage !== 'prefill') continue;
      const most = Math.min(other.count, live.count - 1);
      const length = commonLength(live.symbols, 0, other.symbols, 0, most);
      if (length > Math.max(live.held, live.sharing?.length ?? 0)) live.sharing = { with: other, length };
    }
  }

  #restore(live: Live): void {
    const hit = this.tree.lookup('scope', live.symbols, live.count - 1);
    if (hit.length <= live.held) return;
    this.pool.ensureCapacity(live.class, hit.length);
    const arena = this.pool.arena(live.class);
    const slot = this.rows.get(live.class)!.indexOf(live);
    this.restoredTokens += hit.length - live.held;
    let at = 0;
    for (const { span, from, to } of hit.pieces) {
      const skipped = Math.max(0, live.held - at);
      at += to - from;
      if (at > live.held) arena.restore(slot, span, from + skipped, to);
      live.held = Math.max(live.held, at);
    }
  }

  #store(live: Live): void {
    const slot = this.rows.get(live.class)!.indexOf(live);
    const arena = this.pool.arena(live.class);
    this.tree.insert('scope', live.symbols, live.held, (from, to) => arena.save(slot, from, to));
  }

  /** Runs `tokens` positions through the model: checks all it would read, writes what it would write. */
  #compute(live: Live, tokens: number): void {
    assert.ok(tokens >= 1);
    assert.ok(
      live.hasFeatures || live.held + tokens <= 0 || live.held >= IMAGE_TOKENS,
      'images come before their prompt',
    );
    this.pool.ensureCapacity(live.class, live.held + tokens);
    const arena = this.pool.arena(live.class);
    const slot = this.rows.get(live.class)!.indexOf(live);
    this.#checkRow(live, slot);
    const D = this.pool.shape.headDim;
    const keys = new Float32Array(tokens * D);
    for (let token = 0; token < tokens; token++) keys.set(numbersOf(live.marks[live.held + token]!, D), token * D);
    arena.append(slot, tokens, { keys: [keys], values: [keys], batchRow: 0, stride: tokens });
    live.held += tokens;
  }

  #checkRow(live: Live, slot: number): void {
    const arena = this.pool.arena(live.class);
    const { headDim: D, format } = arena.shape;
    assert.equal(arena.length(slot), live.held);
    const T = arena.capacityTokens;
    const bias = arena.biasFor(slot, 1);
    const { k, v, kScale, vScale } = arena.views(slot, 1)[0]!;
    for (let at = 0; at < T; at++) {
      if ((bias[at] === 0) !== at < live.held) assert.fail(`bias at ${at} of ${live.held} is ${bias[at]}`);
      if (at >= live.held) continue;
      const expected = numbersOf(live.marks[at]!, D);
      for (let d = 0; d < D; d++) {
        const key = format === 'f32' ? k[at * D + d]! : k[(at - (at % 2)) * D + 2 * d + (at % 2)]! * kScale![at]!;
        const value = v[at * D + d]! * (vScale?.[at] ?? 1);
        if (key !== expected[d] || value !== expected[d])
          assert.fail(`${live.id} position ${at}: ${key} and ${value} are stored, expected ${expected[d]}`);
      }
    }
  }

  #take(live: Live): void {
    take(live);
    if (live.count - live.promptTokens < live.asked.newTokens) return;
    this.#store(live);
    this.#leave(live, 'done');
  }

  #leave(live: Live, why: Outcome['why']): void {
    if (live.stage !== 'waiting') this.#removeRow(live);
    this.#live.delete(live.id);
    this.outcomes.push({
      ...{ arrival: live.arrival, leftAt: this.step, why, preemptions: Math.max(0, live.admissions - 1) },
      tokens: [...live.symbols.tokenIds.subarray(live.promptTokens, live.count)],
    });
  }

  #removeRow(live: Live): void {
    const group = this.rows.get(live.class)!;
    const slot = group.indexOf(live);
    this.pool.arena(live.class).removeRow(slot);
    const last = group.pop()!;
    if (slot < group.length) group[slot] = last;
    live.held = 0;
  }

  #checkBudget(): void {
    if (this.pool.rows > this.capacity.maxRows) assert.fail(`${this.pool.rows} rows of ${this.capacity.maxRows}`);
    if (this.pool.positions > this.capacity.kvTokens)
      assert.fail(`${this.pool.positions} positions of ${this.capacity.kvTokens}`);
    if (this.tree.bytes > this.tree.budgetBytes) assert.fail(`the tree holds ${this.tree.bytes} bytes`);
  }
}

function scheduled(live: Live, nowMs: number): ScheduledRequest {
  const { asked, sharing } = live;
  const isShared = sharing !== null && sharing.with.stage === 'prefill' && sharing.with.held < sharing.length;
  return {
    id: live.id,
    arrival: live.arrival,
    priority: asked.priority,
    stage: live.stage,
    targetTokens: live.count,
    heldTokens: live.held,
    maxTokens: live.promptTokens + asked.newTokens,
    pendingImages: live.stage !== 'decode' && !live.hasFeatures && live.held < IMAGE_TOKENS ? 1 : 0,
    sharesWith: isShared ? sharing.with.id : null,
    waitingSinceMs: asked.arriveAt,
    cancelled: asked.cancelAt !== null && asked.cancelAt <= nowMs,
    deadlineAtMs: null,
  };
}

/** Whole numbers that an int8 cache keeps: two digits of the mark and 127. */
function numbersOf(value: number, D: number): readonly number[] {
  return D === 1 ? [value] : [Math.floor(value / 256) % 128, value % 128, Math.floor(value / 128) % 2, 127];
}
