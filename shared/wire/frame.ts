/**
 * `application/x-mantis-frame`: a JSON header and raw blobs in one body, so that pictures cross without base64.
 * Layout: u32 little-endian byte length of the header, header as UTF-8 JSON, then the blobs back to back in the order of `header.blobs`, those left out
 * that the header marks as omitted because the receiver is believed to hold them.
 */
export const FRAME_TYPE = 'application/x-mantis-frame';

/** `digest` is `sha256:` and lower-case hex of the blob's bytes. An `omitted` blob is named and measured, not sent. */
export type BlobInfo = { digest: string; bytes: number; mime: string; omitted?: true };
export type FrameHeader<T> = T & { blobs: BlobInfo[] };
export type FrameLimits = { maxHeaderBytes: number; maxBlobs: number; maxBlobBytes: number };
type Header = { blobs: BlobInfo[] } & Record<string, unknown>;
export type Frame = { header: Header; blobs: Uint8Array[] };
/** `null` stands where a blob was omitted. */
export type PartialFrame = { header: Header; blobs: (Uint8Array | null)[] };

export class FrameError extends Error {
  override readonly name = 'FrameError';
}

/** One contiguous buffer; sizes in `header.blobs` must be those of `blobs`. What the header marks as omitted is left out. */
export function encodeFrame<T extends object>(
  header: FrameHeader<T>,
  blobs: readonly Uint8Array[],
): Uint8Array<ArrayBuffer> {
  if (header.blobs.length !== blobs.length) {
    throw new FrameError(`frame: expected ${header.blobs.length} blobs as in the header, received ${blobs.length}`);
  }
  const head = new TextEncoder().encode(JSON.stringify(header));
  let total = 4 + head.byteLength;
  blobs.forEach((blob, i) => {
    const told = header.blobs[i]?.bytes;
    if (told !== blob.byteLength)
      throw new FrameError(`frame: blob ${i}: header says ${told} bytes, blob has ${blob.byteLength}`);
    if (header.blobs[i]?.omitted !== true) total += blob.byteLength;
  });
  const out = new Uint8Array(total);
  new DataView(out.buffer).setUint32(0, head.byteLength, true);
  out.set(head, 4);
  let at = 4 + head.byteLength;
  for (const [i, blob] of blobs.entries()) {
    if (header.blobs[i]?.omitted === true) continue;
    out.set(blob, at);
    at += blob.byteLength;
  }
  return out;
}

/** As `decodePartialFrame`, of a frame that holds all its blobs. */
export function decodeFrame(bytes: Uint8Array, limits: FrameLimits): Frame {
  const { header, blobs } = decodePartialFrame(bytes, limits);
  return {
    header,
    blobs: blobs.map((blob, i) => {
      if (blob === null) throw new FrameError(`frame: blob ${i}: expected its bytes, received its digest alone`);
      return blob;
    }),
  };
}

/** The opposite of `encodeFrame`. Blobs are views into `bytes`, not copies; the header's other fields are for the caller's schema to check. */
export function decodePartialFrame(bytes: Uint8Array, limits: FrameLimits): PartialFrame {
  if (bytes.byteLength < 4) throw new FrameError(`frame: expected at least 4 bytes, received ${bytes.byteLength}`);
  const headBytes = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength).getUint32(0, true);
  if (headBytes > limits.maxHeaderBytes || 4 + headBytes > bytes.byteLength) {
    throw new FrameError(
      `frame: header of ${headBytes} bytes in a body of ${bytes.byteLength}, limit ${limits.maxHeaderBytes}`,
    );
  }
  const header = parseHeader(bytes.subarray(4, 4 + headBytes));
  if (header.blobs.length > limits.maxBlobs) {
    throw new FrameError(`frame: expected at most ${limits.maxBlobs} blobs, received ${header.blobs.length}`);
  }
  let at = 4 + headBytes;
  const blobs = header.blobs.map((info, i) => {
    if (info.bytes > limits.maxBlobBytes)
      throw new FrameError(`frame: blob ${i}: ${info.bytes} bytes, limit ${limits.maxBlobBytes}`);
    if (info.omitted === true) return null;
    if (at + info.bytes > bytes.byteLength)
      throw new FrameError(`frame: blob ${i}: body ends after ${bytes.byteLength - at} of ${info.bytes} bytes`);
    const blob = bytes.subarray(at, at + info.bytes);
    at += info.bytes;
    return blob;
  });
  if (at !== bytes.byteLength) throw new FrameError(`frame: ${bytes.byteLength - at} bytes after the last blob`);
  return { header, blobs };
}

function parseHeader(bytes: Uint8Array): Header {
  let value: unknown;
  try {
    value = JSON.parse(new TextDecoder('utf-8', { fatal: true, ignoreBOM: false }).decode(bytes));
  } catch {
    throw new FrameError('frame: expected a JSON header');
  }
  if (typeof value !== 'object' || value === null || !('blobs' in value) || !Array.isArray(value.blobs)) {
    throw new FrameError('frame: expected a header object with `blobs: [{digest, bytes, mime}]`');
  }
  for (const [i, blob] of value.blobs.entries()) {
    const info = blob as Partial<BlobInfo> | null;
    const whole = typeof info?.bytes === 'number' && Number.isSafeInteger(info.bytes) && info.bytes >= 0;
    const sent = info?.omitted === undefined || info.omitted === true;
    if (!whole || !sent || typeof info?.digest !== 'string' || typeof info.mime !== 'string') {
      throw new FrameError(
        `frame: blobs[${i}]: expected {digest: string, bytes: integer, mime: string, omitted?: true}`,
      );
    }
  }
  return value as Header;
}
