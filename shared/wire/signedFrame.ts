/**
 * Frames are signed by their header, which names every blob by its digest: whoever has hashed the pictures already, as the edge has for its caches, need
 * not hash them again. Whoever receives a frame hashes each blob, so that as much is covered as by a digest of the whole.
 */
import { decodePartialFrame, FrameError, type FrameLimits } from './frame.ts';
import { bodyMatches, equalText, sha256Hex } from './signature.ts';

/** Length and header of a frame, as they are sent; null where the length is not that of a header within the bytes. */
export function frameHead(frame: Uint8Array): Uint8Array | null {
  if (frame.byteLength < 4) return null;
  const end = 4 + new DataView(frame.buffer, frame.byteOffset, frame.byteLength).getUint32(0, true);
  return end <= frame.byteLength ? frame.subarray(0, end) : null;
}

/** Whether a frame is the one that was signed, by its header and then blob by blob, or as a whole. */
export async function frameMatches(digest: string, frame: Uint8Array, limits: FrameLimits): Promise<boolean> {
  const head = frameHead(frame);
  if (head === null || !(await bodyMatches(digest, head))) return await bodyMatches(digest, frame);
  try {
    const { header, blobs } = decodePartialFrame(frame, limits);
    for (const [i, blob] of blobs.entries()) {
      if (blob !== null && !equalText(`sha256:${await sha256Hex(blob)}`, header.blobs[i]?.digest ?? '')) return false;
    }
    return true;
  } catch (error) {
    // The header is the signed one, so what follows it is not; where nothing does, it was signed as it is.
    if (error instanceof FrameError) return head.byteLength === frame.byteLength;
    throw error;
  }
}
