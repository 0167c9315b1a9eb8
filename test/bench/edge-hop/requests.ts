/** Two-image requests of which no two are alike: the pictures carry a comment that is written anew for each. */
import { createHash, randomBytes } from 'node:crypto';
import sharp from 'sharp';
import { encodeFrame, FRAME_TYPE } from '../../../shared/wire/frame.ts';
import { signatureHeaders } from '../../../shared/wire/signature.ts';
import { frameHead } from '../../../shared/wire/signedFrame.ts';
import { TOKEN_MS, UPSTREAM_CARD } from './card.ts';

const PICTURE_BYTES = 50_000;
/** Bytes of the comment that differ; a multiple of three, so that they are whole characters of base64. */
const MARK_BYTES = 24;

export type Prepared = { head: string; body: Buffer };

/** A JPEG of about 50 kB, and where in it (a multiple of three) the mark begins. */
async function markedJpeg(): Promise<{ bytes: Buffer; markAt: number }> {
  const width = 640;
  const height = 360;
  const noise = randomBytes(width * height * 3).map((byte) => 96 + (byte >> 2));
  let bytes: Buffer = Buffer.alloc(0);
  for (let quality = 20; quality <= 100 && bytes.length < PICTURE_BYTES * 0.97; quality += 2)
    bytes = await sharp(noise, { raw: { width, height, channels: 3 } })
      .jpeg({ quality })
      .toBuffer();
  // A comment segment right behind the start marker: FF FE, its length, then the mark, padded to whole base64 characters.
  const markAt = 6;
  const segment = Buffer.alloc(4 + MARK_BYTES + 3);
  segment.writeUInt16BE(0xfffe, 0);
  segment.writeUInt16BE(segment.length - 2, 2);
  return { bytes: Buffer.concat([bytes.subarray(0, 2), segment, bytes.subarray(2)]), markAt };
}

/** Makes requests to the door and, with the same pictures, to a backend directly. */
export class RequestMaker {
  private constructor(
    readonly picture: { bytes: Buffer; markAt: number },
    readonly template: Buffer,
    readonly marksAt: readonly number[],
    readonly apiKey: string,
    readonly secret: string,
  ) {}

  /** @param maxTokens 1 is answered at once, more come one each `tokenMs` */
  static async make(
    apiKey: string,
    secret: string,
    maxTokens: number,
    isStream: boolean,
    tokenMs: number = TOKEN_MS,
  ): Promise<RequestMaker> {
    const picture = await markedJpeg();
    const base64 = picture.bytes.toString('base64');
    const part = { type: 'image_url', image_url: { url: `data:image/jpeg;base64,${base64}` } };
    const content = [part, part, { type: 'text', text: 'What has changed from the first picture to the second?' }];
    const text = JSON.stringify({
      model: UPSTREAM_CARD.id,
      messages: [{ role: 'user', content }],
      max_tokens: maxTokens,
      temperature: 0,
      seed: tokenMs,
      stream: isStream,
    });
    const first = text.indexOf(base64);
    const marksAt = [first, text.indexOf(base64, first + 1)].map((at) => at + (picture.markAt / 3) * 4);
    return new RequestMaker(picture, Buffer.from(text), marksAt, apiKey, secret);
  }

  /** To the door. @param into a buffer of an earlier request that has been answered, to be written anew */
  edge(into: Buffer = Buffer.from(this.template)): Prepared {
    for (const at of this.marksAt) into.write(randomBytes(MARK_BYTES).toString('base64'), at, 'latin1');
    const head =
      `POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer ${this.apiKey}\r\n` +
      `content-type: application/json\r\ncontent-length: ${into.length}\r\n\r\n`;
    return { head, body: into };
  }

  /** To a backend, as the door asks it. */
  async direct(): Promise<Prepared> {
    const blobs = [0, 1].map(() => {
      const bytes = Buffer.from(this.picture.bytes);
      randomBytes(MARK_BYTES).copy(bytes, this.picture.markAt);
      return bytes;
    });
    const infos = blobs.map((bytes) => ({
      digest: `sha256:${createHash('sha256').update(bytes).digest('hex')}`,
      bytes: bytes.length,
      mime: 'image/jpeg',
    }));
    const parts = [
      { type: 'image', blob: 0 },
      { type: 'image', blob: 1 },
      { type: 'text', text: 'What has changed from the first picture to the second?' },
    ];
    const request = {
      requestId: `req_${randomBytes(12).toString('hex')}`,
      model: UPSTREAM_CARD.id,
      messages: [{ role: 'user', parts }],
      sampling: { maxTokens: 1, temperature: 0, topP: 1, stop: [] },
      deadlineMs: 60_000,
      blobs: infos,
    };
    const body = Buffer.from(encodeFrame(request, blobs));
    const target = '/v1/generate';
    const options = { secret: this.secret, method: 'POST', target, body: frameHead(body), nowS: Date.now() / 1000 };
    const signed = Object.entries(await signatureHeaders(options)).map(([name, value]) => `${name}: ${value}\r\n`);
    const head =
      `POST ${target} HTTP/1.1\r\nhost: localhost\r\n${signed.join('')}content-type: ${FRAME_TYPE}\r\n` +
      `content-length: ${body.length}\r\n\r\n`;
    return { head, body };
  }
}
