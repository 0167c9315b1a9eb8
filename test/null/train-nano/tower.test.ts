import assert from 'node:assert/strict';
import { test } from 'node:test';
import { randomScatter, randomTower } from '../../../gpu-backend/train/nano/generate.ts';
import { Rng } from '../../../gpu-backend/train/nano/random.ts';
import { towerTargets } from '../../../gpu-backend/train/nano/tower.ts';

test('a centre lies in its cell, cells counted patch by patch', () => {
  // Centre (35, 12): cell column 3, row 1; with 20 px patches that is patch 1 (of 5 a row), lower right cell of four.
  const box = { kind: 'scatter', objects: [{ shape: 'circle', color: 'yellow', size: 10, x: 30, y: 7 }] } as const;
  const targets = towerTargets(
    [
      { kind: 'scatter', objects: [] },
      { ...box, objects: [...box.objects] },
    ],
    20,
  );
  assert.deepEqual([...targets.cells], [100 + 1 * 4 + 3]);
  assert.deepEqual([[...targets.dx], [...targets.dy]], [[5], [2]]);
  assert.equal(targets.looks[107], 1 + (1 * 3 + 1) * 3);
  assert.equal(
    targets.looks.reduce((n, l) => n + Number(l > 0), 0),
    1,
  );
});

test('no two objects share a cell', () => {
  for (let i = 0; i < 300; i++) {
    const rng = new Rng(5, i);
    const box = i % 3 === 0 ? randomTower(rng) : randomScatter(rng);
    const { cells } = towerTargets([box], 20);
    assert.equal(new Set(cells).size, box.objects.length);
  }
});
