import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import fc from 'fast-check';
import { StopMatcher } from '../../../gpu-backend/engine/stop.ts';

function run(stops: string[], pieces: string[]): { sent: string; stopped: boolean; parts: string[] } {
  const matcher = new StopMatcher(stops);
  const parts = pieces.map((piece) => matcher.push(piece));
  if (!matcher.stopped) parts.push(matcher.flush());
  return { sent: parts.join(''), stopped: matcher.stopped, parts };
}

describe('StopMatcher', () => {
  const rows: [string, string[], string[], string, boolean][] = [
    ['no stops: everything at once', [], ['ab', 'c'], 'abc', false],
    ['inside one piece', ['END'], ['abENDcd'], 'ab', true],
    ['across pieces', ['END'], ['abE', 'N', 'Dcd'], 'ab', true],
    ['a false start is released', ['END'], ['abEN', 'xx'], 'abENxx', false],
    ['a false start at the end is released by flush', ['END'], ['abEN'], 'abEN', false],
    ['the earliest of several wins', ['zz', 'b'], ['abzz'], 'a', true],
    ['a start inside a start', ['aab'], ['aa', 'ab'], 'a', true],
  ];
  for (const [name, stops, pieces, sent, stopped] of rows)
    it(name, () => assert.deepEqual({ ...run(stops, pieces), parts: [] }, { sent, stopped, parts: [] }));

  it('refuses the empty string', () => assert.throws(() => new StopMatcher(['a', '']), /stop\[1\]/));

  it('equals a search over the whole text, however it is cut', () => {
    const letters = fc.string({ unit: fc.constantFrom('a', 'b'), maxLength: 12 });
    const stop = fc.string({ unit: fc.constantFrom('a', 'b'), minLength: 1, maxLength: 4 });
    fc.assert(
      fc.property(fc.array(letters, { maxLength: 6 }), fc.array(stop, { maxLength: 3 }), (pieces, stops) => {
        const whole = pieces.join('');
        // The matcher stops at the first piece that completes a stop string; inside it, at the earliest.
        let seen = '';
        let expected: string | null = null;
        for (const piece of pieces) {
          seen += piece;
          const cuts = stops.map((one) => seen.indexOf(one)).filter((at) => at >= 0);
          if (cuts.length > 0) {
            expected = seen.slice(0, Math.min(...cuts));
            break;
          }
        }
        const { sent, stopped } = run(stops, pieces);
        assert.equal(stopped, expected !== null);
        assert.equal(sent, expected ?? whole);
      }),
      { numRuns: 500 },
    );
  });
});
