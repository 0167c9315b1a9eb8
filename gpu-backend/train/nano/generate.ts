import type { Rng } from './random.ts';
import {
  type Box,
  boxSidePx,
  type Color,
  colors,
  type SceneObject,
  type Shape,
  type SizePx,
  shapes,
  sizesPx,
} from './scene.ts';

/** What may appear; narrowing it makes sets in which the boxes resemble each other, as in part of the NLVR pictures. */
export interface Palette {
  shapes: readonly Shape[];
  colors: readonly Color[];
  sizes: readonly SizePx[];
}

export const fullPalette: Palette = { shapes, colors, sizes: sizesPx };

/** Whether two bounding boxes keep at least `gapPx` background pixels between them. */
export function apart(a: SceneObject, b: SceneObject, gapPx: number): boolean {
  return (
    a.x + a.size + gapPx <= b.x ||
    b.x + b.size + gapPx <= a.x ||
    a.y + a.size + gapPx <= b.y ||
    b.y + b.size + gapPx <= a.y
  );
}

/** A free place for the object: at a wall in the measured shares (right 19 %, bottom 19 %, left and top 2 %), else anywhere. */
export function place(
  rng: Rng,
  object: Omit<SceneObject, 'x' | 'y'>,
  others: readonly SceneObject[],
): SceneObject | undefined {
  const last = boxSidePx - object.size;
  for (let attempt = 0; attempt < 12; attempt++) {
    const coordinate = () => (rng.chance(0.2) ? last : rng.chance(0.03) ? 0 : rng.int(0, last));
    let [x, y] = [coordinate(), coordinate()];
    if (others.length > 0 && rng.chance(0.12)) {
      // Stand beside or on top of another object, one pixel apart: what people call touching.
      const other = rng.pick(others);
      if (rng.chance(0.5)) {
        x = Math.min(last, Math.max(0, other.x + rng.int(-5, 5)));
        y = rng.chance(0.5) ? other.y - object.size - 1 : other.y + other.size + 1;
      } else {
        y = Math.min(last, Math.max(0, other.y + rng.int(-5, 5)));
        x = rng.chance(0.5) ? other.x - object.size - 1 : other.x + other.size + 1;
      }
      if (x < 0 || y < 0 || x > last || y > last) continue;
    }
    const placed = { ...object, x, y };
    if (others.every((other) => apart(placed, other, 1))) return placed;
  }
  return undefined;
}

export function randomScatter(rng: Rng, palette: Palette = fullPalette, count = rng.int(1, 7)): Box {
  const objects: SceneObject[] = [];
  for (let i = 0; i < count; i++) {
    const wanted = { shape: rng.pick(palette.shapes), color: rng.pick(palette.colors), size: rng.pick(palette.sizes) };
    const placed = place(rng, wanted, objects);
    if (placed) objects.push(placed);
  }
  return { kind: 'scatter', objects };
}

export function towerOf(blockColors: readonly Color[]): Box {
  return {
    kind: 'tower',
    objects: blockColors.map((color, level) => ({ shape: 'square', color, size: 20, x: 40, y: 80 - 21 * level })),
  };
}

export function randomTower(rng: Rng, palette: Palette = fullPalette, height = rng.int(1, 4)): Box {
  return towerOf(Array.from({ length: height }, () => rng.pick(palette.colors)));
}

/** A copy with one small difference: an object gone, added, recoloured or moved; a tower gains, loses or repaints a block. */
export function vary(rng: Rng, box: Box): Box {
  if (box.kind === 'tower') {
    const blocks = box.objects.map((o) => o.color);
    const change = rng.pick(['grow', 'shrink', 'paint'] as const);
    if (change === 'grow' && blocks.length < 4) return towerOf([...blocks, rng.pick(colors)]);
    if (change === 'shrink' && blocks.length > 1) return towerOf(blocks.slice(0, -1));
    return towerOf(blocks.with(rng.int(0, blocks.length - 1), rng.pick(colors)));
  }
  const objects = box.objects.slice();
  const change = rng.pick(['add', 'remove', 'paint', 'move'] as const);
  const target = rng.int(0, objects.length - 1);
  const chosen = objects[target];
  if (chosen === undefined || (change === 'add' && objects.length < 7)) {
    const added = place(rng, { shape: rng.pick(shapes), color: rng.pick(colors), size: rng.pick(sizesPx) }, objects);
    return { kind: 'scatter', objects: added ? [...objects, added] : objects };
  }
  if (change === 'remove' && objects.length > 1) return { kind: 'scatter', objects: objects.toSpliced(target, 1) };
  if (change === 'paint') {
    return {
      kind: 'scatter',
      objects: objects.with(target, { ...chosen, color: rng.pick(colors.filter((c) => c !== chosen.color)) }),
    };
  }
  const moved = place(rng, chosen, objects.toSpliced(target, 1));
  return { kind: 'scatter', objects: moved ? objects.with(target, moved) : objects };
}

/** A set of boxes of one kind. Part of the sets share a narrow palette or contain near copies, so that small differences matter. */
export function randomSet(rng: Rng, kind: Box['kind'], count: number): Box[] {
  const narrow = kind === 'scatter' && rng.chance(0.25);
  const palette: Palette = narrow
    ? {
        shapes: rng.chance(0.5) ? rng.sample(shapes, rng.int(1, 2)) : shapes,
        colors: rng.chance(0.5) ? rng.sample(colors, rng.int(1, 2)) : colors,
        sizes: rng.chance(0.3) ? rng.sample(sizesPx, 1) : sizesPx,
      }
    : fullPalette;
  const boxes: Box[] = [];
  while (boxes.length < count) {
    const model = boxes[rng.int(0, Math.max(0, boxes.length - 1))];
    if (model && rng.chance(0.15)) boxes.push(rng.chance(0.3) ? model : vary(rng, model));
    else boxes.push(kind === 'tower' ? randomTower(rng, palette) : randomScatter(rng, palette));
  }
  return boxes;
}
