import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { Throttle } from '../../../edge/fleet/throttle.ts';
import { LIMITS } from '../../../shared/contract/limits.ts';
import { seeded } from './fleet-simulation.ts';

const F = LIMITS.fleet;

/** Requests at a steady rate of which the fleet takes `room` a second. @returns how many went through, and were taken, in each second */
function run(throttle: Throttle, fromS: number, seconds: number, perSecond: number, room: number) {
  const random = seeded(fromS + 1);
  return Array.from({ length: seconds }, (_, s) => {
    let through = 0;
    let taken = 0;
    for (let i = 0; i < perSecond; i++) {
      const nowMs = (fromS + s + i / perSecond) * 1_000;
      if (throttle.refuses(nowMs, random()) !== null) continue;
      through++;
      if (taken < ((i + 1) / perSecond) * room) {
        taken++;
        throttle.accepted(nowMs);
      } else throttle.refused(2_000);
    }
    return { through, taken };
  });
}

describe('throttle', () => {
  it('lets everything through that finds room', () => {
    for (const { through } of run(new Throttle(), 0, 20, 200, 1_000)) assert.equal(through, 200);
  });

  it('lets little more through than finds room, and never starves the fleet', () => {
    const seconds = run(new Throttle(), 0, 30, 1_600, 160).slice(10);
    for (const { through, taken } of seconds) {
      assert.ok(through < 2.6 * 160, `${through} of 1600 asked the fleet`);
      assert.ok(taken >= 0.95 * 160, `${taken} of 160 were answered`);
    }
  });

  it('is open again soon after the load has gone', () => {
    const throttle = new Throttle();
    run(throttle, 0, 30, 1_600, 160);
    const after = run(throttle, 30, 20, 112, 160);
    assert.equal(
      after.slice(10).reduce((sum, { through }) => sum + through, 0),
      10 * 112,
    );
  });

  it('does not take requests for want of room that never asked for any', () => {
    const throttle = new Throttle();
    for (let i = 0; i < 1_000; i++) {
      assert.equal(throttle.refuses(i, 0), null);
      throttle.withdrew(i);
    }
  });

  it('lets a burst in whose decisions are still to come', () => {
    const throttle = new Throttle();
    for (let i = 1; i < F.throttleMinRequests; i++) assert.equal(throttle.refuses(0, 0), null);
  });

  it('says when to come back as the fleet has said', () => {
    const throttle = new Throttle();
    throttle.refused(7_000);
    for (let i = 0; i < F.throttleMinRequests; i++) throttle.refuses(1, 0.999);
    assert.equal(throttle.refuses(1, 0), 7_000);
  });
});
