import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import fc from 'fast-check';
import { admit } from '../../../gpu-backend/engine/admission.ts';
import {
  arenaTokens,
  type Capacity,
  plan,
  reservedTokens,
  type ScheduledRequest,
} from '../../../gpu-backend/engine/scheduler.ts';

const capacity: Capacity = {
  maxRows: 2,
  kvTokens: 16,
  kvStepTokens: 2,
  idleChunkTokens: 4,
  busyChunkTokens: 2,
  imagesPerRun: 2,
};

function request(fields: Partial<ScheduledRequest> & { readonly arrival: number }): ScheduledRequest {
  return {
    id: `r${fields.arrival}`,
    stage: 'waiting',
    promptTokens: 3,
    prefilledTokens: 0,
    maxNewTokens: 2,
    pendingImages: 0,
    cancelled: false,
    deadlineAtMs: null,
    ...fields,
  };
}

interface Arriving {
  readonly atStep: number;
  readonly promptTokens: number;
  readonly newTokens: number;
  readonly images: number;
  readonly cancelAtStep: number | null;
}

/** Runs plans the way the engine does, on counts only. Gives, per request, the step at which it left and why. */
function simulate(arriving: readonly Arriving[], limit: Capacity, maxSteps: number) {
  type Live = ScheduledRequest & { generated: number; planned: Arriving };
  let live: Live[] = [];
  const left = new Map<string, { step: number; why: string; admittedAt: number | null }>();
  const admittedAt = new Map<string, number>();
  let step = 0;
  for (; step < maxSteps && left.size < arriving.length; step++) {
    for (const [arrival, one] of arriving.entries())
      if (one.atStep === step)
        live.push({
          ...request({
            arrival,
            promptTokens: one.promptTokens,
            maxNewTokens: one.newTokens,
            pendingImages: one.images,
          }),
          generated: 0,
          planned: one,
        });
    live = live.map((r) => (r.planned.cancelAtStep === step ? { ...r, cancelled: true } : r));
    const decided = plan({ nowMs: step, step, requests: live }, limit);
    for (const { id, reason } of decided.retire) {
      left.set(id, { step, why: reason, admittedAt: admittedAt.get(id) ?? null });
      live = live.filter((r) => r.id !== id);
    }
    live = live.map((r) => {
      let next = r;
      if (decided.admit.includes(r.id)) {
        admittedAt.set(r.id, step);
        next = { ...next, stage: 'prefill' };
      }
      const work = decided.promptWork;
      if (work?.id === r.id) {
        assert.equal(next.stage, 'prefill');
        if (work.kind === 'encode') next = { ...next, pendingImages: next.pendingImages - work.images };
        else {
          assert.ok(work.tokens >= 1, 'a prefill of nothing is never planned');
          const prefilledTokens = next.prefilledTokens + work.tokens;
          // The last chunk's logits give the first token.
          next =
            prefilledTokens === next.promptTokens
              ? { ...next, prefilledTokens, stage: 'decode', generated: 1 }
              : { ...next, prefilledTokens };
        }
        assert.ok(next.pendingImages >= 0 && next.prefilledTokens <= next.promptTokens);
      }
      if (decided.decode.includes(r.id)) {
        assert.equal(r.stage, 'decode');
        next = { ...next, generated: next.generated + 1 };
      }
      return next;
    });
    const rows = live.filter((r) => r.stage !== 'waiting');
    const longest = Math.max(0, ...rows.map(reservedTokens));
    assert.ok(rows.length <= limit.maxRows, `${rows.length} rows of ${limit.maxRows}`);
    assert.ok(arenaTokens(rows.length, longest, limit.kvStepTokens) <= limit.kvTokens, 'KV budget held');
    for (const r of live)
      if (r.stage === 'decode' && r.generated >= r.planned.newTokens)
        left.set(r.id, { step, why: 'length', admittedAt: admittedAt.get(r.id) ?? null });
    live = live.filter((r) => !left.has(r.id));
  }
  return { left, live, steps: step, admittedAt };
}

