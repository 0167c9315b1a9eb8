import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import fc from 'fast-check';
import { Window } from '../../../edge/batches/window.ts';
import { contentRange } from '../../../edge/files/range.ts';
import { ImageMemory } from '../../../edge/images/memory.ts';
import { LIMITS } from '../../../shared/contract/limits.ts';

const B = LIMITS.batches;

describe('lines under way', () => {
  it('settle at what backends take, whatever that is', () => {
    for (const places of [1, 3, 16, 40, 200]) {
      const window = new Window();
      let inFlight = 0;
      let nowMs = 0;
      let busy = 0;
      const rounds = 2_000;
      for (let round = 0; round < rounds; round++) {
        nowMs += 10;
        while (window.admits(inFlight, nowMs)) {
          if (inFlight >= places) {
            window.refused(inFlight, 100, nowMs);
            break;
          }
          inFlight++;
        }
        if (round > rounds / 2) busy += inFlight;
        // One line a round is answered.
        if (inFlight > 0) {
          inFlight--;
          window.answered();
        }
      }
      const most = Math.min(places, B.maxLinesInFlight);
      const mean = busy / (rounds / 2 - 1);
      assert.ok(mean >= 0.9 * most && mean <= most, `${places} places: ${mean} lines under way`);
    }
  });

  it('are at least one, at most the limit, and wait where nobody takes any', () => {
    fc.assert(
      fc.property(fc.array(fc.tuple(fc.boolean(), fc.nat(60), fc.option(fc.nat(100_000)))), (acts) => {
        const window = new Window();
        let nowMs = 0;
        for (const [isAnswer, others, retryAfterMs] of acts) {
          nowMs += 1_000;
          if (isAnswer) window.answered();
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
