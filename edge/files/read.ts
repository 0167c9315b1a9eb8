/**
 * Large objects, read a part at a time when it is asked for. One read of everything would be simpler, but the store's stand-in on one's own machine reads
 * ahead of whoever reads slowly: 512 MB were all in memory.
 */
import { LIMITS } from '../../shared/contract/limits.ts';

const { partBytes } = LIMITS.files;
/** Up to this size one read is made. */
const WHOLE_BYTES = 2 * partBytes;

/** Bytes of an object, a part after the other. @throws Error where the object, or an end of it, is not there (any more) */
export async function* objectParts(
  blobs: R2Bucket,
  key: string,
  range: { offset: number; length: number },
): AsyncGenerator<Uint8Array, void, undefined> {
  const end = range.offset + range.length;
  for (let offset = range.offset; offset < end; offset += partBytes) {
    const length = Math.min(partBytes, end - offset);
    const object = await blobs.get(key, { range: { offset, length } });
    if (object === null) throw new Error(`object ${key} is gone`);
    const bytes = new Uint8Array(await object.arrayBuffer());
    if (bytes.byteLength !== length)
      throw new Error(`object ${key}: asked for ${length} bytes, got ${bytes.byteLength}`);
    yield bytes;
  }
}

/** The same as the body of an answer; null where there is no such object. Where it breaks, the answer does: it is shorter than it said. */
export async function objectBody(
  blobs: R2Bucket,
  key: string,
  range: { offset: number; length: number },
): Promise<ReadableStream | null> {
  if (range.length <= WHOLE_BYTES) return (await blobs.get(key, { range }))?.body ?? null;
  if ((await blobs.head(key)) === null) return null;
  const { readable, writable } = new FixedLengthStream(range.length);
  void (async () => {
    const writer = writable.getWriter();
    try {
      for await (const part of objectParts(blobs, key, range)) await writer.write(part);
      await writer.close();
    } catch (error) {
      // The reader has left, or the object.
      await writer.abort(error).catch(() => {});
    }
  })();
  return readable;
}
