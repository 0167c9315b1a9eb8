import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import fc from 'fast-check';
import { duration, rateLimitHeaders, refusalMessage } from '../../../edge/limits/headers.ts';
import { type Cost, LimiterState } from '../../../edge/limits/limiter.ts';
import { parseKeyLimits, UNLIMITED, withDefaults } from '../../../edge/limits/settings.ts';
import { SlidingWindow } from '../../../edge/limits/window.ts';
import type { KeyLimits } from '../../../shared/contract/keys.ts';

const WINDOW_MS = 60_000;
const OPTIONS = { windowMs: WINDOW_MS, concurrentRetryMs: 1_000 };
const cost = (more: Partial<Cost> = {}): Cost => ({ requests: 1, images: 0, imageTokens: 0, bytes: 0, ...more });
const limits = (more: Partial<KeyLimits>): KeyLimits => ({ ...UNLIMITED, ...more });

/** Most that was admitted within any window. */
function mostInAnyWindow(events: readonly { atMs: number; amount: number }[]): number {
  let most = 0;
  let from = 0;
  let sum = 0;
  for (const { atMs, amount } of events) {
    sum += amount;
    while (events[from]!.atMs <= atMs - WINDOW_MS) sum -= events[from++]!.amount;
    most = Math.max(most, sum);
  }
  return most;
}

const arrivals = (maxGapMs: number) =>
  fc.array(fc.record({ gapMs: fc.nat({ max: maxGapMs }), amount: fc.integer({ min: 1, max: 50 }) }), {
    minLength: 1,
    maxLength: 600,
  });

describe('a sliding window', () => {
  it('lets at most 1 % more than the limit through in any window', () => {
    fc.assert(
      fc.property(fc.integer({ min: 1, max: 3_000 }), arrivals(2_000), (limit, gaps) => {
        const window = new SlidingWindow(WINDOW_MS);
        const admitted: { atMs: number; amount: number }[] = [];
        let atMs = 1_000_000;
        for (const { gapMs, amount } of gaps) {
          atMs += gapMs;
          if (window.waitMs(amount, limit, atMs) !== 0) continue;
          window.add(amount, limit, atMs);
          admitted.push({ atMs, amount });
        }
        assert.ok(mostInAnyWindow(admitted) <= 1.01 * limit);
        assert.ok(window.size <= 250, `${window.size} entries`);
      }),
      { numRuns: 300 },
    );
  });

  it('never refuses who keeps to the limit', () => {
    fc.assert(
      fc.property(fc.integer({ min: 50, max: 3_000 }), arrivals(1_500), (limit, gaps) => {
        const window = new SlidingWindow(WINDOW_MS);
        const sent: { atMs: number; amount: number }[] = [];
        let atMs = 5;
        for (const { gapMs, amount } of gaps) {
          atMs += gapMs;
          // Only sends what keeps every window within the limit.
          const recent = sent
            .filter((event) => event.atMs > atMs - WINDOW_MS)
            .reduce((sum, { amount: a }) => sum + a, 0);
          if (recent + amount > limit) continue;
          assert.equal(window.waitMs(amount, limit, atMs), 0);
          window.add(amount, limit, atMs);
          sent.push({ atMs, amount });
        }
      }),
      { numRuns: 300 },
    );
  });

  it('says truly when to come back', () => {
    fc.assert(
      fc.property(fc.integer({ min: 50, max: 500 }), arrivals(800), (limit, gaps) => {
        const window = new SlidingWindow(WINDOW_MS);
        let atMs = 5;
        for (const { gapMs, amount } of gaps) {
          atMs += gapMs;
          const waitMs = window.waitMs(amount, limit, atMs);
          assert.ok(waitMs !== null && waitMs <= WINDOW_MS);
          if (waitMs > 0) {
            assert.notEqual(window.waitMs(amount, limit, atMs + waitMs - 1), 0);
            atMs += waitMs;
          }
          assert.equal(window.waitMs(amount, limit, atMs), 0);
          window.add(amount, limit, atMs);
          const resetMs = window.resetMs(atMs);
          assert.ok(resetMs > 0 && resetMs <= WINDOW_MS);
        }
        assert.equal(window.used(atMs + window.resetMs(atMs)), 0);
      }),
      { numRuns: 200 },
    );
  });

  it('keeps few entries for large limits, and stands still when time runs backwards', () => {
    const window = new SlidingWindow(WINDOW_MS);
    for (let i = 0; i < 1_000_000; i++) window.add(1, 1_000_000, i / 20);
    assert.ok(window.size <= 250, `${window.size}`);
    assert.equal(window.used(49_999), 1_000_000);
    assert.equal(window.used(0), 1_000_000);
    assert.equal(window.waitMs(1_000_001, 1_000_000, 50_000), null);
  });
});

