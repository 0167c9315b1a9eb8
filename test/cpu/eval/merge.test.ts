/** Pictures merged by the paper's rule, against the rule written once more, and against Pillow where there is one. */
import assert from 'node:assert/strict';
import { execFileSync, spawnSync } from 'node:child_process';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, describe, it } from 'node:test';
import sharp from 'sharp';
import { mergedImage, mergePictures } from '../../../gpu-backend/eval/run/merge.ts';
import { formJson, formPrompt, PAPER_DEMONSTRATION } from '../../../gpu-backend/eval/run/prompt-form.ts';
import type { EvalImage, EvalPrompt } from '../../../gpu-backend/eval/task.ts';
import { sha256Hex } from '../../../gpu-backend/io/digest.ts';
import type { RgbImage } from '../../../gpu-backend/vision/resample.ts';
import { referenceResize } from '../../null/vision/resample-reference.ts';

function noise(width: number, height: number, seed: number, channels: 1 | 3 | 4 = 3): Uint8Array {
  let state = seed;
  return Uint8Array.from({ length: width * height * channels }, () => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return state >>> 24;
  });
}

const rgb = (width: number, height: number, seed: number): RgbImage => ({
  width,
  height,
  pixels_HWC: noise(width, height, seed),
});

/** Pixel by pixel: which picture or divider a column belongs to, and what stands there. */
function byTheRule(pictures: readonly RgbImage[]): RgbImage {
  if (pictures.length === 1) return pictures[0]!;
  let sum = 0;
  for (const { height } of pictures) sum += height;
  const height = (sum - (sum % pictures.length)) / pictures.length;
  const columns: ((y: number, channel: number) => number)[] = [];
  for (const [i, picture] of pictures.entries()) {
    if (i > 0) for (const level of [0, 255, 255, 255, 255, 255, 255, 255, 255, 0]) columns.push(() => level);
    const width = Math.floor((picture.width * height) / picture.height);
    const scaled = referenceResize(picture, width, height, 'bicubic');
    for (let x = 0; x < width; x++) columns.push((y, channel) => scaled.pixels_HWC[(y * width + x) * 3 + channel]!);
  }
  const pixels: number[] = [];
  for (let y = 0; y < height; y++)
    for (const column of columns) for (let channel = 0; channel < 3; channel++) pixels.push(column(y, channel));
  return { width: columns.length, height, pixels_HWC: Uint8Array.from(pixels) };
}

const cases: [string, RgbImage[]][] = [
  ['one', [rgb(13, 7, 1)]],
  ['two alike', [rgb(16, 16, 2), rgb(16, 16, 3)]],
  ['odd sizes', [rgb(33, 17, 4), rgb(7, 40, 5), rgb(101, 9, 6)]],
  ['an average that is rounded down', [rgb(10, 10, 7), rgb(10, 11, 8)]],
  ['five', [21, 34, 55, 13, 8].map((side, i) => rgb(side, side + i, 9 + i))],
];

const python = process.env.MANTIS_TEST_PYTHON ?? 'python3';
const hasPillow = spawnSync(python, ['-c', 'import PIL']).status === 0;

/** Pillow's own words for the rule. Prints width, height and the digest of the pixels. */
const PILLOW = `
import sys, hashlib
from PIL import Image
ims = [Image.open(p).convert('RGB') for p in sys.argv[1:]]
h = sum(i.size[1] for i in ims) // len(ims)
ims = [i.resize((int(i.size[0] * h / i.size[1]), h)) for i in ims]
divider = Image.new('RGB', (10, h), (255, 255, 255))
divider.paste((0, 0, 0), (0, 0, 1, h)); divider.paste((0, 0, 0), (9, 0, 10, h))
out = Image.new('RGB', (sum(i.size[0] for i in ims) + 10 * (len(ims) - 1), h))
x = 0
for n, i in enumerate(ims):
    if n: out.paste(divider, (x, 0)); x += 10
    out.paste(i, (x, 0)); x += i.size[0]
print(out.size[0], out.size[1], hashlib.sha256(out.tobytes()).hexdigest())
`;

