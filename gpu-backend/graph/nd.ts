/** Dense reference tensors in double precision, row-major. Integers and booleans are held exactly as doubles. */
export interface NdArray {
  readonly shape: readonly number[];
  readonly data: Float64Array;
}

export function sizeOf(shape: readonly number[]): number {
  return shape.reduce((a, b) => a * b, 1);
}

export function nd(shape: readonly number[], data?: Float64Array): NdArray {
  const size = sizeOf(shape);
  if (data !== undefined && data.length !== size)
    throw new Error(`tensor of shape [${shape}] needs ${size} elements, got ${data.length}`);
  return { shape, data: data ?? new Float64Array(size) };
}

export function stridesOf(shape: readonly number[]): number[] {
  const strides = new Array<number>(shape.length).fill(1);
  for (let i = shape.length - 2; i >= 0; i--) strides[i] = (strides[i + 1] ?? 1) * (shape[i + 1] ?? 1);
  return strides;
}

/** Element at a flat index; the index must be in range. */
export function at(a: NdArray, i: number): number {
  const v = a.data[i];
  if (v === undefined) throw new Error(`index ${i} out of range for a tensor of ${a.data.length} elements`);
  return v;
}

export function mapNd(a: NdArray, f: (x: number) => number): NdArray {
  return nd(a.shape, a.data.map(f));
}

/** Calls `f(flatOutputIndex, coordinates)` for every element of a shape. */
export function forEachIndex(shape: readonly number[], f: (flat: number, coords: readonly number[]) => void): void {
  const coords = new Array<number>(shape.length).fill(0);
  const size = sizeOf(shape);
  for (let flat = 0; flat < size; flat++) {
    f(flat, coords);
    for (let axis = shape.length - 1; axis >= 0; axis--) {
      const next = (coords[axis] ?? 0) + 1;
      if (next < (shape[axis] ?? 1)) {
        coords[axis] = next;
        break;
      }
      coords[axis] = 0;
    }
  }
}

/** Flat index of `coords` in an array of shape `shape` that is broadcast (NumPy rules, aligned at the last axis). */
export function broadcastIndex(
  shape: readonly number[],
  strides: readonly number[],
  coords: readonly number[],
): number {
  let flat = 0;
  const offset = coords.length - shape.length;
  for (let i = 0; i < shape.length; i++) if (shape[i] !== 1) flat += (coords[offset + i] ?? 0) * (strides[i] ?? 0);
  return flat;
}

export function zipNd(shape: readonly number[], arrays: readonly NdArray[], f: (...xs: number[]) => number): NdArray {
  const out = nd(shape);
  const strides = arrays.map((a) => stridesOf(a.shape));
  forEachIndex(shape, (flat, coords) => {
    out.data[flat] = f(...arrays.map((a, i) => at(a, broadcastIndex(a.shape, strides[i] ?? [], coords))));
  });
  return out;
}
