import assert from 'node:assert/strict';
import { test } from 'node:test';
import sharp from 'sharp';
import { applyVariant } from '../../../gpu-backend/eval/controls.ts';
import { makeThumbnails } from '../../../gpu-backend/eval/report/thumbnails.ts';
import type { EvalImage, EvalRecord } from '../../../gpu-backend/eval/task.ts';
import { sha256Hex } from '../../../gpu-backend/io/digest.ts';

async function picture(width: number, height: number, orientation?: number): Promise<EvalImage> {
  const create = { width, height, channels: 3 as const, background: { r: 200, g: 10, b: 10 } };
  const made = sharp({ create }).jpeg();
  const bytes = await (orientation === undefined ? made : made.withMetadata({ orientation })).toBuffer();
  return { sha256: sha256Hex(bytes), bytes: async () => bytes };
}
const broken: EvalImage = { sha256: 'broken', bytes: async () => new Uint8Array([1, 2, 3]) };
const recordOf = (images: readonly EvalImage[]): EvalRecord => ({
  id: 'one',
  group: 'one',
  category: null,
  images,
  question: '?',
  options: [],
  answers: ['yes'],
  fields: {},
});
const task = {
  name: 'task',
  prompt: ({ images }: EvalRecord) => ({ parts: images.map((_, i) => ({ image: i })), images, maxTokens: 1 }),
};

test('a blanked picture is grey and as large as people see the picture', async () => {
  const images = [await picture(40, 24), await picture(30, 20, 6)];
  const { prompt } = await applyVariant(task, recordOf(images), { control: 'blank' });
  const sizes: number[][] = [];
  for (const image of prompt.images) {
    const bytes = await image.bytes();
    assert.equal(image.sha256, sha256Hex(bytes));
    const { data, info } = await sharp(bytes).removeAlpha().raw().toBuffer({ resolveWithObject: true });
    sizes.push([info.width, info.height]);
    assert.ok(data.every((level) => level === 128));
  }
  assert.deepEqual(sizes, [
    [40, 24],
    [20, 30],
  ]);
  const one = await applyVariant(task, recordOf(images), { control: 'leave-one-out', leftOut: 1 });
  assert.equal(one.prompt.images[0]?.sha256, images[0]?.sha256);
  assert.equal(one.prompt.images[1]?.sha256, prompt.images[1]?.sha256);
  await assert.rejects(
    applyVariant(task, recordOf(images), { control: 'leave-one-out', leftOut: 2 }),
    /picture 3 of 2 cannot be left out/,
  );
  await assert.rejects(applyVariant(task, recordOf([broken]), { control: 'blank' }), /record one: picture broken/);
});

test('thumbnails are small, made once, and left out where a picture cannot be read', async () => {
  const [large, small] = [await picture(900, 300), await picture(20, 10)];
  const records = [recordOf([large, broken]), recordOf([small, large])];
  const made = await makeThumbnails(new Set([large.sha256, small.sha256, 'broken', 'absent']), records);
  assert.deepEqual(
    [large, small].map(({ sha256 }) => [made.get(sha256)?.width, made.get(sha256)?.height]),
    [
      [224, 75],
      [20, 10],
    ],
  );
  assert.equal(made.size, 2);
  const { format } = await sharp(made.get(large.sha256)?.webp).metadata();
  assert.equal(format, 'webp');
});
