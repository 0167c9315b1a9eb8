import assert from 'node:assert/strict';
import { test } from 'node:test';
import { randomScatter, randomTower, vary } from '../../../gpu-backend/train/nano/generate.ts';
import { touching } from '../../../gpu-backend/train/nano/phrases.ts';
import { Rng } from '../../../gpu-backend/train/nano/random.ts';
import { arrange, type Box, readBox, renderBox, type SceneObject } from '../../../gpu-backend/train/nano/scene.ts';

const asImage = (box: Box) => ({ width: 100, height: 100, rgb: renderBox(box) });
const sorted = (box: Box) => box.objects.map((o) => JSON.stringify([o.shape, o.color, o.size, o.x, o.y])).sort();

test('reading a drawn box gives back its objects, scatter and tower', () => {
  for (let i = 0; i < 200; i++) {
    const rng = new Rng(1, i);
    const box = i % 3 === 0 ? randomTower(rng) : randomScatter(rng);
    const read = readBox(asImage(box));
    assert.equal(read.kind, arrange(box.objects).kind);
    assert.deepEqual(sorted(read), sorted(box));
  }
});

test('a tower is read from the base up', () => {
  const tower = randomTower(new Rng(5), undefined, 4);
  assert.deepEqual(readBox(asImage(tower)).objects, tower.objects);
});

test('soft edges have the measured grey levels', () => {
  const rgb = renderBox({ kind: 'scatter', objects: [{ shape: 'triangle', color: 'black', size: 10, x: 0, y: 0 }] });
  const grey = (x: number, y: number) => rgb[3 * (100 * y + x)];
  assert.deepEqual([grey(3, 0), grey(4, 0), grey(4, 1), grey(5, 1), grey(4, 2)], [211, 158, 52, 52, 0]);
});

test('a region that is no object is refused with its place', () => {
  const image = asImage({ kind: 'scatter', objects: [] });
  image.rgb.fill(0, 3 * (100 * 7 + 3), 3 * (100 * 7 + 8));
  assert.throws(() => readBox(image), /region 5x1 at \(3, 7\)/);
});

test('generated objects keep a pixel apart and stay inside', () => {
  for (let i = 0; i < 200; i++) {
    const rng = new Rng(2, i);
    const { objects } = vary(rng, randomScatter(rng));
    for (const [a, o] of objects.entries()) {
      assert.ok(o.x >= 0 && o.y >= 0 && o.x + o.size <= 100 && o.y + o.size <= 100);
      for (const p of objects.slice(a + 1)) {
        const meets = o.x < p.x + p.size && p.x < o.x + o.size && o.y < p.y + p.size && p.y < o.y + o.size;
        assert.ok(!meets, JSON.stringify([o, p]));
      }
    }
  }
});

test('touching follows the outlines, not the bounding boxes', () => {
  const square: SceneObject = { shape: 'square', color: 'blue', size: 20, x: 0, y: 0 };
  const circle: SceneObject = { shape: 'circle', color: 'blue', size: 20, x: 21, y: 0 };
  const corner: SceneObject = { shape: 'circle', color: 'blue', size: 20, x: 21, y: 21 };
  assert.equal(touching(square, circle), true);
  assert.equal(touching(square, corner), false);
  assert.equal(touching(square, { ...square, x: 30 }), false);
});
