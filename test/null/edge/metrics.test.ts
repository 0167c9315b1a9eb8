import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import fc from 'fast-check';
import { countRequest, newFacts, observe } from '../../../edge/metrics/facts.ts';
import type { FleetView } from '../../../edge/metrics/fleet.ts';
import { DEFINITIONS, metrics, PREFIX, takeCounts } from '../../../edge/metrics/metrics.ts';
import { judge, type Said } from '../../../edge/metrics/reasons.ts';
import {
  addDelta,
  Counter,
  type Delta,
  Histogram,
  renderPrometheus,
  takeDelta,
} from '../../../edge/metrics/recorder.ts';
import type { GenerateEvent } from '../../../shared/contract/backend.ts';
import { ApiError } from '../../../shared/contract/errors.ts';
import { parsePrometheus } from '../../fixtures/prometheus.ts';

const counter = () => new Counter({ name: 'hits_total', help: 'Hits.', labels: ['route', 'code'] });
const histogram = () =>
  new Histogram({ name: 'wait_seconds', help: 'Waits.', labels: ['model'], buckets: [0.1, 1, 10] });

describe('counts', () => {
  it('add up to the same, however many recorders counted and whenever they told', () => {
    const event = fc.record({
      recorder: fc.nat(3),
      route: fc.constantFrom('/a', '/b"\\\n', ''),
      by: fc.integer({ min: 0, max: 100 }),
      wait: fc.double({ min: 0, max: 20, noNaN: true }),
      tells: fc.boolean(),
    });
    fc.assert(
      fc.property(fc.array(event), (events) => {
        const recorders = Array.from({ length: 4 }, () => [counter(), histogram()] as const);
        const all = [counter(), histogram()] as const;
        const totals: Delta = {};
        const tell = (recorder: (typeof recorders)[number] | undefined): void => {
          const delta = takeDelta(recorder ?? []);
          if (delta !== null) addDelta(totals, JSON.parse(JSON.stringify(delta)) as Delta);
        };
        for (const { recorder, route, by, wait, tells } of events) {
          const [hits, waits] = recorders[recorder] ?? all;
          hits.inc(by, route, '200');
          waits.observe(wait, route);
          all[0].inc(by, route, '200');
          all[1].observe(wait, route);
          if (tells) tell(recorders[recorder]);
        }
        recorders.forEach(tell);
        const expected = takeDelta(all) ?? {};
        const rounded = (delta: Delta) =>
          JSON.parse(JSON.stringify(delta), (_, value: unknown) =>
            typeof value === 'number' ? Number(value.toFixed(6)) : value,
          ) as Delta;
        assert.deepEqual(rounded(totals), rounded(expected));
        for (const recorder of recorders) assert.equal(takeDelta(recorder), null);
      }),
    );
  });

  it('are text that Prometheus reads', () => {
    const [hits, waits] = [counter(), histogram()];
    hits.inc(3, '/a"b\\c\nd', '200');
    for (const wait of [0.05, 0.1, 0.5, 100]) waits.observe(wait, 'nano');
    const definitions = [hits.definition, waits.definition, { name: 'none_total', help: 'Nothing.', labels: [] }];
    const totals: Delta = {};
    addDelta(totals, takeDelta([hits, waits]) ?? {});
    const gauge = { name: 'queue_length', help: 'Queue.', values: [{ labels: {}, value: 7 }] };
    const samples = parsePrometheus(renderPrometheus('x_', definitions, totals, [gauge]));
    assert.equal(samples.get('x_hits_total{route="/a\\"b\\\\c\\nd",code="200"}'), 3);
    assert.deepEqual(
      ['0.1', '1', '10', '+Inf'].map((le) => samples.get(`x_wait_seconds_bucket{model="nano",le="${le}"}`)),
      [2, 3, 3, 4],
    );
    assert.equal(samples.get('x_wait_seconds_count{model="nano"}'), 4);
    assert.equal(samples.get('x_wait_seconds_sum{model="nano"}'), 100.65);
    assert.equal(samples.get('x_none_total'), 0);
    assert.equal(samples.get('x_queue_length'), 7);
  });

  it('stay few, whatever stands in a label', () => {
    const hits = counter();
    for (let i = 0; i < 5_000; i++) hits.inc(1, `/${i}`, '200');
    const series = takeDelta([hits])?.hits_total ?? {};
    assert.ok(Object.keys(series).length <= 1_001);
    assert.equal(
      Object.values(series).reduce<number>((sum, value) => sum + Number(value), 0),
      5_000,
    );
  });

  it('have names with units, and labels of few values', () => {
    for (const { name, labels, buckets, help } of DEFINITIONS) {
      assert.match(name, /^[a-z][a-z0-9_]*$/);
      assert.equal(name.endsWith('_total'), buckets === undefined, `${PREFIX}${name}`);
      assert.ok(help.endsWith('.'), name);
      assert.deepEqual(
        labels.filter((label) => /id|key|tenant|user/.test(label)),
        [],
      );
    }
  });
});

