import assert from 'node:assert/strict';
import { test } from 'node:test';
import { clusterBootstrap } from '../../../../gpu-backend/eval/statistics/bootstrap.ts';
import { clusteredMean, intraclassCorrelation } from '../../../../gpu-backend/eval/statistics/clustered.ts';
import { compareRuns, type ScoredPair } from '../../../../gpu-backend/eval/statistics/compare.ts';
import type { Observation } from '../../../../gpu-backend/eval/statistics/design.ts';
import {
  incompleteBeta,
  logGamma,
  normalQuantile,
  tQuantile,
} from '../../../../gpu-backend/eval/statistics/distributions.ts';
import { holm } from '../../../../gpu-backend/eval/statistics/holm.ts';
import { errorOfDifference, leastClusters, powerOf } from '../../../../gpu-backend/eval/statistics/power.ts';
import { RandomStream } from '../../../../gpu-backend/eval/statistics/random.ts';
import { wilson } from '../../../../gpu-backend/eval/statistics/wilson.ts';

const near = (got: number | null, want: number, by: number, what = '') =>
  assert.ok(got !== null && Math.abs(got - want) <= by, `${what} ${got}, expected ${want} ± ${by}`);

test('distributions as SciPy 1.17 has them', () => {
  for (const [p, z] of [
    [0.5, 0],
    [0.8413447460685429, 1],
    [0.975, 1.959963984540054],
    [0.995, 2.5758293035489004],
    [0.025, -1.959963984540054],
    [1e-9, -5.997807015008182],
  ] as const)
    near(normalQuantile(p), z, 2e-6, `normal ${p}`);
  assert.throws(() => normalQuantile(1), RangeError);
  for (const [p, df, t] of [
    [0.975, 1, 12.706204736174694],
    [0.975, 2.5, 3.5746548420036817],
    [0.975, 8, 2.306004135204166],
    [0.995, 30, 2.7499956535672254],
    [0.9, 1000, 1.2823987214609247],
    [0.025, 7.3, -2.3450667365477034],
  ] as const)
    near(tQuantile(p, df), t, 1e-9, `t ${p}, ${df}`);
  for (const [x, a, b, value] of [
    [0.3, 2.5, 0.5, 0.018927124071945658],
    [0.9, 10, 0.5, 0.15164090963470994],
    [0.01, 0.5, 0.5, 0.06376856085851985],
    [0.5, 100, 120, 0.9117960627949818],
  ] as const)
    near(incompleteBeta(x, a, b), value, 1e-12, `beta ${x}`);
  for (const [x, value] of [
    [0.1, 2.252712651734206],
    [1, 0],
    [3.7, 1.428072326665388],
    [50, 144.56574394634487],
  ] as const)
    near(logGamma(x), value, 1e-11, `gamma ${x}`);
});

const values = [1, 0, 1, 1, 1, 0, 0, 1, 1, 1, 0, 1, 1, 1, 1, 0, 0, 0, 1, 1, 0, 1, 1, 0];
const clusters = [0, 0, 0, 1, 1, 1, 1, 2, 2, 3, 3, 3, 3, 3, 4, 4, 5, 6, 6, 6, 7, 7, 8, 8];
const sample: Observation[] = values.map((value, i) => ({
  value,
  cluster: `c${clusters[i]}`,
  category: ['a', 'b', 'c'][Math.min(2, Math.floor((clusters[i] as number) / 3))] as string,
}));

test('means and their errors as statsmodels 0.15 has them', () => {
  // OLS(values, 1).fit(cov_type='cluster'), and the same within each category.
  const all = clusteredMean(sample);
  near(all.mean, 0.625, 1e-15);
  near(all.standardError, 0.0653640645729747, 1e-13);
  assert.equal(all.clusters, 9);
  const categories = clusteredMean(sample, { by: 'categories' });
  near(categories.mean, 0.6210317460317459, 1e-14);
  near(categories.standardError, 0.07361596794292567, 1e-13);
  near(intraclassCorrelation(sample), -0.2985314450132656, 1e-13, 'ANOVA');
});

