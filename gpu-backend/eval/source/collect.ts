import { createHash } from 'node:crypto';
import { sha256Hex } from '../../io/digest.ts';
import {
  type ChosenRecords,
  canonicalJson,
  type EvalImage,
  type EvalRecord,
  type EvalRecords,
  type EvalSource,
  type Json,
} from '../task.ts';
import { PictureReader, StoredImage } from './pictures.ts';
import { type Slice, Spool } from './spool.ts';

/**
 * Reads all records once, in order and in constant memory: text and pictures that came as bytes go to a spool on disk, from where they are read at random.
 * @param read yields the records; its pictures come from the reader that it is given
 * @throws what `read` throws, and where two records have one id or there are none
 */
export async function collectRecords(
  source: EvalSource,
  read: (pictures: PictureReader) => AsyncIterable<EvalRecord>,
): Promise<EvalRecords> {
  const spool = await Spool.create();
  try {
    const slices: Slice[] = [];
    /** Ids, and the rows that have them. */
    const ids = new Map<string, string>();
    const pictures = new PictureReader(spool);
    const hash = createHash('sha256');
    let isCut = false;
    for await (const record of read(pictures)) {
      // One more is read than is asked for, to know whether there are more.
      if (slices.length === source.limit) {
        isCut = true;
        break;
      }
      const row = pictures.rowSinceLast() ?? `record ${slices.length + 1}`;
      const other = ids.get(record.id);
      if (other !== undefined)
        throw new Error(`${row}: expected an id of its own, ${JSON.stringify(record.id)} is also that of ${other}`);
      ids.set(record.id, row);
      const text = canonicalJson(recordJson(record));
      hash.update(text).update('\n');
      slices.push(await spool.append(Buffer.from(JSON.stringify(stored(record)))));
    }
    if (slices.length === 0)
      throw new Error(`expected at least one record in ${source.paths.join(', ')}, there is none`);
    return new SpooledRecords(slices, hash.digest('hex'), spool, isCut ? { how: 'first', of: null } : undefined);
  } catch (error) {
    await spool.close();
    throw error;
  }
}

/** What a record is, with its pictures by digest: what a digest of records covers. */
export function recordJson(record: EvalRecord): Json {
  return { ...record, images: record.images.map(({ sha256 }) => sha256) };
}

/** The same digest for records that were never in a file. */
export function digestRecords(records: Iterable<EvalRecord>): string {
  const hash = createHash('sha256');
  for (const record of records) hash.update(canonicalJson(recordJson(record))).update('\n');
  return hash.digest('hex');
}

/** Questions about the same pictures are no independent ones: a name for a set of pictures, whatever their order. */
export function pictureGroup(images: readonly EvalImage[]): string {
  return sha256Hex(
    images
      .map(({ sha256 }) => sha256)
      .sort()
      .join(' '),
  ).slice(0, 16);
}

type StoredRecord = Omit<EvalRecord, 'images'> & { readonly images: readonly (readonly [string, Slice | string])[] };

function stored(record: EvalRecord): StoredRecord {
  const images = record.images.map((image) => {
    if (!(image instanceof StoredImage))
      throw new Error('collectRecords: expected pictures of the reader that it hands in');
    return [image.sha256, image.place] as const;
  });
  return { ...record, images };
}

class SpooledRecords implements EvalRecords {
  constructor(
    private readonly slices: readonly Slice[],
    readonly digest: string,
    private readonly spool: Spool,
    readonly chosen: ChosenRecords | undefined,
  ) {}

  get length(): number {
    return this.slices.length;
  }

  async get(index: number): Promise<EvalRecord> {
    const slice = this.slices[index];
    if (slice === undefined) throw new RangeError(`record ${index} does not exist; there are ${this.slices.length}`);
    const { images, ...record } = JSON.parse(
      Buffer.from(await this.spool.read(slice)).toString('utf8'),
    ) as StoredRecord;
    return { ...record, images: images.map(([sha256, place]) => new StoredImage(sha256, place, this.spool)) };
  }

  async close(): Promise<void> {
    await this.spool.close();
  }
}
