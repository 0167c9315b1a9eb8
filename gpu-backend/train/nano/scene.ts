import type { RgbImage } from '../../io/nlvr.ts';

export const boxSidePx = 100;
export const shapes = ['square', 'circle', 'triangle'] as const;
export const colors = ['black', 'yellow', 'blue'] as const;
export const sizesPx = [10, 20, 30] as const;
export type Shape = (typeof shapes)[number];
export type Color = (typeof colors)[number];
export type SizePx = (typeof sizesPx)[number];

/** One flat object; `x`, `y` are the pixel of the top left corner of its square bounding box. */
export interface SceneObject {
  shape: Shape;
  color: Color;
  size: SizePx;
  x: number;
  y: number;
}

/** A 100x100 picture. In a tower `objects` are 20 px squares listed from the base up; in a scatter the order means nothing. */
export interface Box {
  kind: 'scatter' | 'tower';
  objects: SceneObject[];
}

type Rgb = readonly [number, number, number];
const backgroundRgb: Rgb = [211, 211, 211];
export const colorRgb: Readonly<Record<Color, Rgb>> = { black: [0, 0, 0], yellow: [255, 255, 0], blue: [0, 153, 255] };

/**
 * Edge pixels of the upper left quarter of a black circle, measured on the NLVR training pictures: per row the number of background pixels,
 * then the grey levels up to the first fully covered pixel. The other quarters mirror it up to one level, but for `circleException`.
 */
const circleEdge: Readonly<Record<SizePx, readonly (readonly number[])[]>> = {
  10: [
    [2, 158, 52, 13],
    [1, 105],
    [0, 158],
    [0, 52],
    [0, 13],
  ],
  20: [
    [6, 145, 105, 52, 13],
    [4, 171, 40],
    [3, 105],
    [2, 105],
    [1, 171],
    [1, 39],
    [0, 145],
    [0, 105],
    [0, 52],
    [0, 13],
  ],
  30: [
    [10, 145, 92, 52, 40],
    [7, 197, 105, 13],
    [6, 131, 13],
    [5, 92],
    [4, 79],
    [3, 92],
    [2, 131],
    [1, 197, 14],
    [1, 105],
    [1, 13],
    [0, 145],
    [0, 92],
    [0, 52],
    [0, 26],
    [0],
  ],
};

/** [row, column, grey] where the measured circles are not symmetric: the original rasteriser rounded these pixels by position. */
const circleException: Readonly<Partial<Record<SizePx, readonly (readonly [number, number, number])[]>>> = {
  20: [
    [3, 17, 118],
    [16, 17, 118],
    [17, 16, 118],
  ],
  30: [
    [2, 23, 145],
    [6, 27, 145],
    [13, 29, 40],
    [16, 29, 39],
    [23, 27, 145],
    [24, 26, 105],
    [26, 24, 105],
    [27, 6, 145],
    [27, 23, 145],
  ],
};

/** How far row `row` of a shape is background on the left, and the grey levels of its soft left edge. Right is its mirror image. */
function leftEdge(shape: Shape, size: SizePx, row: number): { skip: number; greys: readonly number[] } {
  if (shape === 'square') return { skip: 0, greys: [] };
  if (shape === 'triangle') return { skip: size / 2 - 1 - (row >> 1), greys: [row % 2 === 0 ? 158 : 52] };
  const [skip = 0, ...greys] = circleEdge[size][row < size / 2 ? row : size - 1 - row] ?? [];
  return { skip, greys };
}

interface Sprite {
  /** First covered column of each row. */
  skip: number[];
  /** RGB of the covered pixels of each row; the row is symmetric, so its width is size - 2·skip. */
  rows: Uint8Array[];
}

function makeSprite(shape: Shape, size: SizePx, color: Color): Sprite {
  const ink = colorRgb[color];
  const exceptions = (shape === 'circle' && circleException[size]) || [];
  const skips: number[] = [];
  const rows: Uint8Array[] = [];
  for (let row = 0; row < size; row++) {
    const { skip, greys } = leftEdge(shape, size, row);
    const width = size - 2 * skip;
    const bytes = new Uint8Array(3 * width);
    for (let column = 0; column < width; column++) {
      const exception = exceptions.find(([y, x]) => y === row && x === column + skip);
      const grey = exception?.[2] ?? greys[Math.min(column, width - 1 - column)] ?? 0;
      const coverage = 1 - grey / 211;
      for (let channel = 0; channel < 3; channel++) {
        const under = backgroundRgb[channel] ?? 0;
        bytes[3 * column + channel] = Math.round(under + ((ink[channel] ?? 0) - under) * coverage);
      }
    }
    skips.push(skip);
    rows.push(bytes);
  }
  return { skip: skips, rows };
}

const spriteKey = (shape: Shape, size: SizePx, color: Color) =>
  shapes.indexOf(shape) * 9 + colors.indexOf(color) * 3 + size / 10 - 1;