test('without clusters the interval is Wilson’s with a t quantile', () => {
  const flat = Array.from({ length: 400 }, (_, i) => ({ cluster: `${i}`, category: null, value: Number(i < 100) }));
  const { interval, effectiveItems, degreesOfFreedom } = clusteredMean(flat);
  near(effectiveItems, 399, 1e-9);
  near(degreesOfFreedom, 399, 1e-9);
  const exact = wilson(0.25, 400, 1.96);
  near(interval[0], exact[0], 1e-3);
  near(interval[1], exact[1], 1e-3);
  // proportion_confint(8, 10, method='wilson') and (0, 12)
  near(wilson(0.8, 10, 1.959963984540054)[0], 0.49016247153664183, 1e-12);
  near(wilson(0, 12, 1.959963984540054)[1], 0.24249400665524096, 1e-12);
});

test('copies of the same answers add nothing', () => {
  const once = clusteredMean(sample.map((one, i) => ({ ...one, cluster: `${i}` })));
  const sixTimes = clusteredMean(
    sample.flatMap((one, i) => Array.from({ length: 6 }, () => ({ ...one, cluster: `${i}` }))),
  );
  near(sixTimes.standardError, once.standardError as number, 1e-14);
  near(sixTimes.interval[0], once.interval[0], 1e-12);
});

test('what cannot be known is said', () => {
  const alone = clusteredMean([
    { cluster: 'a', category: null, value: 1 },
    { cluster: 'a', category: null, value: 0 },
  ]);
  assert.deepEqual([alone.standardError, alone.interval, alone.method], [null, [0, 1], 'none']);
  const allRight = clusteredMean(
    Array.from({ length: 60 }, (_, i) => ({ cluster: `${i % 20}`, category: null, value: 1 })),
  );
  assert.equal(allRight.standardError, 0);
  assert.ok(
    allRight.interval[0] > 0.75 && allRight.interval[0] < 0.86 && allRight.interval[1] === 1,
    `${allRight.interval}`,
  );
  assert.throws(() => clusteredMean([]), /at least one/);
  assert.throws(
    () =>
      clusteredMean([
        { cluster: 'a', category: null, value: 1.5 },
        { cluster: 'b', category: null, value: 0 },
      ]),
    /1\.5/,
  );
  assert.equal(intraclassCorrelation(sample.map((one, i) => ({ ...one, cluster: `${i}` }))), null);
});

/** Beta(a, b) for whole a, b: the a-th smallest of a + b − 1 uniform numbers. */
function beta(random: RandomStream, a: number, b: number): number {
  return Array.from({ length: a + b - 1 }, () => random.uniform()).sort((x, y) => x - y)[a - 1] as number;
}

test('intervals cover the truth about as often as they say', () => {
  const random = new RandomStream('coverage');
  for (const { groups, a, b, sizes, by } of [
    { groups: 12, a: 3, b: 2, sizes: [6], by: 'records' },
    { groups: 40, a: 9, b: 1, sizes: [1, 2, 9], by: 'records' },
    { groups: 30, a: 2, b: 2, sizes: [1], by: 'records' },
    { groups: 30, a: 3, b: 1, sizes: [3], by: 'categories' },
    { groups: 60, a: 19, b: 1, sizes: [4], by: 'records' },
  ] as const) {
    const rounds = 1_200;
    let covered = 0;
    for (let round = 0; round < rounds; round++) {
      const observations: Observation[] = [];
      for (let g = 0; g < groups; g++) {
        const share = beta(random, a, b);
        const size = sizes[g % sizes.length] as number;
        // Categories of different difficulty, each cluster in one of three; the truth is then their mean.
        const category = `${g % 3}`;
        const wanted = by === 'categories' ? share * ([1, 0.8, 0.6][g % 3] as number) : share;
        for (let i = 0; i < size; i++)
          observations.push({ cluster: `${g}`, category, value: Number(random.uniform() < wanted) });
      }
      const truth = (a / (a + b)) * (by === 'categories' ? 0.8 : 1);
      const [low, high] = clusteredMean(observations, { by }).interval;
      if (low <= truth && truth <= high) covered++;
    }
    const share = covered / rounds;
    assert.ok(share > 0.925 && share < 0.985, `${groups} groups of ${sizes}, ${by}: ${share}`);
  }
});

