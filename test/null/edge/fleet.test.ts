import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { allows, breakerState, newBreaker, onFailure, onSent, onSuccess } from '../../../edge/fleet/breaker.ts';
import { alive, type Place, pick, servedModels, type Wanted } from '../../../edge/fleet/pick.ts';
import { WaitingLine } from '../../../edge/fleet/waiting.ts';
import type { BackendReport } from '../../../shared/contract/backend.ts';
import { LIMITS } from '../../../shared/contract/limits.ts';
import { card, report } from './fleet-fixtures.ts';

const F = LIMITS.fleet;

const NOW = 1_000_000;
const place = (id: string, more: Partial<Place> = {}, said: Partial<BackendReport> = {}): Place => ({
  report: report(id, said),
  seenAtMs: NOW,
  since: 0,
  isUnreachable: false,
  isRetiring: false,
  busyUntilMs: 0,
  breaker: newBreaker(),
  rows: 0,
  cost: 0,
  ...more,
});
const wanted = (more: Partial<Wanted> = {}): Wanted => ({
  model: 'm',
  tuned: null,
  affinity: null,
  rows: 1,
  cost: 10,
  exclude: new Set(),
  reserve: 0,
  ...more,
});
const picked = (places: readonly Place[], more: Partial<Wanted> = {}, roll = 0) =>
  pick(places, wanted(more), NOW, roll)?.report.id;

describe('pick', () => {
  it('takes the least loaded by cost for each place', () => {
    const places = [
      place('a', { rows: 1, cost: 20 }),
      place('b', { rows: 2, cost: 25 }, { capacity: 8 }),
      place('c', { rows: 3, cost: 40 }),
    ];
    assert.equal(picked(places), 'b');
  });

  it('leaves out who drains, serves something else, failed already, is silent, unreachable, busy or full', () => {
    const places = [
      place('draining', {}, { state: 'draining' }),
      place('other', {}, { models: [card('x')] }),
      place('failed'),
      place('silent', { seenAtMs: NOW - LIMITS.backends.goneAfterMs - 1 }),
      place('unreachable', { isUnreachable: true }),
      place('retiring', { isRetiring: true }),
      place('busy', { busyUntilMs: NOW + 1 }),
      place('full', { rows: 4 }),
      place('fits', { rows: 3, cost: 99 }),
    ];
    assert.equal(picked(places, { exclude: new Set(['failed']) }), 'fits');
    assert.equal(picked(places, { exclude: new Set(['failed', 'fits']) }), undefined);
  });

  it('breaks ties by the roll', () => {
    const places = ['a', 'b', 'c', 'd'].map((id) => place(id));
    assert.deepEqual(
      [0, 0.26, 0.51, 0.999].map((roll) => picked(places, {}, roll)),
      ['a', 'b', 'c', 'd'],
    );
  });

  it('leaves places free for others where asked to', () => {
    assert.equal(picked([place('a', { rows: 3 })], { reserve: 0.25 }), undefined);
    assert.equal(picked([place('a', { rows: 2 })], { reserve: 0.25 }), 'a');
  });

  it('lets an idle backend take more choices than it has places', () => {
    assert.equal(picked([place('a')], { rows: 8 }), 'a');
    assert.equal(picked([place('a', { rows: 1 })], { rows: 8 }), undefined);
  });

  it('sends the same pictures to the same backend, and spreads different ones', () => {
    const places = ['a', 'b', 'c', 'd'].map((id) => place(id, {}, { capacity: 32 }));
    const counts = new Map<string, number>();
    for (let i = 0; i < 400; i++) {
      const first = picked(places, { affinity: `picture ${i}` }, 0);
      assert.equal(picked(places, { affinity: `picture ${i}` }, 0.99), first);
      counts.set(first ?? '', (counts.get(first ?? '') ?? 0) + 1);
    }
    for (const count of counts.values()) assert.ok(count > 60 && count < 140, `${[...counts]}`);
  });

  it('moves few pictures when a backend leaves', () => {
    const all = ['a', 'b', 'c', 'd'].map((id) => place(id, {}, { capacity: 32 }));
    const fewer = all.filter(({ report }) => report.id !== 'b');
    let moved = 0;
    for (let i = 0; i < 400; i++) {
      const before = picked(all, { affinity: `p${i}` });
      if (before !== 'b' && picked(fewer, { affinity: `p${i}` }) !== before) moved++;
    }
    assert.equal(moved, 0);
  });

  it('does not load the favourite beyond its share', () => {
    const places = ['a', 'b', 'c', 'd'].map((id) => place(id, {}, { capacity: 8 }));
    // One picture for everybody, nobody ever done.
    for (let i = 0; i < 32; i++) {
      const one = pick(places, wanted({ affinity: 'the same' }), NOW, 0);
      assert.ok(one !== null);
      one.rows++;
      one.cost += 10;
      const total = places.reduce((sum, { cost }) => sum + cost, 0);
      for (const { cost, rows, report } of places)
        assert.ok(rows <= report.capacity * F.affinityFreeShare || cost <= ((1 + F.affinitySlack) * total) / 4 + 10);
    }
    assert.deepEqual(
      places.map(({ rows }) => rows),
      [8, 8, 8, 8],
    );
  });

  it('prefers who has the fine-tune ready', () => {
    const places = [place('a'), place('b', {}, { tuned: ['ft:m:x'] }), place('c')];
    assert.equal(picked(places, { tuned: 'ft:m:x' }), 'b');
    assert.equal(picked(places, { tuned: 'ft:m:x', affinity: 'some picture' }), 'b');
  });

  it('gives a newcomer among others little at first, all of it alone', () => {
    const old = place('old', { rows: 2, cost: 20 });
    const young = place('young', { since: NOW - 1_000, rows: 1, cost: 10 });
    assert.equal(picked([old, young]), 'old');
    assert.equal(picked([old, { ...young, since: NOW - F.slowStartMs }]), 'young');
    assert.equal(picked([young]), 'young');
  });
});

