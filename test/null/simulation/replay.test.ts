import assert from 'node:assert/strict';
import { before, describe, it } from 'node:test';
import { loadEdge } from '../../fixtures/simulation/edge-code.ts';
import { type Stage, simulate } from '../../fixtures/simulation/simulate.ts';
import { realStage } from '../../fixtures/simulation/sweep.ts';

describe('a simulated run', () => {
  let stage: Stage;
  before(async () => {
    stage = await realStage();
  });

  it('is the same for the same seed, whatever ran in between', async () => {
    const seeds = Array.from({ length: 20 }, (_none, i) => 500 + i);
    const first: string[] = [];
    for (const seed of seeds) first.push((await simulate(stage, seed)).hash);
    const second: string[] = [];
    for (const seed of [...seeds].reverse()) second.unshift((await simulate(stage, seed)).hash);
    assert.deepEqual(second, first);
    assert.equal(new Set(first).size, seeds.length);
  });

  it('is worth something: things happen in it, and go wrong', async () => {
    const sums = { grants: 0, crashes: 0, deliveries: 0, commits: 0 };
    for (let seed = 700; seed < 720; seed++) {
      const { stats } = await simulate(stage, seed);
      for (const name of Object.keys(sums) as (keyof typeof sums)[]) sums[name] += stats[name];
    }
    assert.ok(
      sums.grants > 30 && sums.crashes > 10 && sums.deliveries > 100 && sums.commits > 1_000,
      JSON.stringify(sums),
    );
  });

  it('refuses a planted bug whose text is not there, or not once', async () => {
    const file = 'edge/jobs/state.ts';
    await assert.rejects(
      loadEdge([{ file, find: 'no such text', replace: '' }]),
      /expected "no such text" once, found it 0/,
    );
    await assert.rejects(loadEdge([{ file, find: 'return', replace: '' }]), /once, found it \d\d/);
    await assert.rejects(loadEdge([{ file: 'edge/no.ts', find: 'x', replace: '' }]), /does not load this file/);
  });
});
