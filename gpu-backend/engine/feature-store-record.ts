/**
 * A picture as it is stored: what its file decodes to, by digest and size, and its features. Layout: SHA-256 of all that follows
 * (32 bytes), length of the header (u32 LE), header (JSON, padded with spaces so that features are aligned), features (f32 LE).
 */
import * as z from 'zod/mini';
import type { PictureSize } from '../models/family.ts';

/** A picture that a model has seen. */
export interface StoredPicture extends PictureSize {
  /** `digestPixels` of what the file decodes to. */
  readonly pixelDigest: string;
  /** One row after the other, as the decoder takes them. */
  readonly features: Float32Array;
}

/** Where a record is: tenants have folders of their own, so that everything of one can be deleted. */
export interface RecordId {
  readonly tenant: string;
  /** `recordName`: covers scope and file, 64 hex digits. */
  readonly name: string;
}

const DIGEST_BYTES = 32;
const MAX_HEADER_BYTES = 4096;

const Header = z.object({
  name: z.string(),
  pixelDigest: z.string().check(z.regex(/^[0-9a-f]{64}$/)),
  width: z.int().check(z.positive()),
  height: z.int().check(z.positive()),
  floats: z.int().check(z.positive()),
});

/** The record is cut short, changed, or another one than was asked for. */
export class DamagedRecordError extends Error {
  override readonly name = 'DamagedRecordError';
}

export async function encodeRecord({ name }: RecordId, picture: StoredPicture): Promise<Uint8Array<ArrayBuffer>> {
  const { pixelDigest, width, height, features } = picture;
  const header: z.infer<typeof Header> = { name, pixelDigest, width, height, floats: features.length };
  const text = JSON.stringify(header);
  const padded = new TextEncoder().encode(text.padEnd(Math.ceil(text.length / 4) * 4));
  const start = DIGEST_BYTES + 4 + padded.byteLength;
  const bytes = new Uint8Array(start + features.byteLength);
  new DataView(bytes.buffer).setUint32(DIGEST_BYTES, padded.byteLength, true);
  bytes.set(padded, DIGEST_BYTES + 4);
  bytes.set(new Uint8Array(features.buffer, features.byteOffset, features.byteLength), start);
  bytes.set(await digest(bytes.subarray(DIGEST_BYTES)), 0);
  return bytes;
}

/** @throws DamagedRecordError when a single bit of it is not as it was written, or it was written under another name */
export async function decodeRecord({ name }: RecordId, bytes: Uint8Array<ArrayBuffer>): Promise<StoredPicture> {
  const damaged = (why: string) => new DamagedRecordError(`stored picture ${name}: ${why}`);
  if (bytes.byteLength < DIGEST_BYTES + 4) throw damaged(`expected a record, received ${bytes.byteLength} bytes`);
  const told = Buffer.from(bytes.subarray(0, DIGEST_BYTES));
  if (!told.equals(await digest(bytes.subarray(DIGEST_BYTES)))) throw damaged('its digest is not that of its bytes');
  const headerBytes = new DataView(bytes.buffer, bytes.byteOffset).getUint32(DIGEST_BYTES, true);
  const start = DIGEST_BYTES + 4 + headerBytes;
  if (headerBytes > MAX_HEADER_BYTES || start > bytes.byteLength) throw damaged('its header does not fit');
  let json: unknown = null;
  try {
    json = JSON.parse(new TextDecoder().decode(bytes.subarray(DIGEST_BYTES + 4, start)));
  } catch {
    // Refused below, as any other header that is none.
  }
  const parsed = Header.safeParse(json);
  if (!parsed.success) throw damaged('its header is not one');
  const { pixelDigest, width, height, floats } = parsed.data;
  if (parsed.data.name !== name) throw damaged(`it was written as ${parsed.data.name}`);
  if (start + 4 * floats !== bytes.byteLength)
    throw damaged(`expected ${floats} floats, received ${bytes.byteLength - start} bytes`);
  // A buffer of their own, which can be handed to another thread. (`slice` of a Buffer would copy nothing.)
  const features = new Float32Array(bytes.buffer.slice(bytes.byteOffset + start, bytes.byteOffset + bytes.byteLength));
  return { pixelDigest, width, height, features };
}

/** Computed beside the event loop: features of a large model are megabytes. */
async function digest(bytes: Uint8Array): Promise<Uint8Array> {
  return new Uint8Array(await crypto.subtle.digest('SHA-256', bytes as Uint8Array<ArrayBuffer>));
}