describe('what is known of an answer', () => {
  const started: GenerateEvent = {
    type: 'started',
    promptTokens: 9,
    imageTokens: [4, 4],
    imageCache: ['memory', 'none'],
  };
  const delta: GenerateEvent = { type: 'delta', index: 0, text: 'a' };
  const finished: GenerateEvent = {
    type: 'finished',
    index: 0,
    finishReason: 'stop',
    usage: { promptTokens: 9, completionTokens: 2, imageTokens: 8, cachedTokens: 3 },
  };
  async function* source(events: readonly GenerateEvent[], error?: Error) {
    yield* events;
    if (error !== undefined) throw error;
  }
  async function after(events: readonly GenerateEvent[], options: { error?: Error; leaves?: number } = {}) {
    const facts = newFacts();
    let ends = 0;
    facts.onEnd = () => ends++;
    let seen = 0;
    try {
      for await (const _ of observe(source(events, options.error), facts)) if (++seen === options.leaves) break;
    } catch {
      // What is thrown is told by `code`.
    }
    return { ...facts, ends };
  }

  it('is told once, by whatever way it ends', async () => {
    const whole = await after([started, delta, delta, finished]);
    assert.deepEqual(
      [whole.finishReason, whole.promptTokens, whole.completionTokens, whole.cachedTokens, whole.imageTokens],
      ['stop', 9, 2, 3, 8],
    );
    assert.deepEqual([whole.ends, whole.code, whole.aborted, whole.pending], [1, null, false, false]);
    const cut = await after([started, delta]);
    assert.deepEqual([cut.ends, cut.code, cut.aborted], [1, 'backend_failed', false]);
    const left = await after([started, delta, delta, finished], { leaves: 2 });
    assert.deepEqual([left.ends, left.code, left.aborted], [1, null, true]);
    const refused = await after([started], { error: new ApiError('deadline_exceeded', 'x') });
    assert.deepEqual([refused.ends, refused.code, refused.aborted], [1, 'deadline_exceeded', false]);
    const broken = await after([started], { error: new Error('x') });
    assert.deepEqual([broken.ends, broken.code], [1, 'backend_failed']);
  });

  it('is counted', async () => {
    takeCounts();
    const facts = await after([started, delta, finished]);
    Object.assign(facts, { model: 'nano', images: 2, imageBytes: 100, imagePixels: 64 });
    countRequest(facts, 'POST', '/v1/chat/completions', 200);
    metrics.rejections.inc(1, 'too_many_images');
    const counts = takeCounts();
    assert.deepEqual(counts?.requests_total, { 'POST\u001f/v1/chat/completions\u001f2xx': 1 });
    assert.deepEqual(counts?.images_total, { nano: 2 });
    assert.deepEqual(counts?.prompt_tokens_total, { nano: 9 });
    assert.deepEqual(counts?.rejections_total, { too_many_images: 1 });
    assert.deepEqual(counts?.image_cache_total, { memory: 1, none: 1 });
  });
});

describe('health in words', () => {
  const backend = { id: 'b', state: 'ready', inFlight: 0, capacity: 4, breaker: 'closed', models: 1 } as const;
  const fleet = (more: Partial<FleetView> = {}): FleetView => ({
    backends: [backend],
    queue: { length: 0, interactive: 0, batch: 0, oldestWaitMs: 0, limit: 10 },
    counts: {},
    isAsleep: false,
    replicasDesired: null,
    scalerProblem: null,
    ...more,
  });
  const said = (more: Partial<Said> = {}): Said => ({
    database: true,
    scheduler: true,
    fleet: fleet(),
    webhooks: { waiting: 0, overdueMs: 0 },
    ...more,
  });

  it('has nothing to say where nothing is wrong, nor at rest', () => {
    assert.deepEqual(judge(said(), null), {
      status: 'ok',
      reasons: [],
      parts: { database: 'ok', scheduler: 'ok', backends: 'ok', webhooks: 'ok' },
    });
    assert.equal(judge(said({ fleet: fleet({ backends: [], isAsleep: true }) }), 0).status, 'ok');
  });

  it('says what keeps requests from being answered, and what only may', () => {
    const error = new Error('SQLITE_CORRUPT at /secret/path');
    for (const [parts, status, reason] of [
      [{ database: error }, 'unavailable', /database does not answer/],
      [{ scheduler: error }, 'unavailable', /scheduler does not answer/],
      [{ fleet: error }, 'unavailable', /fleet does not answer/],
      [{ fleet: fleet({ backends: [] }) }, 'unavailable', /no backend is ready since 1970-01-01T00:00:00.000Z/],
      [{ fleet: fleet({ backends: [{ ...backend, models: 0 }] }) }, 'unavailable', /no backend is ready/],
      [{ fleet: fleet({ backends: [backend, { ...backend, breaker: 'open' }] }) }, 'degraded', /1 backend is avoided/],
      [
        { fleet: fleet({ queue: { length: 10, interactive: 10, batch: 0, oldestWaitMs: 1, limit: 10 } }) },
        'degraded',
        /queue is full: 10 of 10/,
      ],
      [{ fleet: fleet({ scalerProblem: 'ECS: access denied' }) }, 'degraded', /scaler cannot .*access denied/],
      [{ webhooks: { waiting: 3, overdueMs: 120_000 } }, 'degraded', /3 webhook deliveries wait, .* 120 s/],
      [{ webhooks: error }, 'degraded', /backlog cannot be read/],
    ] as const) {
      const verdict = judge(said(parts as Partial<Said>), 0);
      assert.equal(verdict.status, status, String(reason));
      assert.match(verdict.reasons.join('; '), reason);
      assert.doesNotMatch(JSON.stringify(verdict), /SQLITE|secret/);
    }
  });
});
