/**
 * Int8 keys lie in tiles [D, tile] of `tile` tokens each, as models/decode.ts reads them: component d of the token at place
 * t of a tile is number d·tile + t. Runs of keys that do not begin or end at a tile's border (saved ones) are as compact as
 * others: their first and last tile is [D, as many tokens as it has].
 *
 * Such a run has three numbers: where it begins in its array, how many tokens, and `lead`, the place in its first tile at
 * which it begins. A row of the arena is a run of T tokens with lead 0.
 */
import type { KvArray } from './span.ts';

export interface KeyRun {
  readonly array: KvArray;
  readonly begin: number;
  readonly tokens: number;
  readonly lead: number;
}

/** Copies `count` tokens from place `from` of one run to place `to` of another; cheap where whole tiles meet whole tiles. */
export function copyKeys(
  target: KeyRun,
  to: number,
  source: KeyRun,
  from: number,
  count: number,
  D: number,
  tile: number,
): void {
  for (let done = 0; done < count; ) {
    const read = from + done;
    const write = to + done;
    const readTile = tileStart(source, read, tile);
    const writeTile = tileStart(target, write, tile);
    const readEnd = tileEnd(source, read, tile);
    const writeEnd = tileEnd(target, write, tile);
    const readWidth = readEnd - readTile;
    const writeWidth = writeEnd - writeTile;
    let tokens = Math.min(count - done, readEnd - read, writeEnd - write);
    if (tokens === readWidth && tokens === writeWidth) {
      // Whole tiles follow each other without a gap in both.
      if (tokens === tile) {
        const most = Math.min(count - done, source.tokens - read, target.tokens - write);
        tokens = Math.floor(most / tile) * tile;
      }
      const begin = source.begin + read * D;
      target.array.set(source.array.subarray(begin, begin + tokens * D), target.begin + write * D);
    } else
      copyColumns(
        target.array,
        target.begin + writeTile * D + (write - writeTile),
        writeWidth,
        source.array,
        source.begin + readTile * D + (read - readTile),
        readWidth,
        D,
        tokens,
      );
    done += tokens;
  }
}

/** First token of the run that is in the same tile as token `at`. */
function tileStart(run: KeyRun, at: number, tile: number): number {
  return Math.max(0, Math.floor((run.lead + at) / tile) * tile - run.lead);
}

function tileEnd(run: KeyRun, at: number, tile: number): number {
  return Math.min(run.tokens, (Math.floor((run.lead + at) / tile) + 1) * tile - run.lead);
}

function copyColumns(
  target: KvArray,
  to: number,
  toStride: number,
  source: KvArray,
  from: number,
  fromStride: number,
  D: number,
  tokens: number,
): void {
  for (let d = 0; d < D; d++) {
    const read = from + d * fromStride;
    const write = to + d * toStride;
    for (let token = 0; token < tokens; token++) target[write + token] = source[read + token]!;
  }
}