describe('the limits of keys', () => {
  it('admit or refuse as a whole, key by key, with headers that agree', () => {
    const kinds = fc.record({
      key: fc.constantFrom('a', 'b'),
      gapMs: fc.nat({ max: 5_000 }),
      images: fc.nat({ max: 6 }),
      bytes: fc.nat({ max: 2_000 }),
    });
    fc.assert(
      fc.property(fc.array(kinds, { maxLength: 200 }), (requests) => {
        const state = new LimiterState(OPTIONS);
        const given = limits({
          requestsPerMinute: 10,
          imagesPerMinute: 30,
          imageTokensPerMinute: 3_000,
          bytesPerMinute: 9_000,
        });
        const before = new Map<string, Map<string, number>>();
        let nowMs = 1;
        for (const { key, gapMs, images, bytes } of requests) {
          nowMs += gapMs;
          const asked = cost({ images, imageTokens: images * 100, bytes });
          const amounts = {
            requestsPerMinute: 1,
            imagesPerMinute: images,
            imageTokensPerMinute: images * 100,
            bytesPerMinute: bytes,
          };
          const { refusal, standings } = state.admit(key, given, asked, nowMs);
          assert.equal(standings.length, 4);
          for (const { name, limit, remaining, resetMs } of standings) {
            assert.ok(remaining >= 0 && remaining <= limit && resetMs >= 0 && resetMs <= WINDOW_MS);
            const least = before.get(key)?.get(name) ?? limit;
            // Time gives back, an admitted request takes; a refused one takes nothing.
            assert.ok(remaining >= least - (refusal === null ? amounts[name] : 0));
          }
          if (refusal !== null) {
            assert.ok(refusal.asked > refusal.left);
            const later = new Map(standings.map(({ name, remaining }) => [name, remaining]));
            assert.equal(later.get(refusal.name as 'requestsPerMinute'), refusal.left);
            assert.ok(refusal.waitMs !== null && refusal.waitMs > 0);
          }
          before.set(key, new Map(standings.map(({ name, remaining }) => [name, remaining])));
        }
      }),
      { numRuns: 100 },
    );
  });

  it('come back exactly when they said', () => {
    const state = new LimiterState(OPTIONS);
    const given = limits({ requestsPerMinute: 3 });
    for (const atMs of [0, 10, 20]) assert.equal(state.admit('a', given, cost(), atMs).refusal, null);
    const { refusal } = state.admit('a', given, cost(), 30);
    assert.deepEqual(refusal, { name: 'requestsPerMinute', limit: 3, left: 0, asked: 1, waitMs: WINDOW_MS - 30 });
    assert.notEqual(state.admit('a', given, cost(), WINDOW_MS - 1).refusal, null);
    assert.equal(state.admit('a', given, cost(), WINDOW_MS).refusal, null);
    // Another key, and a key without limits, are not held back.
    assert.equal(state.admit('b', given, cost(), 30).refusal, null);
    assert.deepEqual(state.admit('a', UNLIMITED, cost(), 30), { refusal: null, standings: [] });
  });

  it('name what never fits, and charge what was refused for its content', () => {
    const state = new LimiterState(OPTIONS);
    const given = limits({ requestsPerMinute: 2, imagesPerMinute: 4 });
    const tooMuch = state.admit('a', given, cost({ images: 5 }), 0);
    assert.deepEqual(tooMuch.refusal, { name: 'imagesPerMinute', limit: 4, left: 4, asked: 5, waitMs: null });
    assert.match(refusalMessage(tooMuch.refusal!), /4 images per minute.* needs 5.*never/);
    for (let i = 0; i < 3; i++) state.admit('a', given, cost(), 0, { force: true });
    const over = state.admit('a', given, cost(), 1);
    assert.equal(over.refusal?.left, 0);
    assert.equal(over.standings[0]?.remaining, 0);
  });

  it('count running requests until they end or their lease does', () => {
    const state = new LimiterState(OPTIONS);
    const given = limits({ concurrent: 2 });
    const slot = (id: string) => ({ slot: { id, leaseMs: 30_000 } });
    assert.equal(state.admit('a', given, cost(), 0, slot('1')).refusal, null);
    assert.equal(state.admit('a', given, cost(), 0, slot('2')).refusal, null);
    assert.deepEqual(state.admit('a', given, cost(), 0, slot('3')).refusal, {
      name: 'concurrent',
      limit: 2,
      left: 0,
      asked: 1,
      waitMs: 1_000,
    });
    state.release('a', '1');
    state.release('a', '1');
    state.release('a', 'never there');
    assert.equal(state.admit('a', given, cost(), 0, slot('3')).refusal, null);
    state.renew('a', { id: '2', leaseMs: 30_000 }, 29_000);
    // 3's isolate is lost, 2 goes on.
    assert.equal(state.admit('a', given, cost(), 30_000, slot('4')).refusal, null);
    assert.notEqual(state.admit('a', given, cost(), 30_000, slot('5')).refusal, null);
    assert.equal(state.admit('a', limits({ concurrent: 0 }), cost(), 90_000, slot('6')).refusal?.waitMs, null);
  });

  it('forget keys that are idle', () => {
    const state = new LimiterState(OPTIONS);
    for (let i = 0; i < 1_000; i++) state.admit(`k${i}`, limits({ requestsPerMinute: 1 }), cost(), i * 100);
    assert.ok(state.size <= 601, `${state.size}`);
  });
});

