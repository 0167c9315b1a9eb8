import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import fc from 'fast-check';
import { plan } from '../../../../gpu-backend/engine/scheduler/plan.ts';
import { arenaTokens, classOf, fitsAlone } from '../../../../gpu-backend/engine/scheduler/room.ts';
import type { Capacity, ScheduledRequest, StepPlan } from '../../../../gpu-backend/engine/scheduler/types.ts';
import { Simulation } from './simulation.ts';

const capacity: Capacity = {
  maxRows: 3,
  kvTokens: 24,
  kvStepTokens: 2,
  classBounds: [8],
  idleChunkTokens: 4,
  busyChunkTokens: 2,
  imagesPerRun: 3,
  growthTokens: 2,
  agingMs: 100,
};

/** A request with a prompt of 4 and an answer of up to 4; a running one has its prompt, a decoding one a token more. */
function request(arrival: number, fields: Partial<ScheduledRequest> = {}): ScheduledRequest {
  const stage = fields.stage ?? 'waiting';
  return {
    id: `r${arrival}`,
    arrival,
    priority: 'interactive',
    stage,
    targetTokens: 4,
    heldTokens: stage === 'decode' ? 4 : 0,
    maxTokens: 8,
    pendingImages: 0,
    sharesWith: null,
    waitingSinceMs: 0,
    cancelled: false,
    deadlineAtMs: null,
    ...fields,
  };
}

const decode = (arrival: number, fields: Partial<ScheduledRequest> = {}) =>
  request(arrival, { stage: 'decode', ...fields });
const prefill = (arrival: number, fields: Partial<ScheduledRequest> = {}) =>
  request(arrival, { stage: 'prefill', ...fields });

