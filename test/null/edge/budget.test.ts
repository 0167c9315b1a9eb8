import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import fc from 'fast-check';
import { ByteBudget } from '../../../edge/images/budget.ts';
import { DownloadError } from '../../../edge/images/download-error.ts';
import { LIMITS } from '../../../shared/contract/limits.ts';

const { maxHeldBytes, maxHeldBytesPerTenant } = LIMITS.images.remote;
const MIB = 2 ** 20;

/** Whether it was taken, or why not. */
function take(budget: ByteBudget, bytes: number): string {
  try {
    budget.take(bytes);
    return 'taken';
  } catch (error) {
    assert.ok(error instanceof DownloadError);
    return error.reason;
  }
}

describe('bytes of downloads', () => {
  it('are bounded for a request, exactly', () => {
    const budget = new ByteBudget('a', 100);
    assert.deepEqual(
      [take(budget, 60), take(budget, 41), take(budget, 40), take(budget, 1)],
      ['taken', 'too_large', 'taken', 'too_large'],
    );
    budget.release();
    assert.equal(take(new ByteBudget('a', -5), 1), 'too_large');
  });

  it('of one tenant leave room for others, and come back', () => {
    const greedy = Array.from({ length: 9 }, () => new ByteBudget('greedy', 15 * MIB));
    const taken = greedy.map((budget) => take(budget, 8 * MIB)).filter((one) => one === 'taken').length;
    assert.equal(taken, Math.floor(maxHeldBytesPerTenant / (8 * MIB)));
    const modest = new ByteBudget('modest', 15 * MIB);
    assert.equal(take(modest, 15 * MIB), 'taken');
    for (const budget of [...greedy, modest]) budget.release();
    assert.equal(take(greedy[0]!, 15 * MIB), 'taken');
    greedy[0]!.release();
  });

  it('never exceed a bound, and all of them come back, whatever the order', () => {
    const step = fc.record({
      request: fc.nat(19),
      bytes: fc.integer({ min: 1, max: 12 * MIB }),
      release: fc.boolean(),
    });
    fc.assert(
      fc.property(fc.array(step, { maxLength: 200 }), (steps) => {
        const requests = Array.from({ length: 20 }, (_, i) => ({
          budget: new ByteBudget(`t${i % 3}`, 15 * MIB),
          held: 0,
        }));
        for (const { request, bytes, release } of steps) {
          const one = requests[request]!;
          if (release) {
            one.budget.release();
            one.held = 0;
          } else if (take(one.budget, bytes) === 'taken') one.held += bytes;
          const all = requests.reduce((sum, { held }) => sum + held, 0);
          assert.ok(all <= maxHeldBytes && one.held <= 15 * MIB);
          const tenant = requests.filter((_, i) => i % 3 === request % 3).reduce((sum, { held }) => sum + held, 0);
          assert.ok(tenant <= maxHeldBytesPerTenant);
        }
        for (const { budget } of requests) budget.release();
        const fresh = new ByteBudget('t0', maxHeldBytesPerTenant);
        assert.equal(take(fresh, maxHeldBytesPerTenant), 'taken');
        fresh.release();
      }),
      { numRuns: 300, seed: 7 },
    );
  });
});