describe('how limits are told', () => {
  it('durations as OpenAI writes them', () => {
    const shown = [0, 0.2, 999, 1_000, 1_500, 59_999, 60_000, 360_000].map(duration);
    assert.deepEqual(shown, ['0s', '1ms', '999ms', '1s', '1.5s', '59.999s', '1m0s', '6m0s']);
  });

  it('headers only of limits that there are', () => {
    const state = new LimiterState(OPTIONS);
    const { standings } = state.admit('a', limits({ imagesPerMinute: 10, bytesPerMinute: 5 }), cost({ images: 3 }), 0);
    assert.deepEqual(rateLimitHeaders(standings), {
      'x-ratelimit-limit-images': '10',
      'x-ratelimit-remaining-images': '7',
      'x-ratelimit-reset-images': '1m0s',
    });
  });

  it("the installation's limits fill gaps, and wrong ones are named", () => {
    assert.deepEqual(
      withDefaults(limits({ concurrent: 3 }), '{"concurrent": 5, "requestsPerMinute": 60}'),
      limits({ concurrent: 3, requestsPerMinute: 60 }),
    );
    assert.equal(withDefaults(UNLIMITED, ''), UNLIMITED);
    for (const text of ['x', '[]', '{"requests": 1}', '{"concurrent": 1.5}', '{"concurrent": -1}'])
      assert.throws(() => parseKeyLimits(text), /MANTIS_KEY_LIMITS: expected JSON/);
  });
});
