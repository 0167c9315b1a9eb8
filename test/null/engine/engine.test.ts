import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import fc from 'fast-check';
import type { EngineRequest } from '../../../gpu-backend/engine/live-request.ts';
import { smallCapacity, startEngine } from '../../fixtures/engine.ts';
import { HashRunner, makeRequest, reference, VOCAB } from './hash-runner.ts';

const capacity = smallCapacity({
  maxRows: 4,
  kvTokens: 96,
  kvStepTokens: 8,
  classBounds: [16],
  idleChunkTokens: 16,
  busyChunkTokens: 3,
  imagesPerRun: 2,
  growthTokens: 2,
});

function start(runner: HashRunner, options: { nowMs?: () => number; prefixCacheBytes?: number } = {}) {
  return startEngine({ runner, capacity, ...options });
}

describe('Engine', () => {
  it('gives every request its solo answer, whatever joins, leaves or is cancelled beside it', async () => {
    const arriving = fc.record({
      prompt: fc.array(fc.integer({ min: 4, max: VOCAB - 1 }), { minLength: 1, maxLength: 20 }),
      pictures: fc.array(fc.nat(4), { maxLength: 4 }),
      newTokens: fc.integer({ min: 1, max: 12 }),
      atStep: fc.nat(15),
      cancelAtStep: fc.option(fc.nat(30), { freq: 4 }),
      isBatch: fc.boolean(),
    });
    let preemptions = 0;
    let cached = 0;
    await fc.assert(
      fc.asyncProperty(fc.array(arriving, { minLength: 1, maxLength: 12 }), fc.boolean(), async (load, reuse) => {
        const runner = new HashRunner();
        runner.writesInPlace = load.length % 2 === 0;
        const { engine, tokens, end } = start(runner, { prefixCacheBytes: reuse ? 4000 : 0 });
        const requests = load.map((one, i) => ({
          ...makeRequest(`r${i}`, one.prompt, one.pictures, one.newTokens),
          priority: one.isBatch ? ('batch' as const) : ('interactive' as const),
        }));
        for (let step = 0; step < 600; step++) {
          for (const [i, one] of load.entries()) {
            if (one.atStep === step) engine.submit(requests[i]!);
            if (one.cancelAtStep === step) engine.cancel(`r${i}`);
          }
          await engine.step();
          if (step > 15 && !engine.busy) break;
        }
        assert.equal(engine.busy, false, 'everything ended');
        engine.trim();
        const { prefixBytes, ...rest } = engine.load;
        assert.deepEqual(rest, { running: 0, waiting: 0, kvTokens: 0, kvBytes: 0 });
        assert.ok(prefixBytes <= 4000);
        preemptions += engine.counters.preemptions;
        cached += engine.counters.cachedTokens;
        for (const request of requests) {
          const expected = reference(request);
          const actual = tokens(request.id);
          const ended = end(request.id);
          assert.ok(ended?.type === 'end');
          if (ended.reason === 'cancelled') assert.deepEqual(actual, expected.slice(0, actual.length));
          else {
            assert.deepEqual(actual, expected);
            assert.equal(ended.reason, expected.length < request.maxNewTokens ? 'stop' : 'length');
          }
        }
      }),
      { numRuns: 300 },
    );
    assert.ok(preemptions > 20 && cached > 20, `${preemptions} preemptions, ${cached} cached tokens`);
  });

  it('encodes each picture once, however often it is asked about', async () => {
    const runner = new HashRunner();
    const { engine, tokens } = start(runner);
    const requests = [1, 2, 3].map((n) => makeRequest(`r${n}`, [10, 11 + n], [1, 2, 1], 4));
    for (const request of requests) engine.submit(request);
    while (engine.busy) await engine.step();
    assert.equal(runner.encodedImages, 2);
    for (const request of requests) assert.deepEqual(tokens(request.id), reference(request));
  });

  it('a cancelled row is gone after one step', async () => {
    const { engine, end, tokens } = start(new HashRunner());
    engine.submit({ ...makeRequest('a', [10, 11], [], 30), stopIds: [] });
    for (let i = 0; i < 3; i++) await engine.step();
    const before = tokens('a').length;
    engine.cancel('a');
    await engine.step();
    assert.deepEqual(end('a'), { type: 'end', id: 'a', reason: 'cancelled' });
    assert.equal(tokens('a').length, before);
    engine.trim();
    assert.equal(engine.load.kvBytes, 0);
  });

  it('a request past its deadline ends as such', async () => {
    let now = 0;
    const { engine, end } = start(new HashRunner(), { nowMs: () => now });
    engine.submit({ ...makeRequest('a', [10, 11], [], 30), stopIds: [], deadlineAtMs: 5 });
    await engine.step();
    now = 5;
    await engine.step();
    assert.deepEqual(end('a'), { type: 'end', id: 'a', reason: 'deadline' });
  });

  it('a failed run ends its own rows and no others', async () => {
    const runner = new HashRunner();
    const { engine, end, tokens } = start(runner);
    runner.failAtForward = 2; // forward 0 reads a's prompt, 1 decodes a, 2 reads b's prompt
    const first = makeRequest('a', [10], [], 4);
    engine.submit(first);
    engine.submit(makeRequest('b', [12], [], 4));
    while (engine.busy) await engine.step();
    const failed = end('b');
    assert.ok(failed?.type === 'failed');
    assert.equal(failed.message, 'device lost');
    assert.deepEqual(tokens('a'), reference(first));
  });

  it('probabilities of a prompt are told once, though its row is preempted while it reads', async () => {
    const capacity = smallCapacity({ maxRows: 2, kvTokens: 48, kvStepTokens: 8, busyChunkTokens: 2, growthTokens: 0 });
    const reading = {
      ...makeRequest('asked', [10, 20, 30, 40, 50, 60, 70, 80, 90, 11, 21, 31, 41, 51, 61, 71, 81, 91, 12, 22], [], 0),
      readFrom: 2,
    };
    const readsOf = async (requests: readonly EngineRequest[]) => {
      const { engine, events } = startEngine({ runner: new HashRunner(), capacity });
      for (const request of requests) engine.submit(request);
      while (engine.busy) await engine.step();
      const reads = events.filter((event) => event.type === 'read');
      return { reads, preemptions: engine.counters.preemptions };
    };
    const alone = await readsOf([reading]);
    // Both have room for 24 positions; the row that goes before outgrows them while the other reads.
    const growing = { ...makeRequest('grows', Array(18).fill(9), [], 20), stopIds: [] };
    const beside = await readsOf([growing, reading]);
    assert.ok(beside.preemptions > 0, 'it was preempted');
    assert.equal(alone.preemptions, 0);
    assert.deepEqual(beside.reads, alone.reads);
    assert.equal(alone.reads[0]?.logprobs.length, 18);
  });
});
