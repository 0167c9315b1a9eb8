/** Validation holds a few bytes of an example and of a picture: a file of any size takes less than 300 MiB. */
import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { once } from 'node:events';
import { createWriteStream, existsSync } from 'node:fs';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { finished } from 'node:stream/promises';
import test from 'node:test';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import sharp from 'sharp';
import { chatLine } from './poisoned.ts';

const CHILD = fileURLToPath(new URL('./validate-child.ts', import.meta.url));
const IS_LONG = process.env.MANTIS_LONG_TESTS === '1';
const BYTES = IS_LONG ? 2 * 2 ** 30 : 48 * 2 ** 20;
const MAX_MIB = 300;

/** A photo of noise, different in each file by a comment segment of its own. */
function numbered(jpeg: Buffer, n: number): string {
  const text = Buffer.from(`number ${n}`);
  const segment = Buffer.alloc(4);
  segment.writeUInt16BE(0xfffe, 0);
  segment.writeUInt16BE(text.length + 2, 2);
  const bytes = Buffer.concat([jpeg.subarray(0, 2), segment, text, jpeg.subarray(2)]);
  return `data:image/jpeg;base64,${bytes.toString('base64')}`;
}

/** Pictures that are all different files, and between them short texts. */
async function writeLarge(path: string): Promise<{ examples: number; pictures: number }> {
  const photos = await Promise.all(
    Array.from({ length: 16 }, (_, i) =>
      sharp({
        create: {
          width: 480 + i,
          height: 360,
          channels: 3,
          background: '#808080',
          noise: { type: 'gaussian', mean: 128, sigma: 60 },
        },
      })
        .jpeg({ quality: 80 })
        .toBuffer(),
    ),
  );
  const out = createWriteStream(path);
  let [bytes, examples, pictures] = [0, 0, 0];
  while (bytes < BYTES) {
    const photo = photos[pictures % photos.length];
    assert.ok(photo !== undefined);
    const lines = [chatLine([numbered(photo, pictures++)], `what is noisy in ${pictures}`, 'all of it')];
    for (let i = 0; i < 20; i++)
      lines.push(chatLine([], `is ${examples + i} times ${i} large or is it not`, `it is ${i}`));
    examples += lines.length;
    const text = `${lines.join('\n')}\n`;
    bytes += text.length;
    if (!out.write(text)) await once(out, 'drain');
  }
  out.end();
  await finished(out);
  return { examples, pictures };
}

test(`a file of ${BYTES / 2 ** 20} MiB is validated within ${MAX_MIB} MiB`, {
  skip: existsSync('/proc/self/status') ? false : 'no /proc to read a peak from',
  timeout: 3_600_000,
}, async (t) => {
  const dir = await mkdtemp(join(tmpdir(), 'mantis-validate-memory-'));
  t.after(() => rm(dir, { recursive: true, force: true }));
  const path = join(dir, 'large.jsonl');
  const { examples, pictures } = await writeLarge(path);
  const began = performance.now();
  const { stdout } = await promisify(execFile)(process.execPath, [
    '--import',
    import.meta.resolve('tsx'),
    CHILD,
    path,
    dir,
  ]);
  const { peakMiB, training } = JSON.parse(stdout) as {
    peakMiB: number;
    training: { examples: number; usable: number; images: number }[];
  };
  t.diagnostic(
    `${examples} examples, ${pictures} pictures: ${Math.round(peakMiB)} MiB, ${Math.round((performance.now() - began) / 1000)} s`,
  );
  assert.deepEqual([training[0]?.examples, training[0]?.usable, training[0]?.images], [examples, examples, pictures]);
  assert.ok(peakMiB < MAX_MIB, `expected less than ${MAX_MIB} MiB, took ${peakMiB}`);
});
