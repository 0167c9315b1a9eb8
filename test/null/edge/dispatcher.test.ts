import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import type { Outcome } from '../../../edge/fleet/dispatcher.ts';
import { LIMITS } from '../../../shared/contract/limits.ts';
import { report } from './fleet-fixtures.ts';
import { type SimulatedBackend, Simulation, seeded } from './fleet-simulation.ts';

const F = LIMITS.fleet;
/** 16 places of 100 ms: 160 answers a second. */
const SERVICE_MS = 100;
const PEAK = 160;

const steady = (id: string, more: Partial<SimulatedBackend> = {}): SimulatedBackend => ({
  id,
  capacity: 16,
  serve: () => ({ afterMs: SERVICE_MS, outcome: 'done' }),
  ...more,
});
const failing = (outcome: Outcome, afterMs = 5) => ({ serve: () => ({ afterMs, outcome }) });
const percentile = (values: readonly number[], share: number) =>
  [...values].sort((a, b) => a - b)[Math.floor(share * (values.length - 1))] ?? 0;
const waits = (simulation: Simulation, fromMs: number) =>
  simulation.finished
    .filter(({ result, arrivedAtMs }) => result === 'done' && arrivedAtMs >= 1_000_000 + fromMs)
    .map(({ arrivedAtMs, endedAtMs }) => endedAtMs - arrivedAtMs);

describe('dispatcher under load', () => {
  for (const factor of [2, 10]) {
    it(`answers at the peak rate with ${factor} times the load, and keeps the line short`, () => {
      const simulation = new Simulation([steady('a')], seeded(factor));
      simulation.load(PEAK * factor, 60_000);
      simulation.run(60_000);
      assert.ok(simulation.goodput(1_000, 60_000) >= 0.98 * PEAK, `${simulation.goodput(1_000, 60_000)}`);
      assert.ok(simulation.mostWaiting <= F.maxQueued);
      // The burst's long line is gone; what is let in waits about as long as the limit says.
      assert.ok(percentile(waits(simulation, 30_000), 0.99) <= F.standingWaitMs + 3 * SERVICE_MS);
      const refusals = simulation.finished.filter(
        ({ result }) => result === 'wait_too_long' || result === 'queue_full',
      );
      for (const { arrivedAtMs, endedAtMs } of refusals) assert.equal(endedAtMs, arrivedAtMs, 'refused at once');
    });
  }

  it('serves a burst of 200 whole', () => {
    const simulation = new Simulation([steady('a')]);
    simulation.at(1_000, () => {
      for (let i = 0; i < 200; i++) simulation.request();
    });
    simulation.run(10_000);
    assert.equal(simulation.finished.filter(({ result }) => result === 'done').length, 200);
  });

  it('recovers at once when the load goes away', () => {
    const simulation = new Simulation([steady('a')], seeded(3));
    simulation.load(3 * PEAK, 60_000);
    simulation.run(60_000);
    simulation.load(0.7 * PEAK, 60_000);
    simulation.run(60_000);
    const after = waits(simulation, 65_000);
    assert.ok(simulation.goodput(65_000, 119_000) >= 0.95 * 0.7 * PEAK);
    assert.ok(percentile(after, 0.99) < 3 * SERVICE_MS, `${percentile(after, 0.99)}`);
  });

  it('does not multiply the load of backends that all fail', () => {
    const backends = ['a', 'b', 'c', 'd'].map((id) => steady(id, failing('failed')));
    const simulation = new Simulation(backends, seeded(4));
    simulation.load(100, 30_000);
    simulation.run(30_000);
    const calls = [...simulation.calls.values()].reduce((sum, count) => sum + count, 0);
    assert.ok(calls <= 1.2 * 3_000, `${calls}`);
  });

  /** How many of 11,520 requests it may see. */
  const bad: [what: string, behaviour: Partial<SimulatedBackend>, mostCalls: number][] = [
    ['is not reachable', failing('unreachable'), 60],
    ['answers with errors', failing('failed'), 60],
    ['swallows requests', failing('failed', 5_000), 60],
    ['fails every second time', { serve: flipping() }, 600],
    ['is ten times as slow', { serve: () => ({ afterMs: 10 * SERVICE_MS, outcome: 'done' }) }, 1_000],
  ];
  for (const [what, behaviour, mostCalls] of bad) {
    it(`shields clients from one of four backends that ${what}`, () => {
      const simulation = new Simulation([steady('a'), steady('b'), steady('c'), steady('d', behaviour)], seeded(5));
      simulation.load(1.2 * PEAK, 60_000);
      simulation.run(90_000);
      const late = simulation.finished.filter(({ arrivedAtMs }) => arrivedAtMs >= 1_010_000);
      const failed = late.filter(({ result }) => result !== 'done').length;
      assert.ok(failed <= 0.01 * late.length, `${failed} of ${late.length}`);
      const calls = simulation.calls.get('d') ?? 0;
      assert.ok(calls > 0 && calls <= mostCalls, `${calls} calls`);
    });
  }

  it('keeps interactive requests as quick beside batches as without', () => {
    const alone = new Simulation([steady('a')], seeded(6));
    alone.load(0.5 * PEAK, 30_000);
    alone.run(31_000);
    const mixed = new Simulation([steady('a')], seeded(6));
    mixed.load(0.5 * PEAK, 30_000);
    for (let i = 0; i < 500; i++) mixed.at(0, () => mixed.request({ priority: 'batch', tenant: 'b' }));
    mixed.load(3 * PEAK, 30_000, { priority: 'batch', tenant: 'b' });
    mixed.run(31_000);
    const done = (simulation: Simulation) =>
      simulation.finished.filter(({ ask, result }) => result === 'done' && ask.priority === 'interactive');
    assert.ok(done(mixed).length >= 0.99 * done(alone).length);
    const slowest = percentile(
      done(mixed).map(({ arrivedAtMs, endedAtMs }) => endedAtMs - arrivedAtMs),
      0.99,
    );
    assert.ok(slowest <= 2.5 * SERVICE_MS, `${slowest}`);
    const batch = mixed.finished.filter(({ ask, result }) => result === 'done' && ask.priority === 'batch').length;
    assert.ok(batch >= 0.2 * PEAK * 30, `${batch}: batches take what is free`);
  });

  it('gives a small tenant its turn beside one that floods', () => {
    const simulation = new Simulation([steady('a')], seeded(7));
    simulation.load(5 * PEAK, 20_000, { tenant: 'flood' });
    simulation.load(0.1 * PEAK, 20_000, { tenant: 'small' });
    simulation.run(21_000);
    const small = simulation.finished.filter(({ ask }) => ask.tenant === 'small');
    const served = small.filter(({ result }) => result === 'done');
    const wait = percentile(
      served.map(({ arrivedAtMs, endedAtMs }) => endedAtMs - arrivedAtMs),
      0.95,
    );
    assert.ok(wait <= 3 * SERVICE_MS, `${wait}`);
  });
});