describe('plan', () => {
  const cases: [
    string,
    ScheduledRequest[],
    Partial<StepPlan>,
    Partial<Capacity>?,
    { nowMs?: number; step?: number }?,
  ][] = [
    ['nothing to do', [], { retire: [], preempt: [], admit: [], promptWork: null, decode: [] }],
    [
      'a lone request is admitted and prefilled in the same step, with the idle chunk',
      [request(0, { targetTokens: 6 })],
      { admit: [{ id: 'r0', class: 0 }], promptWork: { kind: 'prefill', id: 'r0', tokens: 4 } },
    ],
    [
      'the chunk shrinks while another row decodes',
      [decode(0), request(1)],
      {
        admit: [{ id: 'r1', class: 0 }],
        promptWork: { kind: 'prefill', id: 'r1', tokens: 2 },
        decode: [{ class: 0, ids: ['r0'] }],
      },
    ],
    [
      'rows decode by class',
      [decode(2), decode(1, { maxTokens: 9 }), decode(0)],
      {
        decode: [
          { class: 0, ids: ['r0', 'r2'] },
          { class: 1, ids: ['r1'] },
        ],
      },
    ],
    [
      'a cancelled row frees its place within the step; an expired one too; what never fits leaves',
      [
        decode(0, { cancelled: true }),
        decode(1, { deadlineAtMs: 5 }),
        decode(2),
        request(3),
        request(4),
        request(5, { maxTokens: 25 }),
      ],
      {
        retire: [
          { id: 'r0', reason: 'cancelled' },
          { id: 'r1', reason: 'deadline' },
          { id: 'r5', reason: 'never-fits' },
        ],
        admit: [
          { id: 'r3', class: 0 },
          { id: 'r4', class: 0 },
        ],
      },
      {},
      { nowMs: 5 },
    ],
    [
      'interactive before batch, whatever came first; a batch request that is old enough is interactive',
      [request(0, { priority: 'batch', waitingSinceMs: 50 }), request(1), request(2, { priority: 'batch' })],
      {
        admit: [
          { id: 'r1', class: 0 },
          { id: 'r2', class: 0 },
        ],
      },
      { maxRows: 2 },
      { nowMs: 100 },
    ],
    [
      'growth preempts the last in precedence',
      [
        decode(0, { heldTokens: 7 }),
        decode(1, { heldTokens: 8, maxTokens: 12, priority: 'batch' }),
        decode(2, { heldTokens: 6 }),
      ],
      { preempt: ['r1'], decode: [{ class: 0, ids: ['r0', 'r2'] }] },
    ],
    [
      'growth preempts the latest of one priority, and nobody is admitted in front of it in that step',
      [
        decode(0, { heldTokens: 10, maxTokens: 16 }),
        decode(1, { heldTokens: 12, maxTokens: 16 }),
        request(2, { targetTokens: 1, maxTokens: 2 }),
      ],
      { preempt: ['r1'], admit: [], decode: [{ class: 1, ids: ['r0'] }] },
    ],
    [
      'the first in precedence is never preempted, even where it does not fit',
      [decode(0, { heldTokens: 30, maxTokens: 40 })],
      { preempt: [], decode: [{ class: 1, ids: ['r0'] }] },
    ],
    [
      'an interactive request preempts batch rows, only those in the way',
      [
        decode(0, { priority: 'batch', maxTokens: 16, targetTokens: 13, heldTokens: 13 }),
        decode(1, { priority: 'batch', maxTokens: 4, targetTokens: 2, heldTokens: 2 }),
        request(2, { targetTokens: 8, maxTokens: 12 }),
      ],
      { preempt: ['r0'], admit: [{ id: 'r2', class: 1 }], decode: [{ class: 0, ids: ['r1'] }] },
    ],
    [
      'a batch request preempts nobody, an interactive one no interactive row',
      [decode(0), decode(1, { priority: 'batch' }), request(2, { priority: 'batch' })],
      { preempt: [], admit: [] },
      { maxRows: 2 },
    ],
    [
      'batch rows are left alone where they would not make room enough',
      [
        decode(0, { maxTokens: 16, targetTokens: 14, heldTokens: 14 }),
        decode(1, { priority: 'batch' }),
        request(2, { targetTokens: 14, maxTokens: 16 }),
      ],
      { preempt: [], admit: [] },
    ],
    [
      'what fits beside the head is admitted, in room that the head leaves',
      [
        decode(0, { maxTokens: 16, targetTokens: 12, heldTokens: 12 }),
        request(1, { targetTokens: 14, maxTokens: 16 }),
        request(2, { targetTokens: 2, maxTokens: 4 }),
      ],
      { admit: [{ id: 'r2', class: 0 }] },
    ],
    [
      'the head is not overtaken by one that would take its room',
      [
        decode(0, { maxTokens: 16, targetTokens: 10, heldTokens: 10 }),
        request(1, { targetTokens: 18, maxTokens: 20 }),
        request(2, { targetTokens: 2, maxTokens: 6 }),
      ],
      { admit: [] },
    ],
    [
      'images come before prompt tokens, the run is filled with those of others',
      [prefill(0, { pendingImages: 1 }), prefill(1), prefill(2, { pendingImages: 5 })],
      {
        promptWork: {
          kind: 'encode',
          items: [
            { id: 'r0', images: 1 },
            { id: 'r2', images: 2 },
          ],
        },
      },
    ],
    [
      'even steps serve the oldest prompt',
      [prefill(0, { targetTokens: 8 }), prefill(1, { heldTokens: 2 })],
      { promptWork: { kind: 'prefill', id: 'r0', tokens: 4 } },
    ],
    [
      'odd steps the one with the least left',
      [prefill(0, { targetTokens: 8 }), prefill(1, { heldTokens: 2 })],
      { promptWork: { kind: 'prefill', id: 'r1', tokens: 2 } },
      {},
      { step: 1 },
    ],
    [
      'a row waits for the one that computes its next positions',
      [prefill(0, { targetTokens: 8 }), prefill(1, { sharesWith: 'r0' })],
      { promptWork: { kind: 'prefill', id: 'r0', tokens: 4 } },
      {},
      { step: 1 },
    ],
    [
      'which inherits its priority',
      [prefill(0, { priority: 'batch', targetTokens: 8 }), prefill(1, { sharesWith: 'r0' })],
      { promptWork: { kind: 'prefill', id: 'r0', tokens: 4 } },
      {},
      { step: 1 },
    ],
    [
      'rows that wait for each other, for themselves or for nobody go on',
      [prefill(0, { sharesWith: 'r1' }), prefill(1, { sharesWith: 'r0' }), prefill(2, { sharesWith: 'r2' })],
      { promptWork: { kind: 'prefill', id: 'r2', tokens: 4 } },
    ],
  ];
  for (const [name, requests, expected, change, at] of cases)
    it(name, () => {
      const actual = plan({ nowMs: 0, step: 0, ...at, requests }, { ...capacity, ...change });
      assert.deepEqual({ ...actual, ...expected }, actual);
    });

  it('any state gives a plan that keeps the rules', () => {
    const small = fc.integer({ min: 0, max: 20 });
    const anyRequest = fc.record({
      priority: fc.constantFrom('interactive' as const, 'batch' as const),
      stage: fc.constantFrom('waiting' as const, 'prefill' as const, 'decode' as const),
      targetTokens: small,
      heldTokens: small,
      maxTokens: small,
      pendingImages: fc.integer({ min: 0, max: 4 }),
      sharesWith: fc.option(fc.constantFrom('r0', 'r1', 'r2', 'nobody')),
      waitingSinceMs: fc.integer({ min: 0, max: 200 }),
      cancelled: fc.boolean(),
      deadlineAtMs: fc.option(fc.integer({ min: 0, max: 200 })),
    });
    const anyCapacity = fc.record({
      maxRows: fc.integer({ min: 0, max: 6 }),
      kvTokens: fc.integer({ min: 0, max: 80 }),
      kvStepTokens: fc.integer({ min: 1, max: 8 }),
      classBounds: fc.constantFrom([], [4], [4, 8, 12]),
      idleChunkTokens: fc.integer({ min: 1, max: 8 }),
      busyChunkTokens: fc.integer({ min: 1, max: 4 }),
      imagesPerRun: fc.integer({ min: 1, max: 4 }),
      growthTokens: fc.constantFrom(0, 3, Number.POSITIVE_INFINITY),
      agingMs: fc.integer({ min: 0, max: 200 }),
    });
    fc.assert(
      fc.property(fc.array(anyRequest, { maxLength: 12 }), anyCapacity, fc.nat(3), (fields, limits, step) => {
        const requests = fields.map((one, arrival): ScheduledRequest => ({ id: `r${arrival}`, arrival, ...one }));
        const before = JSON.stringify(requests);
        const decided = plan({ nowMs: 100, step, requests }, limits);
        assert.equal(JSON.stringify(requests), before, 'nothing that came in is changed');
        checkRules(requests, limits, decided);
        assert.deepEqual(plan({ nowMs: 100, step, requests: [...requests].reverse() }, limits).admit, decided.admit);
      }),
      { numRuns: 3000, seed: 7 },
    );
  });
});

