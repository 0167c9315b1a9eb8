import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import fc from 'fast-check';
import { uniform } from '../../../gpu-backend/engine/random.ts';
import { argmax, logSumExp, sample } from '../../../gpu-backend/engine/sampler.ts';

const greedy = { temperature: 0, topP: 1, topK: 0, seed: 0 };
const logits = Float32Array.from([1, 3, 2, 3, -1]);

describe('sample', () => {
  it('greedy takes the first of equals and ignores the seed', () => {
    assert.equal(sample(logits, { ...greedy, seed: 99 }, 5).id, 1);
  });
  it('reports log-probabilities of the model, before temperature', () => {
    const token = sample(logits, { ...greedy, temperature: 0.1 }, 0, 2);
    assert.deepEqual(
      token.top.map((one) => one.id),
      [1, 3],
    );
    const total = Math.log([...logits].reduce((sum, value) => sum + Math.exp(value), 0));
    assert.ok(Math.abs(token.top[0]!.logprob - (3 - total)) < 1e-6);
    assert.ok(Math.abs(token.logprob - (logits[token.id]! - total)) < 1e-6);
  });
  it('all log-probabilities sum to one', () => {
    const { top } = sample(logits, greedy, 0, logits.length);
    assert.ok(Math.abs(top.reduce((sum, one) => sum + Math.exp(one.logprob), 0) - 1) < 1e-6);
  });
  it('top-k and top-p keep exactly the most likely tokens', () => {
    const seen = (params: { topK?: number; topP?: number }) => {
      const ids = new Set<number>();
      for (let counter = 0; counter < 400; counter++)
        ids.add(sample(logits, { ...greedy, temperature: 1, ...params }, counter).id);
      return [...ids].sort();
    };
    assert.deepEqual(seen({ topK: 1 }), [1]);
    assert.deepEqual(seen({ topK: 3 }), [1, 2, 3]);
    assert.deepEqual(seen({ topP: 0.5 }), [1, 3]); // p = .4, .4, .15 …: the second token crosses 0.5
    assert.deepEqual(seen({ topP: 1e-9 }), [1]);
    assert.deepEqual(seen({}), [0, 1, 2, 3, 4]);
  });
  it('frequencies follow the softmax at the asked temperature', () => {
    const draws = 20_000;
    const counts = new Map<number, number>();
    for (let counter = 0; counter < draws; counter++) {
      const { id } = sample(logits, { ...greedy, temperature: 2, seed: 7 }, counter);
      counts.set(id, (counts.get(id) ?? 0) + 1);
    }
    const weights = [...logits].map((value) => Math.exp(value / 2));
    const sum = weights.reduce((a, b) => a + b, 0);
    for (const [id, weight] of weights.entries())
      assert.ok(Math.abs((counts.get(id) ?? 0) / draws - weight / sum) < 0.015, `token ${id}`);
  });
  it('a NaN row is an error, not a token', () => {
    assert.throws(() => sample(new Float32Array(4).fill(Number.NaN), greedy, 0), /finite logits/);
  });
  it('large counts (sorted) and small counts (inserted) agree', () => {
    fc.assert(
      fc.property(fc.float32Array({ minLength: 80, maxLength: 120, noNaN: true, min: -9, max: 9 }), (row) => {
        const small = sample(row, greedy, 0, 10).top.map((one) => one.id);
        const large = sample(row, greedy, 0, 80).top.map((one) => one.id);
        assert.deepEqual(small, large.slice(0, 10));
        assert.equal(small[0], argmax(row));
      }),
    );
  });
  it('logSumExp does not overflow', () => {
    assert.ok(Math.abs(logSumExp(Float32Array.from([1000, 1000])) - (1000 + Math.log(2))) < 1e-6);
  });
});

describe('uniform', () => {
  it('is a function of seed and counter, in [0, 1)', () => {
    fc.assert(
      fc.property(fc.maxSafeInteger(), fc.nat(1e6), (seed, counter) => {
        const value = uniform(seed, counter);
        assert.ok(value >= 0 && value < 1);
        assert.equal(value, uniform(seed, counter));
      }),
    );
  });
  it('neighbouring seeds and counters are uncorrelated; mean 1/2, variance 1/12', () => {
    const size = 20_000;
    for (const series of [
      Array.from({ length: size }, (_, i) => uniform(42, i)),
      Array.from({ length: size }, (_, i) => uniform(i, 0)),
    ]) {
      const mean = series.reduce((a, b) => a + b) / size;
      const variance = series.reduce((sum, value) => sum + (value - mean) ** 2, 0) / size;
      let covariance = 0;
      for (let i = 1; i < size; i++) covariance += (series[i]! - mean) * (series[i - 1]! - mean);
      assert.ok(Math.abs(mean - 0.5) < 0.01);
      assert.ok(Math.abs(variance - 1 / 12) < 0.003);
      assert.ok(Math.abs(covariance / size / variance) < 0.03);
    }
  });
});
