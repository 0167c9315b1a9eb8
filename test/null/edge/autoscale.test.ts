import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import fc from 'fast-check';
import { newMemory, planReplicas, type ScalingConfig, type ScalingMemory } from '../../../edge/fleet/autoscale/plan.ts';
import type { BackendSnapshot, FleetSnapshot } from '../../../edge/fleet/autoscale/snapshot.ts';
import { type Load, ScaledFleet } from './autoscale-simulation.ts';

const CONFIG: ScalingConfig = {
  min: 0,
  max: 4,
  buffer: 0,
  idleMs: 60_000,
  upAfterMs: 1_000,
  downAfterMs: 30_000,
  targetLoad: 0.75,
  maxWaitMs: 2_000,
  rowsPerBackend: 32,
  tokensPerBackend: 32_768,
};
const NO_JOBS = { queued: 0, running: 0 };
const START_MS = 1_800_000_000_000;

const backend = (id: string, more: Partial<BackendSnapshot> = {}): BackendSnapshot => ({
  id,
  state: 'ready',
  inFlight: 0,
  costTokens: 0,
  capacity: 32,
  hasJob: false,
  startedAtMs: START_MS,
  coldStartMs: 1_000,
  ...more,
});
const waiting = (rows = 0, more: Partial<FleetSnapshot['queue']> = {}): FleetSnapshot['queue'] => ({
  length: rows,
  rows,
  costTokens: rows * 200,
  oldestWaitMs: 0,
  ...more,
});
const plan = (fleet: FleetSnapshot, memory: ScalingMemory, config = CONFIG, nowMs = START_MS, jobs = NO_JOBS) =>
  planReplicas({ fleet, jobs, memory }, config, nowMs);

const someConfig = fc
  .record({
    min: fc.nat({ max: 3 }),
    more: fc.nat({ max: 6 }),
    buffer: fc.nat({ max: 2 }),
    idleMs: fc.integer({ min: 1_000, max: 120_000 }),
    upAfterMs: fc.nat({ max: 5_000 }),
    downAfterMs: fc.nat({ max: 60_000 }),
  })
  .map(({ more, ...some }): ScalingConfig => ({ ...CONFIG, ...some, max: Math.max(1, some.min + more) }));
const someBackends = fc.array(
  fc.record({
    state: fc.constantFrom('ready' as const, 'ready' as const, 'draining' as const, 'gone' as const),
    inFlight: fc.nat({ max: 40 }),
    hasJob: fc.boolean(),
  }),
  { maxLength: 8 },
);
const someFleet = fc.record({ backends: someBackends, rows: fc.nat({ max: 300 }), waitMs: fc.nat({ max: 10_000 }) });
type SomeFleet = typeof someFleet extends fc.Arbitrary<infer T> ? T : never;
const fleetOf = ({ backends, rows, waitMs }: SomeFleet): FleetSnapshot => ({
  backends: backends.map((one, i) => backend(`b${i}`, { ...one, costTokens: one.inFlight * 300 })),
  queue: waiting(rows, { oldestWaitMs: rows > 0 ? waitMs : 0 }),
});

