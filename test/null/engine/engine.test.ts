import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import fc from 'fast-check';
import type { EngineRequest } from '../../../gpu-backend/engine/live-request.ts';
import type { ForwardBatch, ForwardResult, ModelRunner } from '../../../gpu-backend/engine/runner.ts';
import type { Picture } from '../../../gpu-backend/models/family.ts';
import { PLAIN_REQUEST, smallCapacity, startEngine } from '../../fixtures/engine.ts';

const VOCAB = 97;
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

function nextToken(attended: readonly (readonly [position: number, value: number])[]): number {
  let hash = 7;
  for (const [position, value] of [...attended].sort((a, b) => a[0] - b[0]))
    hash = (hash * 31 + position * 17 + value) % 1_000_003;
  return hash % VOCAB;
}

/**
 * A model whose next token is a hash of every position it attends: one row that sees another's cache, a lost or doubled key, a
 * wrong position or a misplaced picture changes the answer.
 */
class HashRunner implements ModelRunner {
  readonly kv = { layers: 2, kvHeads: 1, headDim: 2, format: 'f32' } as const;
  encodedImages = 0;
  failAtForward = -1;
  forwards = 0;

  async encode(pictures: readonly Picture[]): Promise<Float32Array[]> {
    this.encodedImages += pictures.length;
    // Two tokens a picture, hidden size 1.
    return pictures.map(({ pixels_CHW: [value = 0] }) => Float32Array.of(1000 + value, 2000 + value));
  }

  async forward(batch: ForwardBatch): Promise<ForwardResult> {
    if (this.forwards++ === this.failAtForward) throw new Error('device lost');
    const { rows: B, newTokens: S, pastTokens: T } = batch;
    const values_BS = Float32Array.from(batch.ids_BS);
    for (const { at, features } of batch.imageRows) values_BS.set(features, at);
    const fresh = new Float32Array(B * S * 2);
    for (let index = 0; index < B * S; index++) {
      fresh[index * 2] = batch.positions_BS[index]!;
      fresh[index * 2 + 1] = values_BS[index]!;
    }
    const logits_RV = new Float32Array(batch.logitRows_R.length * VOCAB);
    for (const [r, flat] of batch.logitRows_R.entries()) {
      const row = Math.floor(flat / S);
      const attended: [number, number][] = [];
      for (let t = 0; t < T; t++) {
        if (batch.pastBias_B11T[row * T + t] !== 0) continue;
        const at = (row * T + t) * 2;
        const [first, second] = [batch.past[0]!.k, batch.past[1]!.v];
        assert.equal(first[at], second[at]);
        attended.push([first[at]!, first[at + 1]!]);
      }
      for (let s = row * S; s <= flat; s++) attended.push([fresh[s * 2]!, fresh[s * 2 + 1]!]);
      logits_RV[r * VOCAB + nextToken(attended)] = 10;
    }
    return { logits_RV, fresh: { keys: [fresh, fresh], values: [fresh, fresh] } };
  }

  async dispose(): Promise<void> {}
}

function makeRequest(
  id: string,
  prompt: readonly number[],
  pictures: readonly number[],
  newTokens: number,
): EngineRequest {
  // Pictures stand after the first prompt token, two positions each.
  const ids = [prompt[0]!, ...pictures.flatMap(() => [0, 0]), ...prompt.slice(1)];
  return {
    ...PLAIN_REQUEST,
    id,
    tokenIds: Int32Array.from(ids),
    images: pictures.map((pixel, index) => ({
      start: 1 + index * 2,
      tokens: 2,
      key: `picture-${pixel}`,
      picture: { pixels_CHW: Float32Array.of(pixel), width: 1, height: 1 },
    })),
    maxNewTokens: newTokens,
    stopIds: [3],
  };
}

/** The answer by definition: no cache, no batch. */
function reference(request: EngineRequest): number[] {
  const values = [...request.tokenIds];
  for (const slot of request.images) {
    values[slot.start] = 1000 + slot.picture!.pixels_CHW[0]!;
    values[slot.start + 1] = 2000 + slot.picture!.pixels_CHW[0]!;
  }
  const answer: number[] = [];
  while (answer.length < request.maxNewTokens) {
    const token = nextToken(values.map((value, position) => [position, value] as const));
    if (request.stopIds.includes(token)) break;
    answer.push(token);
    values.push(token);
  }
  return answer;
}

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
        const { engine, tokens, end } = start(new HashRunner(), { prefixCacheBytes: reuse ? 4000 : 0 });
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
    assert.deepEqual(end('b'), { type: 'failed', id: 'b', message: 'device lost' });
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