test('the bootstrap agrees where samples are large', () => {
  const random = new RandomStream('bootstrap');
  const observations = Array.from({ length: 240 }, () => beta(random, 2, 1)).flatMap((share, g) =>
    Array.from({ length: 3 }, () => ({
      cluster: `${g}`,
      category: `${g % 2}`,
      value: Number(random.uniform() < share),
    })),
  );
  for (const by of ['records', 'categories'] as const) {
    const { interval } = clusteredMean(observations, { by });
    const drawn = clusterBootstrap(observations, { by });
    near(drawn[0], interval[0], 0.01, by);
    near(drawn[1], interval[1], 0.01, by);
    assert.deepEqual(clusterBootstrap(observations, { by }), drawn, 'the same again');
  }
});

function pairsOf(random: RandomStream, groups: number, size: number, gain: number): ScoredPair[] {
  return Array.from({ length: groups }, (_, g) => ({ g, share: 0.2 + 0.6 * beta(random, 1, 1) })).flatMap(
    ({ g, share }) =>
      Array.from({ length: size }, () => {
        const luck = random.uniform();
        return {
          cluster: `${g}`,
          category: null,
          first: Number(luck < share),
          second: Number((random.uniform() < 0.5 ? luck : random.uniform()) < share + gain),
        };
      }),
  );
}

test('two models that are equally good: p-values are uniform, intervals hold 0', () => {
  const random = new RandomStream('null');
  const rounds = 400;
  let [rejected, covered] = [0, 0];
  for (let round = 0; round < rounds; round++) {
    const { pValue, interval, test: name } = compareRuns(pairsOf(random, 25, 3, 0), { draws: 199, seed: `${round}` });
    assert.notEqual(name, 'exact McNemar');
    if (pValue <= 0.05) rejected++;
    if (interval[0] <= 0 && interval[1] >= 0) covered++;
  }
  assert.ok(rejected / rounds > 0.02 && rejected / rounds < 0.08, `rejected ${rejected / rounds}`);
  assert.ok(covered / rounds > 0.925 && covered / rounds < 0.985, `covered ${covered / rounds}`);
});

test('a comparison says the same the other way round, and knows its clusters', () => {
  const pairs = pairsOf(new RandomStream('turn'), 60, 4, 0.1);
  const forth = compareRuns(pairs);
  const back = compareRuns(pairs.map((pair) => ({ ...pair, first: pair.second, second: pair.first })));
  near(forth.difference, -back.difference, 1e-15);
  near(forth.interval[0], -back.interval[1], 1e-12);
  near(forth.pValue, back.pValue, 1e-12);
  assert.ok((forth.correlation as number) > 0.2);
  // Each answer six times: as wide as before, where a test of single answers would be sure.
  const copied = compareRuns(pairs.flatMap((pair) => Array.from({ length: 6 }, () => pair)));
  near(copied.standardError, forth.standardError as number, 1e-13);
  near(copied.pValue, forth.pValue, 0.02);
});

test('exact tests', () => {
  const single = (first: number, second: number, i: number) => ({ cluster: `${i}`, category: null, first, second });
  const table = [
    ...Array.from({ length: 30 }, () => [1, 1] as const),
    ...Array.from({ length: 12 }, () => [1, 0] as const),
    ...Array.from({ length: 4 }, () => [0, 1] as const),
    ...Array.from({ length: 14 }, () => [0, 0] as const),
  ].map(([first, second], i) => single(first, second, i));
  const compared = compareRuns(table);
  assert.equal(compared.test, 'exact McNemar');
  near(compared.pValue, 0.076812744140625, 1e-13, 'statsmodels');
  assert.deepEqual(compared.counts, { both: 30, onlyFirst: 12, onlySecond: 4, neither: 14 });
  // scipy.stats.permutation_test(permutation_type='samples') of eight differences
  const eight = compareRuns(
    [0.5, -0.25, 1, 0.75, -0.1, 0.3, 0.2, 0.9].map((d, i) => single(Math.max(-d, 0), Math.max(d, 0), i)),
  );
  assert.equal(eight.test, 'exact sign-flip');
  near(eight.pValue, 0.0546875, 1e-15, 'SciPy');
  const same = compareRuns([1, 1, 0, 1].map((score, i) => single(score, score, i)));
  assert.equal(same.pValue, 1);
  assert.ok(same.interval[0] < 0 && same.interval[1] > 0);
});

