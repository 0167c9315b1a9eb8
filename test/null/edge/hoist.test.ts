import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import fc from 'fast-check';
import { hoist, restore } from '../../../edge/middleware/hoist.ts';

const MARK = 'mark-of-the-test:';

/** What the door makes of a body. */
function parsed(text: string): unknown {
  const hoisted = hoist(text, MARK);
  if (hoisted === null) return JSON.parse(text);
  return restore(JSON.parse(hoisted.skeleton), hoisted.strings);
}

const long = `data:image/png;base64,${'QUJD'.repeat(2_000)}`;

describe('hoist', () => {
  it('gives the value that the parser gives, whatever is around the long strings', () => {
    const leaf = fc.oneof(
      fc.string(),
      fc.constantFrom(
        long,
        `${long}x`,
        `${long}"`,
        `${long}\\`,
        `\\"${long}`,
        'data:',
        `${long}\n`,
        '\\',
        '"',
        `é${long}`,
      ),
      fc.integer(),
      fc.constant(null),
      fc.boolean(),
    );
    const { tree } = fc.letrec((tie) => ({
      tree: fc.oneof(
        { maxDepth: 5 },
        leaf,
        fc.array(tie('tree')),
        fc.dictionary(fc.oneof(fc.string(), fc.constant(long)), tie('tree')),
      ),
    }));
    fc.assert(
      fc.property(tree, fc.constantFrom(undefined, 1), (value, indent) => {
        const text = JSON.stringify(value, null, indent);
        assert.deepEqual(parsed(text), JSON.parse(text));
      }),
      { numRuns: 500 },
    );
  });

  it('refuses what the parser refuses', () => {
    const good = JSON.stringify({ messages: [{ url: long, text: 'a "b" \\ c' }, long] });
    fc.assert(
      fc.property(fc.nat(good.length - 1), fc.constantFrom('', '"', '\\', ',', '{', ']', 'x'), (at, by) => {
        const text = good.slice(0, at) + by + good.slice(at + 1);
        let expected: unknown;
        try {
          expected = JSON.parse(text);
        } catch {
          assert.throws(() => parsed(text), SyntaxError, text.slice(Math.max(0, at - 20), at + 20));
          return;
        }
        assert.deepEqual(parsed(text), expected);
      }),
      { numRuns: 1_000 },
    );
  });

  it('takes nothing for a name that a client wrote', () => {
    const text = JSON.stringify([long, `${MARK}1`, 'mark']);
    assert.deepEqual(parsed(text), [long, `${MARK}1`, 'mark']);
  });

  it('leaves short bodies, short strings and escaped ones alone', () => {
    assert.equal(hoist('{"a":"data:x"}', MARK), null);
    assert.equal(hoist(JSON.stringify('x'.repeat(10_000)), MARK), null);
    assert.equal(hoist(JSON.stringify(`${long}\t`), MARK), null);
  });

  it('does not look through bodies of very many strings', () => {
    assert.equal(hoist(JSON.stringify([...Array<string>(20_000).fill('x'), long]), MARK), null);
  });
});