describe('pictures merged into one', () => {
  for (const [name, pictures] of cases)
    it(`${name}: every pixel as the rule says`, () => {
      const merged = mergePictures(pictures);
      const expected = byTheRule(pictures);
      assert.deepEqual([merged.width, merged.height], [expected.width, expected.height]);
      assert.ok(Buffer.from(merged.pixels_HWC).equals(Buffer.from(expected.pixels_HWC)));
    });

  it('keeps a sliver that scales to no width', () => {
    const { width } = mergePictures([rgb(1, 90, 1), rgb(20, 10, 2)]);
    assert.equal(width, 1 + 10 + 100);
    assert.throws(() => mergePictures([]), /at least one picture/);
  });

  describe('from files', () => {
    let dir: string;
    let files: string[];
    let images: EvalImage[];
    before(async () => {
      dir = mkdtempSync(join(tmpdir(), 'mantis-merge-'));
      const raw = (width: number, height: number, seed: number, channels: 1 | 3 | 4) =>
        sharp(noise(width, height, seed, channels), { raw: { width, height, channels } });
      const encoded = [
        // Transparency, grey, and a picture that EXIF says to turn: the paper looked at none of it.
        await raw(31, 23, 1, 4).png().toBuffer(),
        await raw(18, 29, 2, 1).toColourspace('b-w').png().toBuffer(),
        await raw(40, 20, 3, 3).withMetadata({ orientation: 6 }).png().toBuffer(),
        await raw(27, 27, 4, 3).webp({ lossless: true }).toBuffer(),
      ];
      files = encoded.map((bytes, i) => {
        const file = join(dir, `${i}.${i === 3 ? 'webp' : 'png'}`);
        writeFileSync(file, bytes);
        return file;
      });
      images = encoded.map((bytes) => ({ sha256: sha256Hex(bytes), bytes: async () => bytes }));
    });
    after(() => rmSync(dir, { recursive: true, force: true }));

    async function pixelsOf(image: EvalImage): Promise<RgbImage> {
      const { data, info } = await sharp(await image.bytes())
        .raw()
        .toBuffer({ resolveWithObject: true });
      return { width: info.width, height: info.height, pixels_HWC: data };
    }

    it('reads stored pixels: no turning, no background under transparency, grey three times', async () => {
      const stored: RgbImage[] = [
        { width: 31, height: 23, pixels_HWC: noise(31, 23, 1, 4).filter((_, i) => i % 4 !== 3) },
        {
          width: 18,
          height: 29,
          pixels_HWC: noise(18, 29, 2, 1).reduce(tripled(18 * 29), new Uint8Array(18 * 29 * 3)),
        },
        rgb(40, 20, 3),
        rgb(27, 27, 4),
      ];
      const merged = await pixelsOf(mergedImage(images));
      const expected = byTheRule(stored);
      assert.deepEqual([merged.width, merged.height], [expected.width, expected.height]);
      assert.ok(Buffer.from(merged.pixels_HWC).equals(Buffer.from(expected.pixels_HWC)));
    });

    it('equals Pillow', {
      skip: hasPillow ? false : `${python} has no Pillow (set MANTIS_TEST_PYTHON to one that has)`,
    }, async () => {
      const merged = await pixelsOf(mergedImage(images));
      const told = execFileSync(python, ['-c', PILLOW, ...files], { encoding: 'utf8' }).trim();
      assert.equal(`${merged.width} ${merged.height} ${sha256Hex(merged.pixels_HWC)}`, told);
    });

    it('is named by the pictures and their order, without reading them', () => {
      const [a, b] = images as [EvalImage, EvalImage];
      const unread = (image: EvalImage): EvalImage => ({ sha256: image.sha256, bytes: () => assert.fail('was read') });
      assert.equal(mergedImage([unread(a), unread(b)]).sha256, mergedImage([a, b]).sha256);
      assert.notEqual(mergedImage([a, b]).sha256, mergedImage([b, a]).sha256);
    });

    it('stands before the text, which has no placeholders', () => {
      const prompt: EvalPrompt = { parts: ['one', { image: 1 }, 'two', { image: 0 }, 'three'], images, maxTokens: 5 };
      const { parts, images: shown } = formPrompt(prompt, { mode: 'merge' });
      assert.deepEqual(parts, [{ image: 0 }, 'one\ntwo\nthree']);
      // In reading order.
      assert.deepEqual(
        shown.map(({ sha256 }) => sha256),
        [mergedImage([images[1]!, images[0]!]).sha256],
      );
      assert.deepEqual(formPrompt({ ...prompt, parts: ['no picture'] }, { mode: 'merge' }).parts, ['no picture']);
      assert.deepEqual(formPrompt({ ...prompt, parts: [{ image: 2 }, 'x'] }, { mode: 'merge' }).images, [images[2]]);
    });

    it('leaves a sequence as it is, but for a system message and a solved question in front', () => {
      const prompt: EvalPrompt = { parts: [{ image: 1 }, 'x'], images, maxTokens: 5, choices: ['A', 'B'] };
      assert.deepEqual(formPrompt(prompt, { mode: 'sequence' }), {
        ...prompt,
        parts: [{ image: 0 }, 'x'],
        images: [images[1]],
      });
      const form = {
        mode: 'sequence',
        system: 's',
        oneShot: { image: images[0]!, text: PAPER_DEMONSTRATION },
      } as const;
      const formed = formPrompt(prompt, form);
      assert.deepEqual(formed.parts, [{ image: 0 }, PAPER_DEMONSTRATION, { image: 1 }, 'x']);
      assert.deepEqual([formed.system, formed.images], ['s', [images[0], images[1]]]);
      assert.equal(formPrompt({ ...prompt, system: 'own' }, form).system, 'own');
      assert.deepEqual(formJson({ mode: 'sequence' }), {});
      assert.deepEqual(formJson(form), {
        form: { system: 's', oneShot: { image: images[0]!.sha256, text: PAPER_DEMONSTRATION } },
      });
    });
  });
});

/** Puts each grey value into three places. */
function tripled(count: number) {
  return (into: Uint8Array, grey: number, i: number): Uint8Array => {
    assert.ok(i < count);
    return into.fill(grey, 3 * i, 3 * i + 3);
  };
}
