import assert from 'node:assert/strict';
import { after, before, describe, it } from 'node:test';
import type { OnnxRunner } from '../../../gpu-backend/engine/onnx-runner.ts';
import { causalBias, forwardGraph } from '../../../gpu-backend/models/vlm.ts';
import { f32, ints, Session, type Tensor } from '../../../gpu-backend/runtime/session.ts';
import { smallCapacity, startEngine } from '../../fixtures/engine.ts';
import {
  checkBatch,
  makeRequest,
  noCounts,
  openSmallRunner,
  randomWeights,
  SMALL_CONFIG,
  SoloAnswers,
} from './batching-load.ts';

/** 1,000 batches take a minute or two: MANTIS_LONG_TESTS=1, or `npm run bench -- batching`. */
const BATCHES = process.env.MANTIS_LONG_TESTS === '1' ? 1000 : 80;
const POOL = process.env.MANTIS_LONG_TESTS === '1' ? 400 : 120;

describe('continuous batching over ONNX Runtime', () => {
  let runner: OnnxRunner;
  before(async () => {
    runner = await openSmallRunner();
  });
  after(() => runner.dispose());

  it(`${BATCHES} ragged mixed batches give each request exactly what it gets alone`, async (t) => {
    const solo = new SoloAnswers(runner);
    const counts = noCounts();
    for (let seed = 0; seed < BATCHES; seed++) await checkBatch(runner, solo, seed, POOL, counts);
    t.diagnostic(JSON.stringify(counts));
    // The load is what it is said to be.
    assert.ok(counts.tokens > 50 * BATCHES && counts.cancelled > BATCHES / 5, 'tokens, cancelled');
    assert.ok(counts.preemptions > BATCHES / 5 && counts.cachedTokens > 5 * BATCHES, 'preempted, cached');
    assert.ok(counts.draftedTokens > BATCHES / 5 && counts.acceptedTokens > BATCHES / 10, 'drafted, accepted');
    assert.ok(counts.ties <= counts.greedyTokens / 10_000, `${counts.ties} ties of ${counts.greedyTokens} tokens`);
  });

  it('through the other binding too', async () => {
    const before = process.env.MANTIS_BINDING;
    process.env.MANTIS_BINDING = 'node';
    const other = await openSmallRunner();
    try {
      // The answers to compare with come from the first binding.
      const solo = new SoloAnswers(runner);
      for (let seed = 2000; seed < 2010; seed++) await checkBatch(other, solo, seed, POOL, noCounts());
    } finally {
      if (before === undefined) delete process.env.MANTIS_BINDING;
      else process.env.MANTIS_BINDING = before;
      await other.dispose();
    }
  });

  it('a drawn answer is its seed’s, whatever the batch mates and through preemption', async () => {
    const solo = new SoloAnswers(runner);
    const drawn = [...Array(POOL).keys()].filter((i) => makeRequest(i).sampling.temperature > 0).slice(0, 12);
    const seen = new Set<string>();
    let preemptions = 0;
    for (const kvTokens of [128, 320, 1024]) {
      const capacity = smallCapacity({ maxRows: 6, kvTokens, kvStepTokens: 16, busyChunkTokens: 7, growthTokens: 0 });
      const { engine, tokens } = startEngine({ runner, capacity, prefixCacheBytes: kvTokens === 320 ? 50_000 : 0 });
      for (const index of drawn) engine.submit(makeRequest(index));
      while (engine.busy) await engine.step();
      preemptions += engine.counters.preemptions;
      for (const index of drawn) {
        const got = tokens(`r${index}`);
        assert.deepEqual(got, (await solo.of(index)).tokens, `request ${index} with ${kvTokens} positions`);
        seen.add(got.join());
      }
    }
    assert.ok(preemptions > 0, 'rows were preempted');
    assert.ok(seen.size > drawn.length / 2, 'the answers differ from each other');
  });

  it('with the cache = without it: every token is the argmax of a whole forward pass', async () => {
    const weights = randomWeights();
    const { graph, weights: needed } = forwardGraph(SMALL_CONFIG, { images: 'pixels', rows: true });
    const session = await Session.create(graph);
    const request = [...Array(POOL).keys()]
      .map(makeRequest)
      .find(({ images, adapter, sampling }) => images.length >= 2 && adapter === null && sampling.temperature === 0)!;
    const capacity = smallCapacity({ maxRows: 1, kvTokens: 256, kvStepTokens: 16, idleChunkTokens: 5 });
    const { engine, tokens } = startEngine({ runner, capacity });
    engine.submit(request);
    while (engine.busy) await engine.step();
    const ids = [...request.tokenIds];
    for (const token of tokens(request.id)) {
      const S = ids.length;
      const feeds: Record<string, Tensor> = {
        ids: ints(ids, [1, S]),
        positions: ints([...ids.keys()], [1, S]),
        causal_bias: f32(causalBias(S), [S, S]),
        rows: ints([S - 1], [1]),
        image_rows: ints(
          request.images.flatMap(({ start, tokens }) => Array.from({ length: tokens }, (_, t) => start + t)),
          [request.images.length * SMALL_CONFIG.tokensPerImage],
        ),
        pixel_values: f32(Float32Array.from(request.images.flatMap(({ picture }) => [...picture!.pixels_CHW])), [
          request.images.length,
          3,
          12,
          12,
        ]),
      };
      for (const name of needed.keys()) feeds[name] = weights.get(name)!;
      const logits = (await session.run(feeds)).logits!.data as Float32Array;
      assert.equal(token, logits.indexOf(Math.max(...logits)));
      ids.push(token);
    }
    await session.release();
    assert.ok(tokens(request.id).length > 2);
  });
});
