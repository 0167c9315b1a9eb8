/** The engine, its cache and its arenas on a tiny pool: all mixes of a few requests, and random load for long. */
import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import type { EngineEvent } from '../../../gpu-backend/engine/engine.ts';
import { Engine } from '../../../gpu-backend/engine/engine.ts';
import { FeatureCache } from '../../../gpu-backend/engine/feature-cache.ts';
import type { EngineRequest } from '../../../gpu-backend/engine/live-request.ts';
import { smallCapacity } from '../../fixtures/engine.ts';
import { HashRunner, makeRequest, reference, VOCAB } from './hash-runner.ts';
import { randomOf } from './kv/random.ts';

const isLong = process.env.MANTIS_LONG_TESTS === '1';
const AGING_MS = 12;

/** Three rows and 16 positions: one long request fills most of it. A step is a millisecond. */
const tiny = smallCapacity({
  maxRows: 3,
  kvTokens: 16,
  kvStepTokens: 2,
  classBounds: [4],
  idleChunkTokens: 4,
  busyChunkTokens: 2,
  imagesPerRun: 2,
  growthTokens: 1,
  agingMs: AGING_MS,
});

interface Asked {
  readonly request: EngineRequest;
  readonly arriveAt: number;
  readonly cancelAt: number | null;
}

/** An engine under a clock of steps, whose answers are checked as they end. */
class Checked {
  readonly engine: Engine;
  readonly #asked = new Map<string, { readonly request: EngineRequest; readonly tokens: number[] }>();
  ended = 0;
  step = 0;

  constructor(runner: HashRunner, prefixCacheBytes: number, capacity = tiny) {
    this.engine = new Engine({
      runner,
      capacity,
      prefixCacheBytes,
      cache: new FeatureCache(40),
      nowMs: () => this.step,
      emit: (events) => events.forEach((event) => this.#take(event)),
    });
  }

  submit(request: EngineRequest): void {
    this.#asked.set(request.id, { request, tokens: [] });
    this.engine.submit(request);
  }

  async run(): Promise<void> {
    this.step++;
    await this.engine.step();
  }

  #take(event: EngineEvent): void {
    const asked = this.#asked.get(event.id)!;
    if (event.type === 'token') asked.tokens.push(event.token.id);
    if (event.type === 'failed') assert.fail(`${event.id}: ${event.message}`);
    if (event.type !== 'end') return;
    this.#asked.delete(event.id);
    this.ended++;
    const expected = reference(asked.request);
    if (event.reason === 'cancelled') assert.deepEqual(asked.tokens, expected.slice(0, asked.tokens.length));
    else assert.deepEqual(asked.tokens, expected, event.id);
  }

  checkEmpty(): void {
    this.engine.trim();
    const { prefixBytes: _, ...load } = this.engine.load;
    assert.deepEqual(load, { running: 0, waiting: 0, kvTokens: 0, kvBytes: 0 });
  }
}

describe('the engine on a tiny pool', () => {
  it('all mixes of three requests: everything ends in time with its solo answer, nothing is left', async () => {
    const kinds: readonly (readonly [
      prompt: readonly number[],
      pictures: readonly number[],
      newTokens: number,
      priority: 'interactive' | 'batch',
      cancelAt: number | null,
    ])[] = [
      [[10], [], 1, 'interactive', null],
      [[10, 11, 12, 13, 14, 15, 16], [], 6, 'interactive', null],
      [[10, 11, 12, 13, 14, 15, 16], [], 6, 'batch', null],
      [[10, 20, 21], [1], 6, 'interactive', null],
      [[10, 20, 21], [1, 2], 5, 'batch', null],
      [[10, 11, 12, 13, 14], [], 6, 'interactive', 4],
      [[10, 20, 21], [1], 6, 'batch', 4],
    ];
    const arrivals = isLong ? [0, 1, 3] : [0, 2];
    let mixes = 0;
    let preemptions = 0;
    for (const a of kinds)
      for (const b of kinds)
        for (const c of isLong ? kinds : kinds.slice(1, 5))
          for (const later of arrivals)
            for (const prefixCacheBytes of [0, 600]) {
              const all = [a, b, c].map(([prompt, pictures, newTokens, priority, cancelAt], i): Asked => {
                const request = { ...makeRequest(`r${i}`, prompt, pictures, newTokens), stopIds: [], priority };
                return { request, arriveAt: i * later, cancelAt };
              });
              const runner = new HashRunner();
              runner.writesInPlace = mixes % 2 === 0;
              const checked = new Checked(runner, prefixCacheBytes);
              // One after the other, at one position a step; preempted work is computed again, hence the factor.
              const solo = all.reduce((sum, { request }) => sum + request.tokenIds.length + request.maxNewTokens, 0);
              const bound = 3 * solo + AGING_MS + 2 * later;
              while (checked.ended < all.length) {
                for (const { request, arriveAt, cancelAt } of all) {
                  if (arriveAt === checked.step) checked.submit(request);
                  if (cancelAt !== null && arriveAt + cancelAt === checked.step) checked.engine.cancel(request.id);
                }
                await checked.run();
                assert.ok(checked.step <= bound, `mix ${mixes} is not over after ${bound} steps`);
              }
              checked.checkEmpty();
              preemptions += checked.engine.counters.preemptions;
              mixes++;
            }
    assert.ok(preemptions > mixes / 20, `${preemptions} preemptions in ${mixes} mixes`);
  });

  const steps = isLong ? 100_000 : 10_000;
  it(`${steps} steps of random load: everything ends, memory is flat`, async () => {
    const next = randomOf(17);
    const pick = (below: number) => Math.floor(next() * below);
    const runner = new HashRunner();
    const checked = new Checked(runner, 3000, { ...tiny, maxRows: 4, kvTokens: 48, agingMs: 200 });
    const live = new Map<string, number>();
    let arrived = 0;
    let heapAfterWarmUp = 0;
    while (checked.step < steps || checked.engine.busy) {
      if (checked.step < steps && checked.engine.load.running + checked.engine.load.waiting < 12 && next() < 0.3) {
        const prompt = Array.from({ length: 1 + pick(8) }, (_, i) => (i < 3 ? 10 : 10 + pick(VOCAB - 10)));
        const pictures = Array.from({ length: pick(3) }, () => pick(4));
        const id = `r${arrived++}`;
        const priority = next() < 0.3 ? 'batch' : 'interactive';
        checked.submit({ ...makeRequest(id, prompt, pictures, 1 + pick(9)), priority });
        if (next() < 0.1) live.set(id, checked.step + pick(40));
      }
      for (const [id, at] of live)
        if (at <= checked.step) {
          checked.engine.cancel(id);
          live.delete(id);
        }
      runner.writesInPlace = next() < 0.5;
      await checked.run();
      assert.ok(checked.engine.load.kvTokens <= 48 && checked.engine.load.prefixBytes <= 3000);
      if (checked.step === steps / 4) heapAfterWarmUp = process.memoryUsage().heapUsed;
    }
    assert.equal(checked.ended, arrived);
    checked.checkEmpty();
    const { preemptions, cachedTokens } = checked.engine.counters;
    assert.ok(
      preemptions > steps / 1000 && cachedTokens > steps / 10,
      `${preemptions} preempted, ${cachedTokens} reused`,
    );
    const grown = process.memoryUsage().heapUsed - heapAfterWarmUp;
    assert.ok(grown < 40e6, `the heap grew by ${Math.round(grown / 1e6)} MB`);
  });
});
