import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { agreement, logSoftmax } from '../../bench/inference/agreement.ts';
import { CASES, mixedRequests } from '../../bench/inference/cases.ts';
import { inferenceChart } from '../../bench/inference/chart-svg.ts';
import type { CaseResult } from '../../bench/inference/measure.ts';
import { BENCH_CONFIG, promptIds } from '../../bench/inference/model.ts';
import { type ContenderReport, ratios, table } from '../../bench/inference/report.ts';

const result = (rate: number): CaseResult => ({ rate, low: rate, high: rate, cpuRate: 2 * rate, windows: 3, loud: 0 });
const contender = (group: ContenderReport['group'], rates: Readonly<Record<string, number>>): ContenderReport => ({
  group,
  cases: Object.fromEntries(Object.entries(rates).map(([id, rate]) => [id, result(rate)])),
  loadRssMb: 500,
  peakRssMb: 300,
  logprobError: 0.01,
});

const contenders = {
  'ours f32/f32': contender('ours', { 'decode-b1-128': 50, 'served-48': 7 }),
  'ours int8/int8': contender('ours', { 'decode-b1-128': 168, 'served-48': 8.1 }),
  'transformers.js gqa q8': contender('transformers.js', { 'decode-b1-128': 112, 'served-48': 2.4 }),
  'transformers.js gqa q4': contender('transformers.js', { 'decode-b1-128': 118, 'served-48': 2.1 }),
  'llama.cpp Q4_0': contender('llama.cpp Q4_0', { 'decode-b1-128': 271, 'served-48': 5.7 }),
  'PyTorch f32 static cache': contender('PyTorch f32', { 'decode-b1-128': 30 }),
};

describe('the inference benchmark', () => {
  it('compares our fastest format with each peer’s fastest, case by case, and says which bars are missed', () => {
    const found = ratios(contenders);
    assert.deepEqual(
      found.map(({ case: id, against, peer, ok }) => [id, against, peer, ok]),
      [
        ['decode-b1-128', 'transformers.js', 'transformers.js gqa q4', false],
        ['served-48', 'transformers.js', 'transformers.js gqa q8', false],
        ['decode-b1-128', 'llama.cpp Q4_0', 'llama.cpp Q4_0', false],
        ['served-48', 'llama.cpp Q4_0', 'llama.cpp Q4_0', false],
        ['decode-b1-128', 'PyTorch f32', 'PyTorch f32 static cache', true],
      ],
    );
    assert.equal(found[0]?.ratio, 1.424);
    assert.ok(found.every(({ ours }) => ours === 'ours int8/int8'));
    assert.match(table(contenders, found), /ratio\/bar PyTorch f32 +5\.60\/5 +-/);
  });

  it('draws every measured bar, and marks where we are behind', () => {
    const svg = inferenceChart({
      cpu: 'A & B <CPU>',
      threads: 1,
      versions: {},
      contenders,
      ratios: ratios(contenders),
    });
    assert.equal(svg.match(/<rect [^>]*class="(ours|p\d)"/g)?.length, 7);
    assert.match(svg, /class="behind"[^>]*>0\.62×/);
    assert.match(svg, /class="ahead"[^>]*>5\.60×/);
    assert.match(svg, /A &amp; B &lt;CPU&gt;/);
    for (const tag of ['text', 'tspan', 'svg', 'style', 'title'])
      assert.equal(
        svg.match(new RegExp(`<${tag}[ >]`, 'g'))?.length,
        svg.match(new RegExp(`</${tag}>`, 'g'))?.length,
        tag,
      );
  });

  it('makes the same prompts in every process, none of them alike', () => {
    const requests = mixedRequests(48);
    assert.deepEqual(requests, mixedRequests(48));
    assert.ok(
      requests.every(
        ({ ids, newTokens }) => ids.length >= 32 && ids.length <= 232 && newTokens >= 8 && newTokens <= 64,
      ),
    );
    assert.equal(new Set(requests.map(({ ids }) => ids[0])).size, 48);
    const ids = promptIds(3, 5000);
    assert.ok(ids.every((id) => id >= 2 && id < BENCH_CONFIG.text.vocab));
    assert.ok(new Set(ids).size > 4500, 'tokens hardly repeat');
    assert.equal(CASES.length, new Set(CASES.map(({ id }) => id)).size);
  });

  it('finds two models equal up to a constant in their logits, and tells a difference in parts of a deviation', () => {
    const logits = Float32Array.from({ length: 4000 }, (_, i) => Math.sin(i * 1.7) * 2);
    const reference = logSoftmax(logits);
    const same = agreement(
      logits.map((x) => x + 5),
      reference,
    );
    assert.ok(same.error < 1e-5 && same.sameArgmax && same.count === 4000);
    const few = reference.map((x, i) => (i < 20 ? x : Number.NaN));
    few[reference.indexOf(Math.max(...reference))] = Math.max(...reference);
    assert.ok(agreement(few, reference).error < 1e-5);
    const noisy = logits.map((x, i) => x + (i % 2 === 0 ? 0.1 : -0.1));
    assert.ok(Math.abs(agreement(noisy, reference).error - 0.1 / Math.SQRT2) < 0.01);
  });
});
