import assert from 'node:assert/strict';
import { it } from 'node:test';
import { realStage } from '../../fixtures/simulation/sweep.ts';
import { zombieRounds } from '../../fixtures/simulation/zombies.ts';

/** The benchmark `simulation --zombies` makes 500. */
const ROUNDS = process.env.MANTIS_LONG_TESTS === '1' ? 500 : 60;

it('no write of a worker that lost its lease is seen anywhere', async () => {
  const { rounds, refused, grants, violations } = await zombieRounds(await realStage(), ROUNDS);
  console.log(`# ${rounds} rounds, ${grants} grants: ${refused} stale writes refused`);
  assert.deepEqual(violations, []);
  // Each comes back with at least the write that it was about to make.
  assert.ok(refused >= rounds / 2, `expected stale writes to be tried, ${refused} were refused`);
});