function checkRules(requests: readonly ScheduledRequest[], limits: Capacity, decided: StepPlan): void {
  const byId = new Map(requests.map((one) => [one.id, one]));
  const left = new Set(decided.retire.map(({ id }) => id));
  const out = new Set(decided.preempt);
  const admitted = new Set(decided.admit.map(({ id }) => id));
  const ready = requests.filter(({ id, stage }) => stage === 'decode' && !left.has(id) && !out.has(id));
  assert.deepEqual(decided.decode.flatMap(({ ids }) => ids).sort(), ready.map(({ id }) => id).sort());
  for (const one of requests)
    assert.equal(
      left.has(one.id),
      one.cancelled ||
        (one.deadlineAtMs !== null && one.deadlineAtMs <= 100) ||
        (one.stage === 'waiting' && !fitsAlone(one, limits)),
    );
  for (const id of out) assert.ok(byId.get(id)!.stage !== 'waiting' && !left.has(id));
  for (const id of admitted) assert.ok(byId.get(id)!.stage === 'waiting' && !left.has(id));
  const rows = requests.filter(
    ({ id, stage }) => (stage !== 'waiting' && !left.has(id) && !out.has(id)) || admitted.has(id),
  );
  const cost = limits.classBounds.concat(Number.POSITIVE_INFINITY).reduce((sum, _, index) => {
    const own = rows.filter(({ maxTokens }) => classOf(maxTokens, limits.classBounds) === index);
    const needs = own.map(({ stage, targetTokens, heldTokens }) =>
      stage === 'waiting' ? targetTokens : Math.max(targetTokens, heldTokens + (stage === 'decode' ? 1 : 0)),
    );
    return sum + arenaTokens(own.length, Math.max(0, ...needs), limits.kvStepTokens);
  }, 0);
  assert.ok(
    rows.length <= 1 || (cost <= limits.kvTokens && rows.length <= limits.maxRows),
    `${rows.length} rows, ${cost} positions`,
  );
  if (admitted.size > 0) assert.ok(cost <= limits.kvTokens && rows.length <= limits.maxRows);
  const work = decided.promptWork;
  const isReading = (id: string): boolean => rows.some((one) => one.id === id && one.stage !== 'decode');
  if (work?.kind === 'prefill') {
    assert.ok(isReading(work.id) && byId.get(work.id)!.pendingImages === 0);
    const chunk = decided.decode.length > 0 ? limits.busyChunkTokens : limits.idleChunkTokens;
    assert.ok(work.tokens >= 1 && work.tokens <= chunk);
    assert.ok(work.tokens <= byId.get(work.id)!.targetTokens - byId.get(work.id)!.heldTokens);
  } else if (work !== null) {
    assert.ok(work.items.reduce((sum, { images }) => sum + images, 0) <= limits.imagesPerRun);
    for (const { id, images } of work.items)
      assert.ok(isReading(id) && images >= 1 && images <= byId.get(id)!.pendingImages);
  } else
    assert.ok(
      !rows.some(
        ({ stage, pendingImages, targetTokens, heldTokens }) =>
          stage !== 'decode' && (pendingImages > 0 || targetTokens > heldTokens),
      ),
      'prompt work is never left lying',
    );
}