describe('breaker', () => {
  it('leaves out who fails as long as most do not', () => {
    const out = (id: string) => place(id, { breaker: { ...newBreaker(), openUntilMs: NOW + 1 } });
    assert.equal(picked([out('a'), place('b', { rows: 3, cost: 99 })]), 'b');
    assert.equal(picked([out('a'), place('b', { rows: 4 })]), undefined);
    assert.equal(picked([out('a')]), 'a');
    assert.equal(picked([out('a'), out('b'), place('c', { rows: 4 })]), 'a');
  });

  it('opens after failures in a row, lets one through after a while, closes when that goes well', () => {
    const breaker = newBreaker();
    for (let i = 1; i < F.breakerFailures; i++) assert.equal(onFailure(breaker, NOW), false);
    assert.equal(onFailure(breaker, NOW), true);
    assert.equal(allows(breaker, NOW), false);
    const later = NOW + F.breakerOpenMs;
    assert.equal(breakerState(breaker, later), 'half_open');
    assert.equal(allows(breaker, later), true);
    onSent(breaker, later);
    assert.equal(allows(breaker, later), false, 'one at a time');
    assert.equal(onSuccess(breaker), true);
    assert.equal(allows(breaker, later), true);
  });

  it('stays open longer each time it fails again, up to the most', () => {
    const breaker = newBreaker();
    for (let i = 0; i < F.breakerFailures; i++) onFailure(breaker, NOW);
    let nowMs = NOW;
    const lengths: number[] = [];
    for (let i = 0; i < 8; i++) {
      lengths.push(breaker.openUntilMs - nowMs);
      nowMs = breaker.openUntilMs;
      onSent(breaker, nowMs);
      assert.equal(onFailure(breaker, nowMs), true);
    }
    assert.deepEqual(
      lengths.slice(0, 4),
      [1, 2, 4, 8].map((factor) => factor * F.breakerOpenMs),
    );
    assert.equal(lengths.at(-1), F.breakerMaxOpenMs);
  });

  it('opens for a backend that fails every second time', () => {
    const breaker = newBreaker();
    let opened = false;
    for (let i = 0; i < 40 && !opened; i++) {
      if (i % 2 === 0) onSuccess(breaker);
      else opened = onFailure(breaker, NOW);
    }
    assert.ok(opened);
  });

  it('bears a rare failure for ever', () => {
    const breaker = newBreaker();
    for (let i = 0; i < 1_000; i++) {
      if (i % 10 === 9) assert.equal(onFailure(breaker, NOW), false);
      else onSuccess(breaker);
    }
  });
});

describe('waiting line', () => {
  const item = (id: string, tenant: string, model = 'm') => ({ id, tenant, model, rows: 1, bytes: 10 });

  it('takes tenants in turn by what they have running, each in its order', () => {
    const line = new WaitingLine<ReturnType<typeof item>>();
    for (let i = 0; i < 3; i++) line.add(item(`a${i}`, 'a'));
    line.add(item('b0', 'b'));
    const running = new Map([['a', 2]]);
    const order: string[] = [];
    while (line.length > 0) {
      const next = line.next((tenant) => running.get(tenant) ?? 0, new Set());
      assert.ok(next !== null);
      line.take(next);
      running.set(next.tenant, (running.get(next.tenant) ?? 0) + 1);
      order.push(next.id);
    }
    assert.deepEqual(order, ['b0', 'a0', 'a1', 'a2']);
    assert.deepEqual([line.rows, line.bytes, line.tenants], [0, 0, 0]);
  });

  it('passes over models that have no room', () => {
    const line = new WaitingLine<ReturnType<typeof item>>();
    line.add(item('x', 'a', 'x'));
    line.add(item('y', 'a', 'y'));
    assert.equal(line.next(() => 0, new Set(['x']))?.id, 'y');
    assert.equal(
      line.next(() => 0, new Set(['x', 'y'])),
      null,
    );
  });
});

describe('fleet', () => {
  it('forgets whom it has not heard of', () => {
    const list = [
      { report: report('a'), seenAtMs: 0 },
      { report: report('b'), seenAtMs: 1 },
    ];
    assert.deepEqual(
      alive(list, 1000, 1000).map(({ report }) => report.id),
      ['a', 'b'],
    );
    assert.deepEqual(
      alive(list, 1001, 1000).map(({ report }) => report.id),
      ['b'],
    );
  });

  it('lists every model once', () => {
    const list = [{ report: report('a') }, { report: report('b', { models: [card('m'), card('n')] }) }];
    assert.deepEqual([...servedModels(list).keys()], ['m', 'n']);
  });
});