test('Holm as statsmodels has it', () => {
  for (const [i, p] of holm([0.01, 0.04, 0.03, 0.005, 0.5]).entries())
    near(p, [0.04, 0.09, 0.09, 0.025, 0.5][i] as number, 1e-15);
  assert.deepEqual(holm([]), []);
});

test('with as many questions as power asks for, four runs in five see the difference', () => {
  const pilot = compareRuns(pairsOf(new RandomStream('pilot'), 400, 3, 0.05));
  const of = {
    standardError: pilot.standardError,
    items: 1_200,
    clusters: 400,
    degreesOfFreedom: 399,
    isCounted: false,
  };
  const power = powerOf(of, { points: [5] });
  const groups = power?.needed[0]?.clusters ?? 0;
  assert.equal(power?.needed[0]?.items, 3 * groups);
  const random = new RandomStream('power');
  const rounds = 250;
  let seen = 0;
  for (let round = 0; round < rounds; round++) {
    const { interval } = compareRuns(pairsOf(random, groups, 3, 0.05), { draws: 9 });
    if (interval[0] > 0) seen++;
  }
  assert.ok(seen / rounds > 0.72 && seen / rounds < 0.88, `${groups} groups: seen ${seen / rounds}`);
  near(errorOfDifference(0.01, 0), 0.01 * Math.SQRT2, 1e-15);
  near(errorOfDifference(0.01, 0.5), 0.01, 1e-15);
  const known = { standardError: 0.01, items: 100, clusters: 100, degreesOfFreedom: 99, isCounted: false };
  near(powerOf(known)?.smallestDifference ?? null, 0.01 * (1.984217 + 0.845271), 1e-6);
});

test('no power is claimed where nothing is known, no test can tell, or counting takes more', () => {
  const of = { standardError: 0.1, items: 60, clusters: 30, degreesOfFreedom: 29, isCounted: false };
  for (const nothing of [{ standardError: 0 }, { standardError: 1e-17 }, { standardError: null }, { clusters: 5 }])
    assert.equal(powerOf({ ...of, ...nothing }), null);
  assert.deepEqual([leastClusters(0.95), leastClusters(0.9), leastClusters(0.99)], [6, 5, 8]);
  assert.equal(2 * 0.5 ** leastClusters(0.95) <= 0.05 && 2 * 0.5 ** (leastClusters(0.95) - 1) > 0.05, true);
  const few = powerOf({ ...of, standardError: 0.4, clusters: 6, degreesOfFreedom: 5 });
  assert.equal(few?.smallestDifference, null, '(2.57 + 0.92) * 0.4 is more than there is');
  assert.ok((few?.needed[0]?.clusters ?? 0) > 1_000);
  // A single answer of 200 that differs has a small error; but six must be likely to differ before McNemar's test can tell.
  const counted = { standardError: 0.005, items: 200, clusters: 200, degreesOfFreedom: 199, isCounted: true };
  // P(at least 6 of 200 differ) = 0.8 at 3.924 %; of 790 at 1 %, by sums of the binomial.
  near(powerOf(counted)?.smallestDifference ?? null, 0.0392427777, 1e-9);
  assert.equal(powerOf(counted)?.needed[0]?.clusters, 790);
  // Student's t asks for more than the normal quantiles where groups are few, and for the same where they are many.
  const needed = (clusters: number) =>
    (powerOf({ ...of, clusters, degreesOfFreedom: clusters - 1 })?.smallestDifference ?? 0) / 0.1;
  assert.ok(needed(8) > 3.2 && needed(8) < 3.3 && needed(5_000) < 2.803, `${needed(8)} ${needed(5_000)}`);
});