describe('fairness', () => {
  const wide: Capacity = {
    ...capacity,
    maxRows: 4,
    kvTokens: 400,
    classBounds: [8, 16],
    busyChunkTokens: 4,
    agingMs: 150,
  };

  it('a long prompt and a stream of short ones both make progress', () => {
    const simulation = new Simulation(wide, { treeBytes: 0 });
    const asked = { key: null, priority: 'interactive' as const, cancelAt: null };
    simulation.add({ ...asked, text: Array.from({ length: 200 }, (_, at) => at), newTokens: 2, arriveAt: 0 });
    for (let arriveAt = 1; arriveAt <= 60; arriveAt++) {
      simulation.run();
      simulation.add({ ...asked, text: [1, 2, arriveAt], newTokens: 3, arriveAt });
    }
    while (simulation.live > 0) simulation.run();
    const stay = (arrival: number) => simulation.outcomes.find((one) => one.arrival === arrival)!.leftAt - arrival;
    // Alone the long one needs 50 chunks; sharing every other step it needs about twice that.
    assert.ok(stay(0) <= 2 * 50 + 10, `the long prompt stayed ${stay(0)} steps`);
    const stays = Array.from({ length: 20 }, (_, at) => stay(at + 1));
    assert.ok(Math.max(...stays) < 60, `a short request stayed ${Math.max(...stays)} steps`);
    assert.equal(simulation.preemptions, 0);
  });

  it('a request that needs the whole pool waits for what was running before it, whatever arrives after it', () => {
    const narrow: Capacity = { ...wide, kvTokens: 48, maxRows: 6 };
    const simulation = new Simulation(narrow, { treeBytes: 0 });
    const small = { key: null, text: [1, 2], newTokens: 6, priority: 'interactive', cancelAt: null } as const;
    let large = -1;
    for (let arriveAt = 0; arriveAt < 200; arriveAt++) {
      simulation.add({ ...small, arriveAt });
      if (arriveAt === 20)
        large = simulation.add({ ...small, text: Array.from({ length: 40 }, (_, at) => at), arriveAt });
      simulation.run();
    }
    const outcome = simulation.outcomes.find(({ arrival }) => arrival === large);
    // Those that were waiting before it need a few steps each, its own prompt 20 chunks at most.
    assert.ok(outcome !== undefined && outcome.leftAt < 100, `it left at step ${outcome?.leftAt}`);
    assert.equal(outcome.preemptions, 0);
  });

  it('a batch request under a stream of interactive ones starts when it has aged, and ends', () => {
    const simulation = new Simulation(wide, { treeBytes: 0 });
    simulation.add({ key: null, text: [1, 2, 3], newTokens: 8, priority: 'batch', cancelAt: null, arriveAt: 0 });
    for (let step = 0; step < 300; step++) {
      for (let more = 0; more < 2; more++)
        simulation.add({
          key: null,
          text: [4, 5],
          newTokens: 4,
          priority: 'interactive',
          cancelAt: null,
          arriveAt: step,
        });
      simulation.run();
    }
    const batch = simulation.outcomes.find(({ arrival }) => arrival === 0);
    assert.ok(batch !== undefined && batch.why === 'done', 'the batch request ended');
    assert.ok(batch.leftAt < wide.agingMs + 40, `it left at step ${batch.leftAt}`);
  });
});
