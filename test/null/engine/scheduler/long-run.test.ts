import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import type { Capacity } from '../../../../gpu-backend/engine/scheduler/types.ts';
import { randomOf } from '../kv/random.ts';
import { type Asked, Simulation, soloTokens } from './simulation.ts';

describe('scheduler, arenas and prefix tree in the long run', () => {
  it('10^5 steps of random load: everything ends, memory is flat', () => {
    const next = randomOf(31);
    const pick = (below: number) => Math.floor(next() * below);
    const capacity: Capacity = {
      maxRows: 4,
      kvTokens: 48,
      kvStepTokens: 2,
      classBounds: [6, 12],
      idleChunkTokens: 4,
      busyChunkTokens: 2,
      imagesPerRun: 2,
      growthTokens: 2,
      agingMs: 200,
    };
    const simulation = new Simulation(capacity, { treeBytes: 2000 });
    let heapAfterWarmUp = 0;
    let longestWait = 0;
    const arrivedAt = new Map<number, Asked>();
    let ended = 0;
    while (simulation.step < 100_000 || simulation.live > 0) {
      if (simulation.step < 100_000 && simulation.live < 12 && next() < 0.25) {
        const asked: Asked = {
          key: [null, 'a', 'b', 'c'][pick(4)]!,
          text: Array.from({ length: 1 + pick(8) }, () => pick(2)),
          newTokens: 1 + pick(8),
          priority: next() < 0.3 ? 'batch' : 'interactive',
          cancelAt: next() < 0.1 ? simulation.step + pick(40) : null,
          arriveAt: simulation.step,
        };
        arrivedAt.set(simulation.add(asked), asked);
      }
      simulation.run();
      for (const { arrival, leftAt, why, tokens } of simulation.outcomes.splice(0)) {
        const asked = arrivedAt.get(arrival)!;
        arrivedAt.delete(arrival);
        longestWait = Math.max(longestWait, leftAt - asked.arriveAt);
        if (why === 'done') assert.equal(tokens.join(), soloTokens(asked).join());
        ended++;
      }
      if (simulation.step === 20_000) heapAfterWarmUp = process.memoryUsage().heapUsed;
    }
    console.log(`# ${ended} requests, ${simulation.preemptions} preemptions, longest stay ${longestWait} steps`);
    assert.ok(longestWait < 1500, `a request stayed ${longestWait} steps`);
    assert.deepEqual([simulation.pool.rows, simulation.pool.bytes], [0, 0]);
    assert.ok(simulation.preemptions > 100 && simulation.restoredTokens > 1000);
    const grown = process.memoryUsage().heapUsed - heapAfterWarmUp;
    assert.ok(grown < 40e6, `the heap grew by ${Math.round(grown / 1e6)} MB`);
  });
});
