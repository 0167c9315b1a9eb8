import { apart, place, randomScatter, towerOf } from './generate.ts';
import type { Rng } from './random.ts';
import { type Box, boxSidePx, type Color, colors, type SceneObject, shapes, sizesPx } from './scene.ts';

export const directions = ['left', 'right', 'up', 'down'] as const;
export type Direction = (typeof directions)[number];

/** What happens over the frames of a sequence. Frames are counted from 1, as in `image 1`. */
export type Story =
  | { event: 'moves'; object: SceneObject; direction: Direction }
  | { event: 'appears' | 'vanishes'; object: SceneObject; frame: number }
  | { event: 'recolors'; object: SceneObject; frame: number; to: Color }
  | { event: 'grows' | 'shrinks' | 'stays' }
  | { event: 'repaints'; frame: number; level: number; to: Color };

export interface Sequence {
  frames: Box[];
  story: Story;
}

const look = (o: SceneObject) => `${o.size}${o.color}${o.shape}`;

/** An object that no other object of the box looks like, so that a question can name it. */
function nameable(rng: Rng, others: readonly SceneObject[]): SceneObject | undefined {
  const taken = new Set(others.map(look));
  for (let attempt = 0; attempt < 10; attempt++) {
    const wanted = { shape: rng.pick(shapes), color: rng.pick(colors), size: rng.pick(sizesPx) };
    const placed = place(rng, wanted, others);
    if (placed && !taken.has(look(placed))) return placed;
  }
  return undefined;
}

function moving(rng: Rng, count: number, others: readonly SceneObject[], object: SceneObject): Sequence | undefined {
  const direction = rng.pick(directions);
  const horizontal = direction === 'left' || direction === 'right';
  const sign = direction === 'left' || direction === 'up' ? -1 : 1;
  const last = boxSidePx - object.size;
  const room = Math.floor(last / (count - 1));
  if (room < 8) return undefined;
  const step = rng.int(8, Math.min(room, 30));
  const start = rng.int(0, last - step * (count - 1));
  const frames: Box[] = [];
  for (let frame = 0; frame < count; frame++) {
    const along = sign > 0 ? start + step * frame : start + step * (count - 1 - frame);
    const moved = horizontal ? { ...object, x: along } : { ...object, y: along };
    if (!others.every((other) => apart(moved, other, 1))) return undefined;
    frames.push({ kind: 'scatter', objects: [...others, moved] });
  }
  return { frames, story: { event: 'moves', object, direction } };
}

function scatterSequence(rng: Rng, count: number): Sequence {
  for (;;) {
    const others = randomScatter(rng, undefined, rng.int(0, 3)).objects;
    const object = nameable(rng, others);
    if (!object) continue;
    const event = rng.pick(['moves', 'moves', 'appears', 'vanishes', 'recolors'] as const);
    if (event === 'moves') {
      const sequence = moving(rng, count, others, object);
      if (sequence) return sequence;
      continue;
    }
    const frame = rng.int(2, count);
    const to = rng.pick(colors.filter((color) => color !== object.color));
    if (event === 'recolors' && others.some((o) => look(o) === look({ ...object, color: to }))) continue;
    const frames = Array.from({ length: count }, (_, i): Box => {
      const changed = i + 1 >= frame;
      const shown =
        event === 'recolors'
          ? [changed ? { ...object, color: to } : object]
          : (event === 'appears') === changed
            ? [object]
            : [];
      return { kind: 'scatter', objects: [...others, ...shown] };
    });
    return { frames, story: event === 'recolors' ? { event, object, frame, to } : { event, object, frame } };
  }
}

function towerSequence(rng: Rng, count: number): Sequence {
  const event = rng.pick(['grows', 'shrinks', 'stays', 'repaints'] as const);
  const blocks = Array.from({ length: 4 }, () => rng.pick(colors));
  if (event === 'repaints' || event === 'stays') {
    const height = rng.int(1, 4);
    const kept = blocks.slice(0, height);
    const [frame, level] = [rng.int(2, count), rng.int(0, height - 1)];
    const to = rng.pick(colors.filter((color) => color !== kept[level]));
    const frames = Array.from({ length: count }, (_, i) =>
      towerOf(event === 'repaints' && i + 1 >= frame ? kept.with(level, to) : kept),
    );
    return { frames, story: event === 'stays' ? { event } : { event, frame, level, to } };
  }
  // A block more in each frame; with more frames than blocks the tower rests in between.
  const heights = Array.from({ length: count }, (_, i) => (count <= 4 ? i : Math.floor((i * 4) / count)));
  const lift = rng.int(1, 4 - (heights.at(-1) ?? 0));
  const ordered = event === 'grows' ? heights : heights.toReversed();
  return { frames: ordered.map((h) => towerOf(blocks.slice(0, h + lift))), story: { event } };
}

/** `count` frames (2…9) in which one thing happens. */
export function randomSequence(rng: Rng, count: number, kind: Box['kind']): Sequence {
  return kind === 'tower' ? towerSequence(rng, count) : scatterSequence(rng, count);
}
