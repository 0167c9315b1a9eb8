import { createHash } from 'node:crypto';
import { RandomStream } from '../statistics/random.ts';
import { canonicalJson, type EvalRecord, type EvalRecords } from '../task.ts';
import { recordJson } from './collect.ts';

export interface SampleOptions {
  readonly count: number;
  readonly seed: number;
  /** Whole groups are drawn, so that about `count` records come of it: where only a whole group counts (`aggregate: groups`). Default: records. */
  readonly byGroup?: boolean;
}

/**
 * Records that stand for all of them: from every category as many as its share, rounded so that they add up (largest remainders), and at least one of each where
 * that fits; drawn by the seed and the ids alone, so that the same draw comes out of files in another order, and a smaller one is a part of a larger one's
 * category. They keep their order. Closing them closes the records they were drawn from.
 * @throws RangeError for a count below 1
 */
export async function sampleRecords(
  records: EvalRecords,
  { count, seed, byGroup = false }: SampleOptions,
): Promise<EvalRecords> {
  if (!Number.isInteger(count) || count < 1)
    throw new RangeError(`sampleRecords: expected a whole number of at least 1, received ${count}`);
  const of = records.length;
  if (count >= of) return records;
  const units = new Map<string, Unit>();
  for (let index = 0; index < of; index++) {
    const { id, group, category } = await records.get(index);
    const name = byGroup ? group : id;
    const unit = units.get(name);
    if (unit !== undefined) unit.places.push(index);
    else
      units.set(name, {
        category: category ?? '',
        rank: new RandomStream(`sample ${seed} of ${name}`).uniform(),
        places: [index],
      });
  }
  const categories = new Map<string, Unit[]>();
  for (const unit of units.values()) {
    const own = categories.get(unit.category);
    if (own === undefined) categories.set(unit.category, [unit]);
    else own.push(unit);
  }
  const names = [...categories.keys()].sort();
  const shares = quotas(
    names.map((name) => categories.get(name)?.length ?? 0),
    Math.max(1, Math.round((count * units.size) / of)),
  );
  const drawn = names
    .flatMap((name, i) => (categories.get(name) ?? []).sort((a, b) => a.rank - b.rank).slice(0, shares[i]))
    .flatMap(({ places }) => places)
    .sort((a, b) => a - b);
  const hash = createHash('sha256');
  for (const index of drawn) hash.update(canonicalJson(recordJson(await records.get(index)))).update('\n');
  const digest = hash.digest('hex');
  return {
    length: drawn.length,
    digest,
    chosen: { how: 'sample', of, seed },
    get: async (place): Promise<EvalRecord> => {
      const index = drawn[place];
      if (index === undefined) throw new RangeError(`record ${place} does not exist; there are ${drawn.length}`);
      return await records.get(index);
    },
    close: () => records.close(),
  };
}

interface Unit {
  readonly category: string;
  readonly rank: number;
  readonly places: number[];
}

/** Parts of `count` in proportion to sizes, none larger than its size; one each first, where there are enough. */
function quotas(sizes: readonly number[], count: number): number[] {
  const total = sizes.reduce((sum, size) => sum + size, 0);
  const least = count >= sizes.length ? 1 : 0;
  const given = sizes.map((size) => Math.max(least, Math.floor((count * size) / total)));
  const remainder = (i: number): number => (count * (sizes[i] ?? 0)) / total - (given[i] ?? 0);
  // A category that is smaller than one share has got more than it: what it took is taken from those that lack least.
  for (let sum = given.reduce((a, b) => a + b, 0); sum !== count; ) {
    const step = sum < count ? 1 : -1;
    const at = sizes
      .map((_, i) => i)
      .filter((i) => (step > 0 ? (given[i] ?? 0) < (sizes[i] ?? 0) : (given[i] ?? 0) > least))
      .sort((a, b) => step * (remainder(b) - remainder(a)) || a - b)[0];
    if (at === undefined) break;
    given[at] = (given[at] ?? 0) + step;
    sum += step;
  }
  return given;
}
