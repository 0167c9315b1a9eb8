import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import * as g from '../../../gpu-backend/graph/builder.ts';
import { symbol } from '../../../gpu-backend/graph/dim.ts';
import { Graph } from '../../../gpu-backend/graph/graph.ts';
import { f32, Session } from '../../../gpu-backend/runtime/session.ts';

const COLUMNS = 93;
const isHere = process.platform === 'linux' && process.arch === 'x64';
const skip = isHere ? false : `${process.platform} for ${process.arch} keeps such numbers`;

/** e^-87.6 = 9e-39 */
const TOO_SMALL = -87.6;

/** Row r sees the columns up to r alike, as under a causal mask; the others have a share that is too small. */
function scoresOf(rows: number): Float32Array {
  const isSeen = (i: number) => i % COLUMNS <= Math.floor(i / COLUMNS) % COLUMNS;
  return Float32Array.from({ length: rows * COLUMNS }, (_, i) => (isSeen(i) ? 0 : TOO_SMALL));
}

function softmaxGraph(): Graph {
  const graph = new Graph();
  graph.output('y', g.softmax(graph, graph.input('x', 'f32', [symbol('N'), COLUMNS])));
  return graph;
}

describe('numbers too small for the processor', { skip }, () => {
  for (const threads of [1, 2])
    it(`are zero in kernels on ${threads} thread(s)`, async () => {
      const session = await Session.create(softmaxGraph(), { binding: 'native', threads });
      // Enough rows for every thread to have some.
      const rows = 100 * COLUMNS;
      const { y } = await session.run({ x: f32(scoresOf(rows), [rows, COLUMNS]) });
      const shares = y?.data as Float32Array;
      for (let row = 0; row < rows; row++) {
        const own = shares.subarray(row * COLUMNS, (row + 1) * COLUMNS);
        const seen = own.subarray(0, (row % COLUMNS) + 1);
        assert.ok(own.subarray(seen.length).every((share) => share === 0));
        const sum = seen.reduce((total, share) => total + share, 0);
        assert.ok(Math.abs(sum - 1) < 1e-5, `row ${row} sums to ${sum}`);
      }
      await session.release();
    });

  it('stay what they are in JavaScript, also after a run that failed', async () => {
    const session = await Session.create(softmaxGraph(), { binding: 'native' });
    const tiny = Float32Array.of(1e-40);
    const isKept = () =>
      (tiny[0] as number) * 1 !== 0 && Math.fround(Number('1e-40')) !== 0 && Number('1e-310') / 2 > 0;
    assert.ok(isKept());
    await session.run({ x: f32(scoresOf(1), [1, COLUMNS]) });
    assert.ok(isKept());
    await assert.rejects(session.run({ x: f32(new Float32Array(2), [1, 2]) }));
    assert.ok(isKept());
    await session.release();
  });
});
