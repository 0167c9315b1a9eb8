/** Large pictures made smaller at the edge, where that is asked for, by the binding's local implementation in the real Worker. */
import assert from 'node:assert/strict';
import { createHash } from 'node:crypto';
import { after, before, describe, it } from 'node:test';
import sharp from 'sharp';
import { probe } from '../../../edge/images/probe.ts';
import { sniff } from '../../../edge/images/sniff.ts';
import { FAULT_CARD, FaultBackend } from './fault-backend.ts';
import { type Installation, startInstallation } from './installation.ts';

const { imageWidth: W, imageHeight: H } = FAULT_CARD;

/** Something like a photograph: soft shapes, and noise on them. */
function photo(width: number, height: number): sharp.Sharp {
  const pixels = Buffer.alloc(width * height * 3);
  let noise = 1;
  for (let i = 0; i < pixels.length; i++) {
    const [x, y] = [Math.floor(i / 3) % width, Math.floor(i / 3 / width)];
    noise = (noise * 1_103_515_245 + 12_345) % 2 ** 31;
    pixels[i] = 128 + 80 * Math.sin((x / width) * 7 + (i % 3)) * Math.cos((y / height) * 5) + (noise % 24);
  }
  return sharp(pixels, { raw: { width, height, channels: 3 } });
}

const pictures: Record<string, Buffer> = {};

before(async () => {
  pictures.jpeg = await photo(640, 480).jpeg({ quality: 95 }).toBuffer();
  pictures.wide = await photo(1600, 160).png().toBuffer();
  pictures.small = await photo(W * 3, H * 3)
    .jpeg()
    .toBuffer();
  pictures.turned = await photo(640, 480).withMetadata({ orientation: 6 }).jpeg().toBuffer();
  pictures.alpha = await photo(640, 480).ensureAlpha(0.5).png().toBuffer();
  pictures.profile = await photo(640, 480).withIccProfile('p3').jpeg().toBuffer();
  pictures.cmyk = await photo(640, 480).toColourspace('cmyk').jpeg().toBuffer();
  pictures.cut = pictures.jpeg.subarray(0, pictures.jpeg.byteLength / 2);
});

async function sent(door: Installation, backend: FaultBackend, ...names: string[]): Promise<Buffer[]> {
  const content = names.map((name) => {
    const bytes = pictures[name]!;
    return { type: 'image_url', image_url: { url: `data:${sniff(bytes)};base64,${bytes.toString('base64')}` } };
  });
  const { status, body } = await door.call('POST', '/v1/chat/completions', {
    model: FAULT_CARD.id,
    messages: [{ role: 'user', content }],
  });
  assert.equal(status, 200, JSON.stringify(body));
  const { request, blobs } = backend.seen.at(-1)!;
  const parts = request.messages[0]?.parts ?? [];
  return parts.map((part) => Buffer.from(blobs[part.type === 'image' ? part.blob : -1]!));
}

const sha256 = (bytes: Buffer) => createHash('sha256').update(bytes).digest('hex');
const KEPT_AS_THEY_ARE = ['small', 'turned', 'alpha', 'profile', 'cmyk', 'cut'];

for (const setting of ['off', 'on'] as const) {
  describe(`EDGE_IMAGES ${setting}`, () => {
    let door: Installation;
    let backend: FaultBackend;
    before(async () => {
      door = await startInstallation({ vars: { EDGE_IMAGES: setting } });
      backend = await FaultBackend.join(door);
    });
    after(async () => {
      await backend.close();
      await door.close();
    });

    it('leaves alone what it must not touch', async () => {
      const got = await sent(door, backend, ...KEPT_AS_THEY_ARE);
      assert.deepEqual(
        got.map(sha256),
        KEPT_AS_THEY_ARE.map((name) => sha256(pictures[name]!)),
      );
    });

    if (setting === 'off') {
      it('leaves large pictures alone', async () => {
        const got = await sent(door, backend, 'jpeg', 'wide');
        assert.deepEqual(got.map(sha256), [sha256(pictures.jpeg!), sha256(pictures.wide!)]);
      });
      return;
    }

    it('makes large pictures smaller: the same shape, twice what the model sees, the same to its eyes', async () => {
      const [jpeg, wide, again] = (await sent(door, backend, 'jpeg', 'wide', 'jpeg')) as [Buffer, Buffer, Buffer];
      assert.equal(sha256(again), sha256(jpeg));
      const { width, height, mime } = probe(jpeg, sniff(jpeg)!);
      assert.deepEqual([mime, width, height], ['image/png', Math.round((640 * 2 * H) / 480), 2 * H]);
      assert.equal(probe(wide, 'image/png').height, 2 * H);
      for (const [name, small] of [
        ['jpeg', jpeg],
        ['wide', wide],
      ] as const) {
        assert.ok(small.byteLength < pictures[name]!.byteLength);
        const seen = (bytes: Buffer) => sharp(bytes).resize(W, H, { fit: 'fill' }).raw().toBuffer();
        const [before, after] = [await seen(pictures[name]!), await seen(small)];
        const off = before.map((value, i) => Math.abs(value - after[i]!));
        const mean = off.reduce((sum, one) => sum + one, 0) / off.length;
        console.log(
          JSON.stringify({
            name,
            bytes: pictures[name]!.byteLength,
            sent: small.byteLength,
            mean,
            most: Math.max(...off),
          }),
        );
        assert.ok(mean < 1 && Math.max(...off) <= 8, `${name}: mean ${mean}, most ${Math.max(...off)}`);
      }
    });
  });
}
