import { readFile } from 'node:fs/promises';
import { join } from 'node:path';

/** Width, height and RGB bytes (height-width-channel order) of one picture. */
export interface RgbImage {
  width: number;
  height: number;
  rgb: Uint8Array;
}

/** Turns the bytes of one PNG into pixels; handed in because native decoding is not this folder's business. */
export type DecodePng = (png: Uint8Array) => Promise<RgbImage>;

export interface NlvrExample {
  id: string;
  group: string;
  statement: string;
  /** Absent in splits that are scored elsewhere. */
  label?: boolean;
  /** `gold` is the published label; `position-prior` is a rule that is right for about 93 % of the true and 79 % of the false ones. */
  labelSource?: string;
  /** The six left-to-right orders of the three boxes, as box numbers. */
  boxes: number[][];
}

export interface NlvrImageSet {
  id: string;
  boxes: number[];
}

/** The distinct boxes of one split, still as PNG bytes. */
export class NlvrBoxes {
  readonly count: number;
  readonly #pngBytes: Uint8Array;
  readonly #index: Uint32Array;

  /** @param index (offset, length) pairs, one pair a box @throws when a pair reaches outside `pngBytes` */
  constructor(pngBytes: Uint8Array, index: Uint32Array, name: string) {
    this.#pngBytes = pngBytes;
    this.#index = index;
    this.count = index.length / 2;
    for (let box = 0; box < this.count; box++) {
      const [offset, length] = this.#range(box);
      if (length === 0 || offset + length > pngBytes.length) {
        throw new Error(
          `${name}.box.idx: box ${box} is bytes ${offset}…${offset + length}, but ${name}.box.bin has ${pngBytes.length}; copy both files again`,
        );
      }
    }
  }

  #range(box: number): [number, number] {
    return [this.#index[2 * box] ?? 0, this.#index[2 * box + 1] ?? 0];
  }

  png(box: number): Uint8Array {
    if (!Number.isInteger(box) || box < 0 || box >= this.count) {
      throw new RangeError(`box ${box} does not exist; this split has boxes 0…${this.count - 1}`);
    }
    const [offset, length] = this.#range(box);
    return this.#pngBytes.subarray(offset, offset + length);
  }
}

async function readPart(path: string): Promise<Buffer> {
  return await readFile(path).catch((cause: unknown) => {
    throw new Error(
      `cannot read ${path}: expected the NLVR folder format (SPLIT.jsonl, SPLIT.box.bin, SPLIT.box.idx)`,
      { cause },
    );
  });
}

async function readLines(path: string): Promise<unknown[]> {
  const text = (await readPart(path)).toString('utf8');
  const rows: unknown[] = [];
  for (const [number, line] of text.split('\n').entries()) {
    if (line.trim() === '') continue;
    try {
      rows.push(JSON.parse(line));
    } catch (cause) {
      throw new Error(`${path}:${number + 1}: not JSON`, { cause });
    }
  }
  return rows;
}

/** Reads SPLIT.box.bin and SPLIT.box.idx (little-endian uint32 pairs of offset and length). */
export async function readNlvrBoxes(folder: string, split: string): Promise<NlvrBoxes> {
  const [pngBytes, index] = await Promise.all([
    readPart(join(folder, `${split}.box.bin`)),
    readPart(join(folder, `${split}.box.idx`)),
  ]);
  if (index.length % 8 !== 0) {
    throw new Error(`${split}.box.idx has ${index.length} bytes; expected a multiple of 8 (offset, length as uint32)`);
  }
  const view = new DataView(index.buffer, index.byteOffset, index.byteLength);
  const pairs = Uint32Array.from({ length: index.length / 4 }, (_, i) => view.getUint32(4 * i, true));
  return new NlvrBoxes(pngBytes, pairs, split);
}

const isRecord = (value: unknown): value is Record<string, unknown> => typeof value === 'object' && value !== null;
const isBoxList = (value: unknown): value is number[] =>
  Array.isArray(value) && value.length > 0 && value.every((box) => Number.isInteger(box) && box >= 0);

function parseExample(row: unknown, where: string): NlvrExample {
  const fail = (field: string, expected: string): never => {
    throw new Error(
      `${where}: \`${field}\` must be ${expected}, got ${isRecord(row) ? JSON.stringify(row[field]) : typeof row}`,
    );
  };
  if (!isRecord(row)) return fail('line', 'a JSON object');
  const { id, group, statement, label, labelSource, boxes } = row;
  if (typeof id !== 'string') return fail('id', 'a string');
  if (typeof group !== 'string') return fail('group', 'a string');
  if (typeof statement !== 'string') return fail('statement', 'a string');
  if (label !== undefined && typeof label !== 'boolean') return fail('label', 'a boolean where present');
  if (!Array.isArray(boxes) || boxes.length === 0 || !boxes.every(isBoxList))
    return fail('boxes', 'a list of box lists');
  return {
    id,
    group,
    statement,
    boxes,
    ...(label === undefined ? {} : { label }),
    ...(typeof labelSource === 'string' ? { labelSource } : {}),
  };
}

/** Reads SPLIT.jsonl. @throws with file, line and field where a row is not an example */
export async function readNlvrExamples(folder: string, split: string): Promise<NlvrExample[]> {
  const rows = await readLines(join(folder, `${split}.jsonl`));
  return rows.map((row, i) => parseExample(row, `${split}.jsonl:${i + 1}`));
}

/** Reads a file of picture sets without statements (train-images.jsonl). */
export async function readNlvrImageSets(folder: string, split: string): Promise<NlvrImageSet[]> {
  const rows = await readLines(join(folder, `${split}.jsonl`));
  return rows.map((row, i) => {
    if (!isRecord(row) || typeof row.id !== 'string' || !isBoxList(row.boxes)) {
      throw new Error(`${split}.jsonl:${i + 1}: expected {id: string, boxes: number[]}`);
    }
    return { id: row.id, boxes: row.boxes };
  });
}
