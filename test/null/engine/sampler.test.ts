import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import fc from 'fast-check';
import { argmax } from '../../../gpu-backend/engine/candidates.ts';
import { choiceSeed, drawOf, uniform, uniformOfToken } from '../../../gpu-backend/engine/random.ts';
import { RequestSampler } from '../../../gpu-backend/engine/request-sampler.ts';
import { choose, logSumExp, type SamplingParams, sample } from '../../../gpu-backend/engine/sampler.ts';

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
    assert.deepEqual(seen({ topP: 0 }), [1]);
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

describe('choose against its definition', () => {
  /** What may be drawn, by sorting everything: top-k, then top-p of what is left, then min-p. */
  function allowed(row: Float32Array, { topK, topP, minP }: { topK: number; topP: number; minP: number }, T: number) {
    const sorted = [...row.keys()].sort((a, b) => row[b]! - row[a]! || a - b).slice(0, topK || row.length);
    const weight = (id: number) => Math.exp((row[id]! - row[sorted[0]!]!) / T);
    const total = sorted.reduce((sum, id) => sum + weight(id), 0);
    const kept = new Set<number>();
    let mass = 0;
    for (const id of sorted) {
      if (mass < topP * total - 1e-9 * total && weight(id) >= minP * (1 - 1e-12)) kept.add(id);
      mass += weight(id);
    }
    return kept;
  }
  it('draws only what is kept, and all of it', () => {
    for (const [n, cut] of [
      { topK: 0, topP: 0.9, minP: 0 },
      { topK: 7, topP: 1, minP: 0 },
      { topK: 9, topP: 0.8, minP: 0 },
      { topK: 0, topP: 1, minP: 0.1 },
      { topK: 12, topP: 0.95, minP: 0.05 },
      { topK: 100, topP: 0.99, minP: 0 },
    ].entries())
      for (let seed = 0; seed < 20; seed++) {
        const row = Float32Array.from({ length: 40 }, (_, id) => 5 * uniform(seed, id));
        row[3] = row[4] = row[5]!; // equals
        const seen = new Set<number>();
        for (let counter = 0; counter < 1500; counter++)
          seen.add(choose(row, { temperature: 0.7, seed: seed * 7 + n, ...cut }, counter));
        const kept = allowed(row, cut, 0.7);
        for (const id of seen) assert.ok(kept.has(id), `${JSON.stringify(cut)}, seed ${seed}: drew ${id}`);
        const weights = [...kept].map((id) => Math.exp(row[id]! / 0.7));
        const total = weights.reduce((a, b) => a + b, 0);
        for (const [i, id] of [...kept].entries())
          assert.ok(seen.has(id) || weights[i]! / total < 0.01, `${JSON.stringify(cut)}, seed ${seed}: never ${id}`);
      }
  });
  it('rounding differences, as between batches, change next to nothing', () => {
    let changed = 0;
    for (let counter = 0; counter < 2000; counter++) {
      const row = Float32Array.from({ length: 400 }, (_, id) => uniform(counter, id));
      const other = row.map((value, id) => value + 1e-5 * (uniform(counter + 5000, id) - 0.5));
      const params = { ...greedy, temperature: 1, seed: 3 };
      if (choose(row, params, counter) !== choose(other, params, counter)) changed++;
    }
    assert.ok(changed <= 1, `${changed} of 2000 tokens differ`);
  });
  it('chooses among given ids only', () => {
    const row = Float32Array.from([9, 8, 1, 2, 7]);
    assert.equal(choose(row, greedy, 0, [2, 3]), 3);
    for (let counter = 0; counter < 200; counter++)
      for (const topK of [0, 1, 2])
        assert.ok([2, 3].includes(choose(row, { ...greedy, temperature: 5, topK, topP: 0.9 }, counter, [2, 3])));
  });
});

describe('RequestSampler', () => {
  const sampler = (sampling: Partial<SamplingParams>, tokenIds: number[] = []) =>
    new RequestSampler({
      tokenIds: Int32Array.from(tokenIds),
      maxNewTokens: 10,
      stopIds: [],
      topLogprobs: 1,
      sampling: { ...greedy, ...sampling },
    });
  const row = Float32Array.from([2, 1.9, -1, -1.1]);
  const drawn = (of: RequestSampler, count: number, from = row) =>
    Array.from({ length: count }, () => of.next(from).id);

  it('presence and frequency penalties count what was generated, not the prompt', () => {
    assert.deepEqual(drawn(sampler({ presencePenalty: 0.2 }, [0, 0]), 4), [0, 1, 0, 0]);
    // 2, then 1.9 over 1.8, then 1.8 over 1.7, …: they take turns.
    assert.deepEqual(drawn(sampler({ frequencyPenalty: 0.2 }), 6), [0, 1, 0, 1, 0, 1]);
    assert.deepEqual(drawn(sampler({ presencePenalty: -1 }), 3), [0, 0, 0]);
  });
  it('the repetition penalty divides positive logits and multiplies negative ones, of prompt and answer', () => {
    assert.deepEqual(drawn(sampler({ repetitionPenalty: 1.1 }, [0]), 3), [1, 0, 0]);
    const negative = Float32Array.from([-2, -2.1]);
    assert.deepEqual(drawn(sampler({ repetitionPenalty: 1.2 }), 2, negative), [0, 1]);
  });
  it('biases single tokens; log-probabilities stay the model’s own; logits are not written to', () => {
    const one = sampler({ logitBias: [[3, 50]], presencePenalty: 1 });
    const before = row.slice();
    const token = one.next(row);
    assert.deepEqual(row, before);
    assert.equal(token.id, 3);
    assert.equal(token.top[0]!.id, 0);
    assert.ok(Math.abs(token.logprob - (row[3]! - logSumExp(row))) < 1e-6);
  });
  it('draws by seed and position, whatever others draw between', () => {
    const alone = drawn(sampler({ temperature: 1, seed: 5 }), 10);
    const [a, b] = [sampler({ temperature: 1, seed: 5 }), sampler({ temperature: 1, seed: 6, frequencyPenalty: 1 })];
    const mixed = alone.map(() => {
      b.next(row);
      return a.next(row).id;
    });
    assert.deepEqual(mixed, alone);
  });
  it('seeds of choices differ from each other and from neighbours’', () => {
    const seeds = [1, 2, 3].flatMap((seed) => Array.from({ length: 8 }, (_, index) => choiceSeed(seed, index)));
    assert.equal(new Set(seeds).size, seeds.length);
    assert.equal(choiceSeed(77, 0), 77);
    for (const seed of seeds) assert.ok(Number.isSafeInteger(seed));
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
      Array.from({ length: size }, (_, id) => uniformOfToken(drawOf(42, 7), id)),
      Array.from({ length: size }, (_, i) => uniformOfToken(drawOf(42, i), 5)),
      Array.from({ length: size }, (_, i) => uniformOfToken(drawOf(i, 0), 5)),
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