describe('plan', () => {
  const rows: [string, ScheduledRequest[], Partial<Capacity>, Partial<ReturnType<typeof plan>>][] = [
    ['nothing to do', [], {}, { retire: [], admit: [], promptWork: null, decode: [] }],
    [
      'a lone request is admitted and prefilled in the same step, with the idle chunk',
      [request({ arrival: 0, promptTokens: 6 })],
      {},
      { admit: ['r0'], promptWork: { kind: 'prefill', id: 'r0', tokens: 4 } },
    ],
    [
      'the chunk shrinks while another row decodes',
      [request({ arrival: 0, stage: 'decode' }), request({ arrival: 1, promptTokens: 5 })],
      {},
      { admit: ['r1'], promptWork: { kind: 'prefill', id: 'r1', tokens: 2 }, decode: ['r0'] },
    ],
    [
      'images come before prompt tokens',
      [request({ arrival: 0, stage: 'prefill', pendingImages: 3 })],
      {},
      { promptWork: { kind: 'encode', id: 'r0', images: 2 } },
    ],
    [
      'the head of the queue is not overtaken by a smaller request',
      [
        request({ arrival: 0, stage: 'decode', promptTokens: 4, maxNewTokens: 4 }),
        request({ arrival: 1, promptTokens: 9 }),
        request({ arrival: 2, promptTokens: 1 }),
      ],
      {},
      { admit: [], decode: ['r0'] },
    ],
    [
      'a cancelled row frees its place within the step',
      [
        request({ arrival: 0, stage: 'decode', cancelled: true }),
        request({ arrival: 1, stage: 'decode' }),
        request({ arrival: 2 }),
      ],
      {},
      { retire: [{ id: 'r0', reason: 'cancelled' }], admit: ['r2'], decode: ['r1'] },
    ],
    [
      'an expired request never starts',
      [request({ arrival: 0, deadlineAtMs: 0 })],
      {},
      { retire: [{ id: 'r0', reason: 'deadline' }], admit: [], promptWork: null },
    ],
  ];
  for (const [name, requests, change, expected] of rows)
    it(name, () => {
      const actual = plan({ nowMs: 0, step: 0, requests }, { ...capacity, ...change });
      assert.deepEqual({ ...actual, ...expected }, actual);
    });

  it('every mix of up to three requests on a tiny pool ends, within budget, and leaks nothing', () => {
    const kinds: Arriving[] = [];
    for (const promptTokens of [1, 5])
      for (const newTokens of [1, 3])
        for (const images of [0, 3])
          for (const atStep of [0, 2])
            for (const cancelAtStep of [null, 3]) kinds.push({ atStep, promptTokens, newTokens, images, cancelAtStep });
    let mixes = 0;
    for (const a of kinds)
      for (const b of kinds)
        for (const c of kinds) {
          const { left, live } = simulate([a, b, c], capacity, 200);
          assert.equal(left.size, 3);
          assert.equal(live.length, 0);
          mixes++;
        }
    assert.equal(mixes, kinds.length ** 3);
  });

  it('random loads end; a request that arrived earlier is never admitted later', () => {
    const arriving = fc.record({
      atStep: fc.nat(30),
      promptTokens: fc.integer({ min: 1, max: 12 }),
      newTokens: fc.integer({ min: 1, max: 4 }),
      images: fc.nat(5),
      cancelAtStep: fc.option(fc.nat(60)),
    });
    fc.assert(
      fc.property(fc.array(arriving, { maxLength: 30 }), (unordered) => {
        const requests = unordered.sort((a, b) => a.atStep - b.atStep);
        const { left, admittedAt } = simulate(
          requests.map((r) => ({
            ...r,
            cancelAtStep: r.cancelAtStep === null ? null : Math.max(r.cancelAtStep, r.atStep),
          })),
          capacity,
          3000,
        );
        assert.equal(left.size, requests.length);
        const order = requests.map((_, i) => admittedAt.get(`r${i}`)).filter((at) => at !== undefined);
        assert.deepEqual(
          order,
          [...order].sort((a, b) => a - b),
        );
      }),
      { numRuns: 300 },
    );
  });

  it('a long prompt and a stream of short ones both make progress', () => {
    const big: Capacity = { ...capacity, maxRows: 4, kvTokens: 4 * 220, busyChunkTokens: 4 };
    const stream: Arriving[] = Array.from({ length: 60 }, (_, i) => ({
      atStep: i + 1,
      promptTokens: 4,
      newTokens: 3,
      images: 0,
      cancelAtStep: null,
    }));
    const { left } = simulate(
      [{ atStep: 0, promptTokens: 200, newTokens: 2, images: 8, cancelAtStep: null }, ...stream],
      big,
      1000,
    );
    assert.equal(left.size, 61);
    // Alone the long one needs 4 image steps and 50 chunks; sharing every other step it needs at most about twice that.
    assert.ok(left.get('r0')!.step <= 2 * (4 + 50) + 8, `the long prompt left at step ${left.get('r0')!.step}`);
    const shortWaits = stream.slice(0, 20).map((one, i) => left.get(`r${i + 1}`)!.step - one.atStep);
    assert.ok(Math.max(...shortWaits) < 60, `a short request waited ${Math.max(...shortWaits)} steps`);
  });
});

describe('admit', () => {
  const limits = { contextTokens: 12, defaultMaxNewTokens: 4, capacity };
  it('reserves what was asked for, or the default within the room left', () => {
    assert.deepEqual(admit({ promptTokens: 5, imageTokens: 2, maxNewTokens: 7 }, limits), { maxNewTokens: 7 });
    assert.deepEqual(admit({ promptTokens: 5, imageTokens: 2, maxNewTokens: null }, limits), { maxNewTokens: 4 });
    assert.deepEqual(admit({ promptTokens: 10, imageTokens: 2, maxNewTokens: null }, limits), { maxNewTokens: 2 });
  });
  it('refuses what exceeds the context, with all numbers', () => {
    const answer = admit({ promptTokens: 10, imageTokens: 8, maxNewTokens: 3 }, limits);
    assert.ok('refusal' in answer);
    assert.equal(answer.refusal.code, 'context_length_exceeded');
    assert.match(answer.refusal.message, /context is 12 tokens.*10 \(2 text \+ 8 image\).*3 more.*13 in all/);
  });
  it('refuses what the KV budget can never hold', () => {
    const answer = admit({ promptTokens: 16, imageTokens: 0, maxNewTokens: 2 }, { ...limits, contextTokens: 100 });
    assert.ok('refusal' in answer && /need 18 positions.*holds 16/.test(answer.refusal.message));
  });
  it('whatever is admitted, the scheduler can run', () => {
    fc.assert(
      fc.property(
        fc.integer({ min: 1, max: 20 }),
        fc.option(fc.integer({ min: 1, max: 20 })),
        (promptTokens, asked) => {
          const answer = admit({ promptTokens, imageTokens: 0, maxNewTokens: asked }, limits);
          if ('refusal' in answer) return;
          const waiting = request({ arrival: 0, promptTokens, maxNewTokens: answer.maxNewTokens });
          assert.deepEqual(plan({ nowMs: 0, step: 0, requests: [waiting] }, capacity).admit, ['r0']);
        },
      ),
    );
  });
});
