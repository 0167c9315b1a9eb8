import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import fc from 'fast-check';
import { firstOfRace, mostLikely, race, raceAmong } from '../../../gpu-backend/engine/candidates.ts';
import { chooseWhere } from '../../../gpu-backend/engine/draw-where.ts';
import { ConstraintCompiler, type ConstraintSpec } from '../../../gpu-backend/engine/grammar/constraint.ts';
import { GrammarMatcher } from '../../../gpu-backend/engine/grammar/matcher.ts';
import type { Place } from '../../../gpu-backend/engine/grammar/place.ts';
import { tokenText } from '../../../gpu-backend/engine/grammar/token-trie.ts';
import { drawOf, uniform, uniformOfToken } from '../../../gpu-backend/engine/random.ts';
import { RequestSampler } from '../../../gpu-backend/engine/request-sampler.ts';
import { choose, type SamplingParams } from '../../../gpu-backend/engine/sampler.ts';
import { randomSchema } from '../../fixtures/random-schemas.ts';
import { tokenizerOf } from './grammar/answers.ts';

/** Noise as flat as asked; equal logits, and some that no draw may take. */
function rowOf(seed: number, V: number, spread: number): Float32Array {
  const row = Float32Array.from({ length: V }, (_, id) => spread * uniform(seed, id));
  for (let n = 0; n < V / 8; n++) row[Math.floor(V * uniform(seed, V + n))] = row[0]!;
  if (seed % 3 === 0) row[Math.floor(V * uniform(seed, -1))] = Number.NEGATIVE_INFINITY;
  return row;
}

const WAYS: readonly Omit<SamplingParams, 'seed'>[] = [
  { temperature: 0, topP: 1, topK: 0 },
  { temperature: 1, topP: 1, topK: 0 },
  { temperature: 0.3, topP: 1, topK: 0 },
  { temperature: 2, topP: 1, topK: 0 },
  { temperature: 1e-12, topP: 1, topK: 0 },
  { temperature: 1, topP: 0.9, topK: 0 },
  { temperature: 0.7, topP: 0.5, topK: 0, minP: 0.05 },
  { temperature: 1, topP: 0, topK: 0 },
  { temperature: 1, topP: 1, topK: 5 },
  { temperature: 1.5, topP: 0.8, topK: 12 },
  { temperature: 1, topP: 1, topK: 20, minP: 0.1 },
  { temperature: 1, topP: 1, topK: 0, minP: 0.2 },
  { temperature: 1, topP: 0.95, topK: 1 },
];

describe('the race', () => {
  /** By definition: every token's key with two logarithms, the largest wins, then the smallest id. */
  const keys = (row: Float32Array, temperature: number, draw: number) =>
    [...row].map((value, id) => value + temperature * -Math.log(-Math.log(uniformOfToken(draw, id))));
  it('skips only tokens that cannot win', () => {
    for (let seed = 0; seed < 400; seed++) {
      const row = rowOf(seed, 3 + (seed % 200), [0, 1e-6, 1, 8, 60][seed % 5]!);
      for (const temperature of [1e-12, 0.01, 0.7, 1, 2]) {
        const draw = drawOf(seed, 9);
        const all = keys(row, temperature, draw);
        const order = [...row.keys()].filter((id) => all[id]! > -Infinity).sort((a, b) => all[b]! - all[a]! || a - b);
        const [winner] = order;
        assert.equal(race(row, temperature, draw), winner);
        assert.equal(raceAmong(row, temperature, draw, [...row.keys()].reverse()), winner);
        assert.deepEqual(firstOfRace(row, temperature, draw, 7).slice(0, order.length), order.slice(0, 7));
      }
    }
  });
  it('the largest logits, equals by id, of all and of some', () => {
    fc.assert(
      fc.property(fc.array(fc.integer({ min: -4, max: 4 }), { minLength: 1, maxLength: 60 }), fc.nat(70), (raw, n) => {
        const row = Float32Array.from(raw);
        const sorted = [...row.keys()].sort((a, b) => row[b]! - row[a]! || a - b);
        assert.deepEqual(mostLikely(row, n), sorted.slice(0, n));
        const odd = sorted.filter((id) => id % 2 === 1);
        assert.deepEqual(mostLikely(row, n, [...odd].reverse()), odd.slice(0, n));
      }),
    );
  });
});