describe('dispatcher', () => {
  it('lets retries be a share of requests, and so many at once', () => {
    const simulation = new Simulation([steady('a')]);
    simulation.run(10);
    const ask = (id: string, attempt: number) =>
      simulation.dispatcher.ask(
        {
          id,
          tenant: 't',
          model: 'm',
          tuned: null,
          affinity: null,
          rows: 1,
          cost: 1,
          bytes: 1,
          priority: 'interactive',
          deadlineAtMs: simulation.nowMs + 1e6,
          attempt,
          exclude: [],
        },
        simulation.nowMs,
      );
    const isRefused = (id: string) => {
      const decision = ask(id, 1);
      return decision?.type === 'refusal' && decision.reason === 'retry_budget';
    };
    for (let i = 0; i < F.retryBurst; i++) assert.ok(!isRefused(`burst ${i}`));
    assert.ok(isRefused('one more'));
    const firsts = Math.ceil(1 / F.retryRatio);
    for (let i = 0; i < firsts; i++) ask(`first ${i}`, 0);
    assert.ok(!isRefused('earned'));
    assert.ok(isRefused('not earned'));
  });

  it('holds requests while the first backend starts', () => {
    const simulation = new Simulation([steady('a', { startsAtMs: 2_000 })]);
    simulation.dispatcher.outlook = { canStart: true, coldStartMs: 2_000 };
    for (let i = 0; i < 50; i++) simulation.request();
    simulation.run(5_000);
    assert.deepEqual(new Set(simulation.finished.map(({ result }) => result)), new Set(['done']));
    assert.equal(simulation.finished.length, 50);
  });

  it('refuses at once where nobody will come, and after the hold where nobody came', () => {
    const simulation = new Simulation([]);
    simulation.request();
    assert.equal(simulation.finished[0]?.result, 'no_backend');
    simulation.dispatcher.outlook = { canStart: true, coldStartMs: null };
    simulation.request();
    simulation.run(F.holdMs + 200);
    assert.equal(simulation.finished[1]?.result, 'no_backend');
    assert.ok(simulation.finished[1]!.endedAtMs - simulation.finished[1]!.arrivedAtMs >= F.holdMs);
  });

  it('refuses whoever waits and whoever comes once the installation ends', () => {
    const simulation = new Simulation([
      steady('a', { capacity: 1, stopsAtMs: 500, serve: () => ({ afterMs: 1e6, outcome: 'done' }) }),
    ]);
    simulation.run(100);
    for (let i = 0; i < 3; i++) simulation.request();
    assert.equal(simulation.dispatcher.waiting, 2);
    simulation.dispatcher.outlook = { canStart: false, coldStartMs: null, isStopping: true };
    simulation.dispatcher.report(report('a', { capacity: 1, state: 'draining' }), simulation.nowMs);
    simulation.run(200);
    simulation.request();
    assert.deepEqual(
      simulation.finished.map(({ result }) => result),
      ['no_backend', 'no_backend', 'no_backend'],
    );
  });

  it('waits for the restart of a backend that has just died', () => {
    const simulation = new Simulation([
      steady('a', { stopsAtMs: 1_000, ...failing('unreachable', 1) }),
      steady('b', { startsAtMs: 3_500 }),
    ]);
    simulation.at(1_500, () => simulation.request());
    simulation.run(5_000);
    assert.deepEqual(
      simulation.finished.map(({ result, attempts }) => [result, attempts]),
      [['done', 2]],
    );
  });

  it('frees the place of who never gives it back', () => {
    const simulation = new Simulation([steady('a', { capacity: 1, serve: () => ({ afterMs: 1e9, outcome: 'done' }) })]);
    simulation.run(10);
    simulation.request({ deadlineAtMs: simulation.nowMs + 1_000 });
    assert.equal(simulation.dispatcher.leases, 1);
    simulation.run(1_000 + F.leaseSlackMs + 200);
    assert.equal(simulation.dispatcher.leases, 0);
    assert.equal(simulation.dispatcher.snapshot(simulation.nowMs).backends[0]?.inFlight, 0);
  });

  it('takes out of the line who leaves and whose time is over', () => {
    const simulation = new Simulation([
      steady('a', { capacity: 1, serve: () => ({ afterMs: 60_000, outcome: 'done' }) }),
    ]);
    simulation.run(10);
    simulation.request();
    simulation.request();
    simulation.request({ deadlineAtMs: simulation.nowMs + 500 });
    assert.equal(simulation.dispatcher.waiting, 2);
    simulation.run(700);
    assert.deepEqual(
      simulation.finished.map(({ result }) => result),
      ['deadline'],
    );
    simulation.dispatcher.cancel('r1', simulation.nowMs);
    assert.deepEqual(
      simulation.finished.map(({ result }) => result),
      ['deadline', 'cancelled'],
    );
    assert.equal(simulation.dispatcher.waiting, 0);
  });

  it('bounds the bytes that wait', () => {
    const simulation = new Simulation([
      steady('a', { capacity: 1, serve: () => ({ afterMs: 60_000, outcome: 'done' }) }),
    ]);
    simulation.run(10);
    simulation.request();
    const bytes = 10 * 1024 * 1024;
    for (let i = 0; i < 10; i++) simulation.request({ bytes });
    const kept = Math.floor(F.maxQueuedBytes / bytes);
    assert.equal(simulation.dispatcher.waiting, kept);
    assert.equal(simulation.finished.filter(({ result }) => result === 'queue_full').length, 10 - kept);
  });

  it('counts nothing twice: every place is free again after any history', () => {
    for (let seed = 0; seed < 40; seed++) {
      const random = seeded(seed);
      const outcomes: Outcome[] = ['done', 'done', 'done', 'failed', 'refused', 'aborted', 'unreachable'];
      const serve = () => ({
        afterMs: Math.floor(random() * 300),
        outcome: outcomes[Math.floor(random() * outcomes.length)] ?? 'done',
      });
      const backends = ['a', 'b', 'c'].map((id, i) => steady(id, { capacity: 4, serve, startsAtMs: i * 1_000 }));
      const simulation = new Simulation(backends, random);
      simulation.load(40, 10_000, { rows: 2 });
      simulation.load(20, 10_000, { priority: 'batch', tenant: 'u' });
      for (let step = 0; step < 20; step++) {
        simulation.run(500);
        for (const { inFlight, capacity } of simulation.dispatcher.snapshot(simulation.nowMs).backends)
          assert.ok(inFlight >= 0 && inFlight <= capacity, `${inFlight}`);
      }
      simulation.run(400_000);
      const { backends: left, queue } = simulation.dispatcher.snapshot(simulation.nowMs);
      assert.deepEqual(
        left.map(({ inFlight, costTokens }) => [inFlight, costTokens]),
        left.map(() => [0, 0]),
      );
      assert.deepEqual([queue.length, queue.rows, simulation.dispatcher.leases], [0, 0, 0]);
    }
  });

  it('takes answers as signs of life where reports do not come through', () => {
    const simulation = new Simulation([steady('a', { stopsAtMs: 1_000 })]);
    simulation.load(20, 60_000);
    simulation.run(61_000);
    assert.ok(simulation.finished.every(({ result }) => result === 'done'));
    simulation.run(LIMITS.backends.goneAfterMs + 100);
    assert.deepEqual(simulation.dispatcher.backends(simulation.nowMs), []);
  });

  it('knows a backend that was gone as new', () => {
    const simulation = new Simulation([]);
    const said = report('a');
    assert.equal(simulation.dispatcher.report(said, 0), true);
    assert.equal(simulation.dispatcher.report(said, 2_000), false);
    assert.equal(simulation.dispatcher.report(said, 2_001 + LIMITS.backends.goneAfterMs), true);
  });
});

function flipping(): SimulatedBackend['serve'] {
  let turn = 0;
  return () => ({ afterMs: SERVICE_MS, outcome: turn++ % 2 === 0 ? 'failed' : 'done' });
}
