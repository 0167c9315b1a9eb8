import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import fc from 'fast-check';
import { Window } from '../../../edge/batches/window.ts';
import { contentRange } from '../../../edge/files/range.ts';
import { ImageMemory } from '../../../edge/images/memory.ts';
import { LIMITS } from '../../../shared/contract/limits.ts';

const B = LIMITS.batches;

describe('lines under way', () => {
  it('settle at what backends take, whatever that is, whether these refuse or let wait', () => {
    for (const places of [1, 3, 16, 40, 200])
      for (const mayWait of [true, false]) {
        const window = new Window();
        const serviceMs = 400;
        let nowMs = 0;
        let busy = 0;
        let waiting = 0;
        const line: number[] = [];
        let running: { endMs: number; waitedMs: number }[] = [];
        const seconds = 400;
        for (; nowMs < seconds * 1_000; nowMs += 20) {
          for (const { waitedMs } of running.filter(({ endMs }) => endMs <= nowMs)) window.answered(waitedMs);
          running = running.filter(({ endMs }) => endMs > nowMs);
          while (window.admits(running.length + line.length, nowMs)) {
            if (!mayWait && running.length >= places) {
              window.refused(running.length, 100, nowMs);
              break;
            }
            line.push(nowMs);
            while (line.length > 0 && running.length < places) {
              const sinceMs = line.shift() ?? 0;
              running.push({ endMs: nowMs + serviceMs, waitedMs: nowMs - sinceMs });
            }
          }
          while (line.length > 0 && running.length < places) {
            const sinceMs = line.shift() ?? 0;
            running.push({ endMs: nowMs + serviceMs, waitedMs: nowMs - sinceMs });
          }
          if (nowMs < (seconds * 1_000) / 2) continue;
          busy += running.length;
          waiting += line.length;
        }
        const samples = (seconds * 1_000) / 2 / 20;
        const most = Math.min(places, B.maxLinesInFlight);
        assert.ok(busy / samples >= 0.93 * most, `${places} places: ${busy / samples} lines under way`);
        // Nobody is served the sooner for a long line.
        assert.ok(waiting / samples <= 3 * places + 2, `${places} places: ${waiting / samples} lines wait`);
      }
  });

  it('are at least one, at most the limit, and wait where nobody takes any', () => {
    fc.assert(
      fc.property(fc.array(fc.tuple(fc.boolean(), fc.nat(60), fc.option(fc.nat(100_000)))), (acts) => {
        const window = new Window();
        let nowMs = 0;
        for (const [isAnswer, others, retryAfterMs] of acts) {
          nowMs += 1_000;
          if (isAnswer) window.answered(retryAfterMs ?? 0);
          else {
            const atMs = window.refused(others, retryAfterMs, nowMs);
            assert.ok(atMs >= nowMs + B.minPauseMs && atMs <= nowMs + B.maxPauseMs);
            if (others === 0) assert.equal(window.admits(0, nowMs), false);
          }
          assert.ok(window.size >= 1 && window.size <= B.maxLinesInFlight);
          assert.ok(window.admits(0, nowMs + B.maxPauseMs));
        }
      }),
    );
  });
});

describe('pictures that lines share', () => {
  it('stay within their bytes, the latest asked for longest', () => {
    const memory = new ImageMemory(1_000);
    const image = (bytes: number) => ({ bytes: new Uint8Array(bytes), declared: null, sha256: 'x', isRemote: false });
    memory.set('a', image(400));
    memory.set('b', image(400));
    assert.ok(memory.get('a') !== undefined);
    memory.set('c', image(400));
    assert.deepEqual(
      [memory.get('a')?.bytes.length, memory.get('b'), memory.get('c')?.bytes.length],
      [400, undefined, 400],
    );
    memory.set('d', image(900));
    assert.equal(memory.get('d'), undefined);
  });
});

describe('ranges', () => {
  it('lie within the file, or are refused, or ask for everything', () => {
    fc.assert(
      fc.property(
        fc.integer({ min: 1, max: 50 }),
        fc.option(fc.nat(60)),
        fc.option(fc.nat(60)),
        (size, first, last) => {
          const range = `bytes=${first ?? ''}-${last ?? ''}`;
          const whole = Uint8Array.from({ length: size }, (_, i) => i);
          let expected: number[] | null | 'refused';
          if ((first === null && last === null) || (first !== null && last !== null && last < first)) expected = null;
          else if (first === null) expected = last === 0 ? 'refused' : [...whole.slice(-(last ?? 0))];
          else expected = first >= size ? 'refused' : [...whole.slice(first, last === null ? size : last + 1)];
          let got: number[] | null | 'refused';
          try {
            const found = contentRange(new Headers({ range }), size, '"e"');
            got = found === null ? null : [...whole.slice(found.offset, found.offset + found.length)];
          } catch {
            got = 'refused';
          }
          assert.deepEqual(got, expected, `${range} of ${size}`);
        },
      ),
    );
  });
});
