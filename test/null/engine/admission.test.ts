import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import fc from 'fast-check';
import { admit } from '../../../gpu-backend/engine/admission.ts';
import { plan } from '../../../gpu-backend/engine/scheduler/plan.ts';
import type { Capacity, ScheduledRequest } from '../../../gpu-backend/engine/scheduler/types.ts';

const capacity: Capacity = {
  maxRows: 2,
  kvTokens: 16,
  kvStepTokens: 2,
  classBounds: [],
  idleChunkTokens: 4,
  busyChunkTokens: 2,
  imagesPerRun: 2,
  growthTokens: 2,
  agingMs: 1000,
};

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
          const maxTokens = promptTokens + answer.maxNewTokens;
          const waiting: ScheduledRequest = {
            ...{ id: 'r0', arrival: 0, priority: 'batch', stage: 'waiting', targetTokens: promptTokens, heldTokens: 0 },
            ...{
              maxTokens,
              pendingImages: 0,
              sharesWith: null,
              waitingSinceMs: 0,
              cancelled: false,
              deadlineAtMs: null,
            },
          };
          const { admit: admitted } = plan({ nowMs: 0, step: 0, requests: [waiting] }, capacity);
          assert.deepEqual(admitted, [{ id: 'r0', class: 0 }]);
        },
      ),
    );
  });
});