const sprites: Sprite[] = [];
for (const shape of shapes) {
  for (const color of colors) {
    for (const size of sizesPx) sprites[spriteKey(shape, size, color)] = makeSprite(shape, size, color);
  }
}
const emptyBox = new Uint8Array(boxSidePx * boxSidePx * 3).fill(211);

/** Draws a box as the NLVR pictures are drawn. Result: RGB bytes, 100x100x3, height-width-channel order. */
export function renderBox(box: Box): Uint8Array {
  const rgb = emptyBox.slice();
  for (const { shape, size, color, x, y } of box.objects) {
    const sprite = sprites[spriteKey(shape, size, color)] as Sprite;
    for (let row = 0; row < size; row++) {
      rgb.set(sprite.rows[row] as Uint8Array, 3 * ((y + row) * boxSidePx + x + (sprite.skip[row] ?? 0)));
    }
  }
  return rgb;
}

function colorAt(rgb: Uint8Array, pixel: number): Color | 'background' | undefined {
  const [r, g, b] = [rgb[3 * pixel], rgb[3 * pixel + 1], rgb[3 * pixel + 2]];
  if (r === 211 && g === 211 && b === 211) return 'background';
  return colors.find((color) => colorRgb[color][0] === r && colorRgb[color][1] === g && colorRgb[color][2] === b);
}

/** Bounding boxes of the 4-connected regions that are not background. Objects never touch: the pictures keep a pixel between them. */
function regions(rgb: Uint8Array): { x: number; y: number; width: number; height: number }[] {
  const seen = new Uint8Array(boxSidePx * boxSidePx);
  const found: { x: number; y: number; width: number; height: number }[] = [];
  const stack: number[] = [];
  const visit = (pixel: number) => {
    if (seen[pixel] === 1) return;
    seen[pixel] = 1;
    if (rgb[3 * pixel] === 211 && rgb[3 * pixel + 1] === 211 && rgb[3 * pixel + 2] === 211) return;
    stack.push(pixel);
  };
  for (let start = 0; start < seen.length; start++) {
    visit(start);
    if (stack.length === 0) continue;
    let [left, right, top, bottom] = [boxSidePx, -1, boxSidePx, -1];
    for (let pixel = stack.pop(); pixel !== undefined; pixel = stack.pop()) {
      const [x, y] = [pixel % boxSidePx, Math.floor(pixel / boxSidePx)];
      left = Math.min(left, x);
      right = Math.max(right, x);
      top = Math.min(top, y);
      bottom = Math.max(bottom, y);
      if (x > 0) visit(pixel - 1);
      if (x < boxSidePx - 1) visit(pixel + 1);
      if (y > 0) visit(pixel - boxSidePx);
      if (y < boxSidePx - 1) visit(pixel + boxSidePx);
    }
    found.push({ x: left, y: top, width: right - left + 1, height: bottom - top + 1 });
  }
  return found;
}

/**
 * Reads the exact scene from the pixels of an NLVR box: each object is a region of one flat colour with a soft edge.
 * @throws when a region is not one of the 27 objects, with its place and size
 */
export function readBox(image: RgbImage): Box {
  const { width, height, rgb } = image;
  if (width !== boxSidePx || height !== boxSidePx || rgb.length !== 3 * boxSidePx * boxSidePx) {
    throw new Error(`readBox: expected 100x100 RGB (30000 bytes), got ${width}x${height} with ${rgb.length} bytes`);
  }
  const objects = regions(rgb).map(({ x, y, width: w, height: h }): SceneObject => {
    const size = sizesPx.find((side) => side === w && side === h);
    const color = colorAt(rgb, (y + (h >> 1)) * boxSidePx + x + (w >> 1));
    if (size === undefined || color === undefined || color === 'background') {
      throw new Error(`readBox: region ${w}x${h} at (${x}, ${y}) is no 10, 20 or 30 px object of a known colour`);
    }
    const topLeft = colorAt(rgb, y * boxSidePx + x);
    const bottomLeft = colorAt(rgb, (y + h - 1) * boxSidePx + x);
    const shape: Shape = topLeft === color ? 'square' : bottomLeft === 'background' ? 'circle' : 'triangle';
    return { shape, color, size, x, y };
  });
  return arrange(objects);
}

/** Decides scatter or tower from the objects, and orders a tower from the base up. */
export function arrange(objects: SceneObject[]): Box {
  const column = objects.slice().sort((a, b) => b.y - a.y);
  const isTower =
    column.length > 0 &&
    column.every(
      (o, level) => o.shape === 'square' && o.size === 20 && o.x === column[0]?.x && o.y === 80 - 21 * level,
    );
  return isTower && column[0]?.x === 40 ? { kind: 'tower', objects: column } : { kind: 'scatter', objects };
}
