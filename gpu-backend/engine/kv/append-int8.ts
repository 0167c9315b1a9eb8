/**
 * Writes new tokens of one row into the planes of an int8 arena. Pieces of up to a stage-full are quantised at a time; a piece
 * is all heads of some tokens of one layer's keys or values. For one decoded token many layers share a stage-full, for a
 * prompt chunk each takes several.
 */
import { quantizeStage } from './quantize.ts';
import { type FreshKv, type KvArray, type KvShape, keyTileTokens } from './span.ts';

/** `planes`: [layer · 4 + plane], planes in the order k, v, kScale, vScale; T: positions of a row; `start`: the first to fill. */
export function appendInt8(
  planes: readonly KvArray[],
  shape: KvShape,
  T: number,
  slot: number,
  start: number,
  tokens: number,
  fresh: FreshKv,
): void {
  const { layers, kvHeads: H, headDim: D } = shape;
  const tile = keyTileTokens(shape);
  const stage = quantizeStage();
  const stageRows = Math.floor(stage.size / D);
  const pieceTokens = Math.min(tokens, Math.floor(stageRows / H));
  if (pieceTokens < 1)
    throw new Error(`internal: ${H} heads of ${D} numbers are more than the ${stage.size} quantised at a time.`);
  for (let first = 0; first < tokens; first += pieceTokens) {
    const count = Math.min(pieceTokens, tokens - first);
    const rows = H * count;
    const tensorsAtATime = Math.floor(stageRows / rows);
    for (let tensor = 0; tensor < 2 * layers; tensor += tensorsAtATime) {
      const end = Math.min(2 * layers, tensor + tensorsAtATime);
      for (let index = tensor; index < end; index++) {
        const source = ((index & 1) === 0 ? fresh.keys : fresh.values)[index >> 1]!;
        const from = (fresh.batchRow * H * fresh.stride + first) * D;
        load(stage.floats, (index - tensor) * rows * D, source, from, fresh.stride * D, H, count * D);
      }
      stage.run((end - tensor) * rows, D);
      for (let index = tensor; index < end; index++) {
        const row = (index - tensor) * rows;
        const plane = 4 * (index >> 1);
        const isKey = (index & 1) === 0;
        const target = planes[plane + (isKey ? 0 : 1)] as Int8Array;
        const scales = planes[plane + (isKey ? 2 : 3)] as Float32Array;
        const at = slot * H * T + start + first;
        if (isKey)
          storeKeys(target, slot * H * T * D, T * D, start + first, tile, stage.quantized, row * D, H, D, count);
        else storeValues(target, at * D, T * D, stage.quantized, row * D, H, count * D);
        for (let head = 0; head < H; head++)
          for (let token = 0; token < count; token++)
            scales[at + head * T + token] = stage.scales[row + head * count + token]!;
      }
    }
  }
}

function load(
  target: Float32Array,
  to: number,
  source: Float32Array,
  from: number,
  stride: number,
  H: number,
  length: number,
): void {
  if (stride === length) target.set(source.subarray(from, from + H * length), to);
  else
    for (let head = 0; head < H; head++)
      target.set(source.subarray(from + head * stride, from + head * stride + length), to + head * length);
}

/** From [H, count, D] to places `start` on of [H, T / tile, D, tile]. */
function storeKeys(
  target: Int8Array,
  to: number,
  headSize: number,
  start: number,
  tile: number,
  source: Int8Array,
  from: number,
  H: number,
  D: number,
  count: number,
): void {
  for (let head = 0; head < H; head++)
    for (let done = 0; done < count; ) {
      const place = (start + done) % tile;
      const tokens = Math.min(count - done, tile - place);
      const begin = to + head * headSize + (start + done - place) * D + place;
      const row = from + (head * count + done) * D;
      for (let d = 0; d < D; d++) {
        const write = begin + d * tile;
        let read = row + d;
        for (let token = 0; token < tokens; token++, read += D) target[write + token] = source[read]!;
      }
      done += tokens;
    }
}

/** From [H, count · D] to [H, T · D]. */
function storeValues(
  target: Int8Array,
  to: number,
  stride: number,
  source: Int8Array,
  from: number,
  H: number,
  length: number,
): void {
  for (let head = 0; head < H; head++) {
    const read = from + head * length;
    const write = to + head * stride;
    if (length > 128) target.set(source.subarray(read, read + length), write);
    else for (let index = 0; index < length; index++) target[write + index] = source[read + index]!;
  }
}
