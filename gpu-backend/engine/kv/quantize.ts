/**
 * Quantising keys and values on their way into an int8 cache: symmetric, one scale per token and head,
 * scale = max|x| / 127, q = round(x / scale) with halves upwards. A token with a number that is not finite gets the scale
 * NaN: the row's own logits must show it, instead of a silently wrong number taking its place.
 *
 * `x·inverse + 128.5` lies in 1.5 … 255.5 for finite x, so truncation rounds; only NaN gives 0.
 */

/** Tokens whose keys are quantised together before they are turned; the scratch stays in the first-level cache. */
const TILE_TOKENS = 64;
let tile = new Int8Array(0);

/**
 * Values: `source` [.., tokens, D] from `from` on, into `target` [T, D] from `to` on, scales into `scales` from `scaleAt` on.
 * All offsets count numbers.
 */
export function quantizeRows(
  target: Int8Array,
  to: number,
  scales: Float32Array,
  scaleAt: number,
  source: Float32Array,
  from: number,
  tokens: number,
  D: number,
): void {
  for (let token = 0; token < tokens; token++) {
    const read = from + token * D;
    const write = to + token * D;
    let max = 0;
    for (let d = 0; d < D; d++) {
      const size = Math.abs(source[read + d]!);
      if (size > max) max = size;
    }
    const inverse = max > 0 ? 127 / max : 0;
    let finite = true;
    for (let d = 0; d < D; d++) {
      const q = (source[read + d]! * inverse + 128.5) | 0;
      if (q === 0) finite = false;
      target[write + d] = q - 128;
    }
    scales[scaleAt + token] = finite ? max / 127 : Number.NaN;
  }
}

/** Keys: as `quantizeRows`, but `target` is [D, T]: component d of token t goes to `to + d·T + t`. */
export function quantizeColumns(
  target: Int8Array,
  to: number,
  T: number,
  scales: Float32Array,
  scaleAt: number,
  source: Float32Array,
  from: number,
  tokens: number,
  D: number,
): void {
  if (tokens === 1) {
    quantizeColumn(target, to, T, scales, scaleAt, source, from, D);
    return;
  }
  if (tile.length < TILE_TOKENS * D) tile = new Int8Array(TILE_TOKENS * D);
  for (let first = 0; first < tokens; first += TILE_TOKENS) {
    const count = Math.min(TILE_TOKENS, tokens - first);
    quantizeRows(tile, 0, scales, scaleAt + first, source, from + first * D, count, D);
    for (let d = 0; d < D; d++) {
      const write = to + d * T + first;
      for (let token = 0; token < count; token++) target[write + token] = tile[token * D + d]!;
    }
  }
}

/** One token, without the tile. */
function quantizeColumn(
  target: Int8Array,
  to: number,
  T: number,
  scales: Float32Array,
  scaleAt: number,
  source: Float32Array,
  from: number,
  D: number,
): void {
  let max = 0;
  for (let d = 0; d < D; d++) {
    const size = Math.abs(source[from + d]!);
    if (size > max) max = size;
  }
  const inverse = max > 0 ? 127 / max : 0;
  let finite = true;
  for (let d = 0, write = to; d < D; d++, write += T) {
    const q = (source[from + d]! * inverse + 128.5) | 0;
    if (q === 0) finite = false;
    target[write] = q - 128;
  }
  scales[scaleAt] = finite ? max / 127 : Number.NaN;
}
