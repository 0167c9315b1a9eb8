import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { Autoscaler } from '../../../edge/fleet/autoscale/autoscaler.ts';
import { scalerName, scalingConfig } from '../../../edge/fleet/autoscale/config.ts';
import { type Driver, DriverError, type Observed } from '../../../edge/fleet/autoscale/driver.ts';
import type { BackendSnapshot, FleetSnapshot } from '../../../edge/fleet/autoscale/snapshot.ts';

const START_MS = 1_800_000_000_000;
const ENV = { SCALER: 'none', MIN_BACKENDS: '0', MAX_BACKENDS: '4', SCALE_UP_S: '0', SCALE_DOWN_S: '0', IDLE_S: '10' };

/** Backends that appear when they are told to. */
class Machines implements Driver {
  readonly name = 'local';
  readonly observeEveryMs = 0;
  readonly asked: { count: number; remove: readonly string[] }[] = [];
  state: Observed = { desired: 0, running: 0, starting: 0, ids: [] };
  fault: Error | null = null;

  async observe(): Promise<Observed> {
    if (this.fault !== null) throw this.fault;
    return this.state;
  }

  async scaleTo(count: number, remove: readonly string[]): Promise<void> {
    this.asked.push({ count, remove });
    const ids = (this.state.ids ?? []).filter((id) => !remove.includes(id));
    this.state = { desired: count, running: ids.length, starting: Math.max(0, count - ids.length), ids };
  }

  come(...ids: string[]): void {
    this.state = { ...this.state, running: ids.length, starting: this.state.desired - ids.length, ids };
  }
}

const backend = (id: string, more: Partial<BackendSnapshot> = {}): BackendSnapshot => ({
  id,
  state: 'ready',
  inFlight: 0,
  costTokens: 0,
  capacity: 4,
  hasJob: false,
  startedAtMs: null,
  coldStartMs: null,
  ...more,
});
const fleet = (backends: BackendSnapshot[], waiting = 0): FleetSnapshot => ({
  backends,
  queue: { length: waiting, rows: waiting, costTokens: 0, oldestWaitMs: 0 },
});

function scaler(more: { jobs?: { queued: number; running: number }; kept?: Map<string, number[]> } = {}) {
  const machines = new Machines();
  const kept = more.kept ?? new Map<string, number[]>();
  const lines: object[] = [];
  const autoscaler = new Autoscaler({
    config: scalingConfig(ENV),
    driver: machines,
    jobs: async () => more.jobs ?? { queued: 0, running: 0 },
    storage: { get: async (key) => kept.get(key), put: async (key, value) => void kept.set(key, [...value]) },
    log: (line) => lines.push(line),
  });
  return { machines, autoscaler, kept, lines };
}

describe('the autoscaler', () => {
  it('starts one for the first request, learns how long that takes, and keeps it', async () => {
    const { machines, autoscaler, kept } = scaler();
    assert.deepEqual((await autoscaler.tick(fleet([], 1), START_MS)).outlook, { canStart: true, coldStartMs: null });
    assert.deepEqual(machines.asked, [{ count: 1, remove: [] }]);
    await autoscaler.tick(fleet([], 1), START_MS + 500);
    assert.equal(machines.asked.length, 1, 'what is on its way is not asked for again');
    machines.come('a');
    const { outlook } = await autoscaler.tick(fleet([backend('a')]), START_MS + 1_400);
    assert.equal(outlook.coldStartMs, 1_400);
    assert.deepEqual(kept.get('coldStartsMs'), [1_400]);
    const next = scaler({ kept });
    assert.equal((await next.autoscaler.tick(fleet([]), START_MS)).outlook.coldStartMs, 1_400);
  });

  it('names who is to go, and ends it a look later', async () => {
    const { machines, autoscaler } = scaler();
    machines.state = { desired: 2, running: 2, starting: 0, ids: ['a', 'b'] };
    const working = fleet([backend('a', { inFlight: 2 }), backend('b'), backend('c', { inFlight: 3 })]);
    assert.deepEqual((await autoscaler.tick(working, START_MS)).retiring, ['b'], 'c is not its own');
    assert.deepEqual(machines.asked, []);
    await autoscaler.tick(working, START_MS + 500);
    assert.deepEqual(machines.asked, [{ count: 1, remove: ['b'] }]);
  });

  it('goes to none when idle, also those that only start', async () => {
    const { machines, autoscaler } = scaler();
    await autoscaler.tick(fleet([], 100), START_MS);
    assert.deepEqual(machines.asked, [{ count: 4, remove: [] }]);
    await autoscaler.tick(fleet([]), START_MS + 500);
    assert.equal(machines.asked.at(-1)?.count, 1, 'one stays for as long as it is not idle');
    await autoscaler.tick(fleet([]), START_MS + 11_000);
    assert.equal(machines.asked.at(-1)?.count, 0);
    const { nextTickMs } = await autoscaler.tick(fleet([]), START_MS + 12_000);
    assert.equal(nextTickMs, 5_000);
  });

  it('starts one for a job that waits', async () => {
    const { machines, autoscaler } = scaler({ jobs: { queued: 1, running: 0 } });
    await autoscaler.tick(fleet([]), START_MS);
    assert.deepEqual(machines.asked, [{ count: 1, remove: [] }]);
  });

  it('asks a driver that fails less and less often, says so, and goes on when it is back', async () => {
    const { machines, autoscaler, lines } = scaler();
    machines.fault = new DriverError('throttled', true);
    let asked = 0;
    const observe = machines.observe.bind(machines);
    machines.observe = () => {
      asked++;
      return observe();
    };
    for (let ms = 0; ms < 60_000; ms += 500) await autoscaler.tick(fleet([], 1), START_MS + ms);
    assert.ok(asked >= 5 && asked <= 7, `asked ${asked} times in a minute`);
    assert.equal(autoscaler.outcome.outlook.canStart, false, 'nobody is to wait for it');
    assert.equal(autoscaler.describe().problem, 'throttled');
    assert.equal(lines.length, asked);
    machines.fault = null;
    await autoscaler.tick(fleet([], 1), START_MS + 100_000);
    assert.equal(autoscaler.outcome.outlook.canStart, true);
    assert.equal(machines.asked.length, 1);
  });

  it('tells who waits that none will come where the driver knows why', async () => {
    const { machines, autoscaler } = scaler();
    machines.state = { ...machines.state, problem: 'the environment is at fault' };
    assert.equal((await autoscaler.tick(fleet([], 1), START_MS)).outlook.canStart, false);
  });
});

describe('settings of the autoscaler', () => {
  it('have reasons to be refused', () => {
    assert.equal(scalerName({}), 'none');
    assert.throws(
      () => scalerName({ SCALER: 'docker' }),
      /MANTIS_SCALER: expected one of local, ecs, .* received "docker"/,
    );
    assert.throws(
      () => scalingConfig({ MIN_BACKENDS: '2.5' }),
      /MANTIS_MIN_BACKENDS: expected a whole number from 0 to/,
    );
    assert.throws(
      () => scalingConfig({ MIN_BACKENDS: '3', MAX_BACKENDS: '2' }),
      /MANTIS_MAX_BACKENDS: expected at least/,
    );
    assert.deepEqual([scalingConfig({}).min, scalingConfig({}).max], [1, 3]);
    assert.equal(scalingConfig({ SCALER: 'local' }).max, 1);
  });
});