describe('the plan of backends', () => {
  it('stays within its bounds and never ends one that works or trains, whatever is seen', () => {
    fc.assert(
      fc.property(
        someConfig,
        fc.nat({ max: 10 }),
        fc.array(fc.tuple(someFleet, fc.nat({ max: 20_000 })), { maxLength: 40 }),
        (config, running, seen) => {
          let memory = newMemory(running, START_MS);
          let nowMs = START_MS;
          for (const [some, gapMs] of seen) {
            nowMs += gapMs;
            const fleet = fleetOf(some);
            const before = memory.retiring;
            const next = plan(fleet, memory, config, nowMs);
            assert.ok(next.desired >= config.min && next.desired <= config.max, JSON.stringify(next));
            const ready = fleet.backends.filter(({ state }) => state === 'ready');
            assert.ok(ready.length - next.retiring.length >= Math.min(next.desired, ready.length));
            for (const id of next.retiring) assert.equal(ready.find((one) => one.id === id)?.hasJob, false);
            for (const id of next.removable) {
              assert.equal(ready.find((one) => one.id === id)?.inFlight, 0);
              assert.ok(before.includes(id), 'it was told in the plan before that nothing new comes');
            }
            assert.ok(next.memory.lows.length <= config.max + 1 && next.memory.highs.length <= config.max + 12);
            memory = structuredClone(next.memory);
          }
        },
      ),
    );
  });

  it('wants no fewer for more', () => {
    fc.assert(
      fc.property(
        someConfig,
        someFleet,
        someFleet,
        fc.record({ rows: fc.nat({ max: 100 }), waitMs: fc.nat({ max: 5_000 }), queued: fc.nat({ max: 3 }) }),
        (config, past, now, more) => {
          const { memory } = plan(fleetOf(past), newMemory(1, START_MS), config, START_MS);
          const nowMs = START_MS + 700;
          const less = plan(fleetOf(now), memory, config, nowMs);
          const grown = { ...now, rows: now.rows + more.rows, waitMs: now.waitMs + more.waitMs };
          const jobs = { queued: more.queued, running: 0 };
          assert.ok(plan(fleetOf(grown), memory, config, nowMs, jobs).desired >= less.desired);
        },
      ),
    );
  });

  it('starts the first backend at the first request, and others only for what lasts', () => {
    const first = plan({ backends: [], queue: waiting(1) }, newMemory(0, START_MS));
    assert.equal(first.desired, 1);
    const burst = { backends: [backend('a', { inFlight: 32 })], queue: waiting(60) };
    const calm = { backends: [backend('a', { inFlight: 3 })], queue: waiting() };
    const before = plan(calm, newMemory(1, START_MS));
    const soon = plan(burst, before.memory, CONFIG, START_MS + 500);
    assert.equal(soon.desired, 1);
    assert.match(soon.reason, /92 answers, not yet for long enough/);
    assert.equal(plan(burst, soon.memory, CONFIG, START_MS + 1_600).desired, 4);
    assert.equal(plan(calm, soon.memory, CONFIG, START_MS + 1_600).desired, 1);
  });

  it('counts what answers hold, so that few with many pictures weigh as much as many without', () => {
    const pictures = { backends: [backend('a', { inFlight: 4, costTokens: 60_000 })], queue: waiting() };
    const next = plan(pictures, newMemory(1, START_MS));
    assert.equal(next.desired, 3);
    assert.equal(next.reason, '60000 decoder positions');
    const roomy = {
      ...pictures,
      backends: [backend('a', { inFlight: 4, costTokens: 60_000, capacityTokens: 90_000 })],
    };
    assert.equal(plan(roomy, newMemory(1, START_MS)).desired, 1);
  });

  it('takes one more while somebody waits too long, one for each job, and those in reserve', () => {
    const slow = { backends: [backend('a', { inFlight: 2 })], queue: waiting(1, { oldestWaitMs: 2_001 }) };
    assert.equal(plan(slow, newMemory(1, START_MS)).desired, 2);
    const nobody = { backends: [], queue: waiting() };
    assert.equal(plan(nobody, newMemory(0, START_MS), CONFIG, START_MS, { queued: 3, running: 0 }).desired, 3);
    const some = { backends: [backend('a', { inFlight: 1 })], queue: waiting() };
    assert.equal(plan(some, newMemory(1, START_MS), { ...CONFIG, buffer: 1 }).desired, 2);
    assert.equal(plan(nobody, newMemory(0, START_MS), { ...CONFIG, buffer: 1 }).desired, 0, 'nothing, no reserve');
  });

  it('has the emptiest go, after what it works on, and none with a job', () => {
    const busy = backend('busy', { inFlight: 9 });
    const trains = backend('trains', { hasJob: true });
    const nearly = backend('nearly', { inFlight: 1, costTokens: 500 });
    const config = { ...CONFIG, downAfterMs: 0, targetLoad: 1 };
    const one = plan({ backends: [busy, trains, nearly], queue: waiting() }, newMemory(3, START_MS), config);
    assert.deepEqual([one.desired, one.retiring, one.removable], [1, ['nearly', 'busy'], []]);
    const empty = backend('nearly');
    const two = plan({ backends: [busy, trains, empty], queue: waiting() }, one.memory, config, START_MS + 500);
    assert.deepEqual([two.retiring, two.removable], [['nearly', 'busy'], ['nearly']]);
    const more = { backends: [busy, trains], queue: waiting(40) };
    const soon = plan(more, two.memory, config, START_MS + 1_000);
    assert.deepEqual([soon.desired, soon.retiring], [1, ['busy']]);
    const three = plan(more, soon.memory, config, START_MS + 2_500);
    assert.deepEqual([three.desired, three.retiring], [2, []], 'there is work again: it stays');
  });
});

describe('a scaled fleet', () => {
  it('goes from none to what a load needs, stays there, and back to none', () => {
    fc.assert(
      fc.property(fc.integer({ min: 1, max: 60 }), fc.integer({ min: 200, max: 9_000 }), (perSecond, coldStartMs) => {
        const fleet = new ScaledFleet(CONFIG, { coldStartMs, serviceMs: 800, capacity: 32 });
        const load: Load = (ms) => (ms < 120_000 ? perSecond : 0);
        const { trace, refused, lost, longestWaitMs } = fleet.run(load, 320_000);
        assert.equal(lost + refused, 0, 'no answer is cut and none refused');
        assert.ok(longestWaitMs <= coldStartMs + 5_000, `somebody waited ${longestWaitMs} ms`);
        const needed = Math.ceil((perSecond * 0.8) / (32 * CONFIG.targetLoad));
        const settled = trace.filter(({ ms }) => ms > 90_000 && ms < 120_000);
        assert.ok(
          settled.every(({ desired }) => desired === settled[0]?.desired),
          'settled',
        );
        assert.ok((settled[0]?.desired ?? 0) >= needed && (settled[0]?.desired ?? 0) <= Math.min(4, needed + 1));
        assert.equal(trace.at(-1)?.desired, 0);
        assert.equal(trace.at(-1)?.running, 0);
        assert.ok(changes(trace) <= 10, `${changes(trace)} changes`);
      }),
      { numRuns: 60 },
    );
  });

  it('does not follow swings that are shorter than its windows', () => {
    const fleet = new ScaledFleet(CONFIG, { coldStartMs: 1_000, serviceMs: 800, capacity: 32 });
    // 10 s of heavy load, 10 s of nearly none, for ten minutes.
    const { trace, lost } = fleet.run((ms) => (Math.floor(ms / 10_000) % 2 === 0 ? 90 : 2), 600_000);
    assert.equal(lost, 0);
    assert.equal(changes(trace.filter(({ ms }) => ms > 60_000)), 0);
  });

  it('replaces backends that die', () => {
    const fleet = new ScaledFleet(CONFIG, { coldStartMs: 1_000, serviceMs: 800, capacity: 32, diesEveryMs: 5_000 });
    const { trace } = fleet.run(() => 40, 180_000);
    assert.ok(trace.filter(({ ms }) => ms > 20_000).every(({ desired }) => desired >= 2 && desired <= 4));
  });
});

function changes(trace: readonly { desired: number }[]): number {
  return trace.filter(({ desired }, i) => i > 0 && desired !== trace[i - 1]?.desired).length;
}