describe('chooseWhere', () => {
  it('draws what choosing among all allowed tokens draws, or says that it cannot tell', () => {
    const told = WAYS.map(() => 0);
    for (let seed = 0; seed < 600; seed++) {
      const V = 20 + ((seed * 37) % 500);
      const row = rowOf(seed, V, [1, 8, 30, 80][seed % 4]!);
      const share = [0.02, 0.2, 0.9, 1][(seed >> 2) % 4]!;
      const isAllowed = (id: number) => id === 3 || uniform(seed + 10_000, id) < share;
      const among = [...row.keys()].filter(isAllowed);
      if (!among.some((id) => row[id]! > -Infinity)) continue;
      for (const [way, params] of WAYS.entries()) {
        const id = chooseWhere(row, { ...params, seed }, seed, isAllowed);
        if (id === null) continue;
        told[way]!++;
        assert.equal(id, choose(row, { ...params, seed }, seed, among), `seed ${seed}, ${JSON.stringify(params)}`);
      }
    }
    for (const [way, count] of told.entries())
      assert.ok(count > 100, `${JSON.stringify(WAYS[way])}: told only ${count} times`);
  });
});

describe('a constrained answer', () => {
  const tokenizer = tokenizerOf('nano');
  const stop = tokenizer.vocabSize;
  const compiler = new ConstraintCompiler();

  /** Tokens of an answer by definition: at every step each token of the vocabulary is tried. */
  function byDefinition(spec: ConstraintSpec, sampling: SamplingParams, rows: readonly Float32Array[]): number[] {
    const { grammar, trie, skipsFirstSpace } = compiler.compile(spec, { tokenizer, stopIds: [stop] }, 'schema');
    const matcher = new GrammarMatcher(grammar, trie, skipsFirstSpace);
    const ids: number[] = [];
    let place = matcher.start;
    for (const [drawn, row] of rows.entries()) {
      if (place.isComplete) break;
      const left = rows.length - drawn - 1;
      const after = new Map<number, Place>();
      for (let id = 0; id < tokenizer.vocabSize; id++) {
        const bytes = tokenText(trie, id);
        const next = bytes.length === 0 ? null : matcher.after(place, bytes);
        if (next !== null) after.set(id, next);
      }
      const ends = place.canEnd ? [stop] : [];
      const leavesRoom = (id: number) => {
        const next = after.get(id);
        return next === undefined || next.isComplete || next.distance <= left - 1;
      };
      const all = [...after.keys(), ...ends];
      const closing = all.filter(leavesRoom);
      let id = choose(row, sampling, drawn, all);
      if (place.distance <= left && !leavesRoom(id) && closing.length > 0) id = choose(row, sampling, drawn, closing);
      ids.push(id);
      if (id === stop) break;
      place = after.get(id)!;
    }
    return ids;
  }

  it('is token for token the one of full masks, in every way of drawing, first time and again', () => {
    for (let seed = 0; seed < 52; seed++) {
      const sampling = { ...WAYS[seed % WAYS.length]!, seed };
      const schema = randomSchema(3000 + seed);
      const spec: ConstraintSpec = { type: 'json_schema', schema };
      const constraint = compiler.compile(spec, { tokenizer, stopIds: [stop] }, 'schema');
      const spread = [3, 12, 40][seed % 3]!;
      const limit = 12 + ((seed * 11) % 60);
      const rows = Array.from({ length: limit }, (_, n) => rowOf(seed * 1000 + n, stop + 1, spread));
      const expected = byDefinition(spec, sampling, rows);
      for (const time of ['first', 'again', 'once more']) {
        const sampler = new RequestSampler({
          tokenIds: new Int32Array(1),
          maxNewTokens: limit,
          stopIds: [stop],
          topLogprobs: -1,
          sampling: { ...sampling, constraint },
        });
        const ids: number[] = [];
        for (const row of rows) {
          if (sampler.finished || ids.at(-1) === stop) break;
          ids.push(sampler.next(row).id);
        }
        assert.deepEqual(ids, expected, `seed ${seed}, ${time}, ${JSON.stringify(sampling)}`);
      }
    }
  });
});
