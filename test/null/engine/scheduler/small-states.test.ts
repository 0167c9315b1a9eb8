import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import type { Capacity } from '../../../../gpu-backend/engine/scheduler/types.ts';
import { randomOf } from '../kv/random.ts';
import { type Asked, Simulation, soloTokens } from './simulation.ts';

/** A pool of three rows and 16 positions: one long request fills most of it. */
const tiny: Capacity = {
  maxRows: 3,
  kvTokens: 16,
  kvStepTokens: 2,
  classBounds: [4],
  idleChunkTokens: 4,
  busyChunkTokens: 2,
  imagesPerRun: 2,
  growthTokens: 1,
  agingMs: 12,
};

/** Every combination of the properties' values takes minutes; by default every value is there, in the kinds that press most. */
const isLong = process.env.MANTIS_LONG_TESTS === '1';

function kindsOf(): Omit<Asked, 'arriveAt'>[] {
  const kinds: Omit<Asked, 'arriveAt'>[] = [];
  const prompts = { short: [null, [1]], long: [null, [1, 2, 3, 4, 5, 6, 7]], image: ['a', [1, 2, 3]] } as const;
  const chosen = [
    'short 1 i',
    'short 6 b',
    'long 6 i',
    'long 6 b',
    'image 6 i',
    'image 6 b',
    'long 6 i x',
    'image 6 b x',
  ];
  for (const [name, [key, text]] of Object.entries(prompts))
    for (const newTokens of [1, 6])
      for (const priority of ['interactive', 'batch'] as const)
        for (const cancelAt of [null, 4])
          if (isLong || chosen.includes(`${name} ${newTokens} ${priority[0]}${cancelAt === null ? '' : ' x'}`))
            kinds.push({ key, text, newTokens, priority, cancelAt });
  return kinds;
}

/** Steps that all of a mix take one after the other, at one position a step. */
function soloSteps(all: readonly Asked[]): number {
  return all.reduce((sum, { key, text, newTokens }) => sum + (key === null ? 1 : 4) + text.length + newTokens, 0);
}

function runToEnd(
  all: readonly Asked[],
  capacity: Capacity,
  treeBytes: number,
  format: 'f32' | 'int8' = 'f32',
): Simulation {
  const simulation = new Simulation(capacity, { treeBytes, format });
  const byArrival = new Map<number, Asked>();
  // Preempted work is computed again, hence the factor; a batch request waits `agingMs` at most before it counts like others.
  const bound = 3 * soloSteps(all) + capacity.agingMs + Math.max(0, ...all.map(({ arriveAt }) => arriveAt));
  while (simulation.outcomes.length < all.length) {
    for (const asked of all) if (asked.arriveAt === simulation.step) byArrival.set(simulation.add(asked), asked);
    simulation.run();
    if (simulation.step > bound)
      assert.fail(
        `${simulation.outcomes.length} of ${all.length} have left after ${bound} steps: ${JSON.stringify(all)}`,
      );
  }
  for (const { arrival, why, tokens, leftAt } of simulation.outcomes) {
    const asked = byArrival.get(arrival)!;
    const solo = soloTokens(asked);
    assert.ok(why === 'done' || (why === 'cancelled' && asked.cancelAt !== null), why);
    assert.equal(tokens.join(), solo.slice(0, tokens.length).join(), 'the tokens of a request alone, in order');
    if (why === 'done') assert.equal(tokens.length, solo.length);
    else
      assert.ok(leftAt <= Math.max(asked.cancelAt!, asked.arriveAt) + 1, 'a cancelled request leaves in the next step');
  }
  assert.equal(simulation.live, 0);
  assert.equal(simulation.pool.rows, 0);
  assert.equal(simulation.pool.bytes, 0, 'no memory is left behind');
  simulation.tree.drop('scope');
  assert.deepEqual([simulation.tree.bytes, simulation.tree.nodes], [0, 0]);
  return simulation;
}

describe('scheduler, arenas and prefix tree together', () => {
  const kinds = kindsOf();
  const total = { mixes: 0, steps: 0, preemptions: 0, restored: 0 };

  it('every mix of up to four requests on a tiny pool ends, in order, within budget, and leaks nothing', () => {
    const run = (picked: readonly Omit<Asked, 'arriveAt'>[]): void => {
      // Two arrive together, later ones while those are running.
      const all = picked.map((kind, index) => ({ ...kind, arriveAt: [0, 0, 2, 5][index]! }));
      const simulation = runToEnd(all, tiny, total.mixes % 3 === 0 ? 0 : 400);
      total.mixes++;
      total.steps += simulation.step;
      total.preemptions += simulation.preemptions;
      total.restored += simulation.restoredTokens;
    };
    for (const a of kinds) {
      run([a]);
      for (const b of kinds) {
        run([a, b]);
        for (const c of kinds) {
          run([a, b, c]);
          for (const d of kinds) run([a, b, c, d]);
        }
      }
    }
    const n = kinds.length;
    assert.equal(total.mixes, n + n ** 2 + n ** 3 + n ** 4);
    console.log(
      `# ${total.mixes} mixes, ${total.steps} steps, ${total.preemptions} preemptions, ${total.restored} positions reused`,
    );
    assert.ok(total.preemptions > total.mixes / 10 && total.restored > total.mixes / 10, 'the mixes press the pool');
  });

  it('the same with int8 arenas and other limits, random mixes', () => {
    const next = randomOf(23);
    const pick = (below: number) => Math.floor(next() * below);
    for (let round = 0; round < 1000; round++) {
      const capacity: Capacity = {
        maxRows: 1 + pick(5),
        kvTokens: 14 + 2 * pick(20),
        kvStepTokens: 2 + 2 * pick(2),
        classBounds: [[], [4], [2, 6, 10]][pick(3)]!,
        idleChunkTokens: 1 + pick(8),
        busyChunkTokens: 1 + pick(3),
        imagesPerRun: 1 + pick(3),
        growthTokens: [0, 2, Number.POSITIVE_INFINITY][pick(3)]!,
        agingMs: pick(30),
      };
      const all = Array.from(
        { length: 1 + pick(10) },
        (): Asked => ({
          key: [null, 'a', 'b'][pick(3)]!,
          text: Array.from({ length: 1 + pick(5) }, () => pick(2)),
          newTokens: 1 + pick(5),
          priority: next() < 0.5 ? 'batch' : 'interactive',
          cancelAt: next() < 0.2 ? pick(30) : null,
          arriveAt: pick(20),
        }),
      );
      runToEnd(all, capacity, pick(3) * 500, round % 2 === 0 ? 'int8' : 'f32');
    }
  });
});
