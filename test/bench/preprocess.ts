/**
 * Nine photographs of 1920x1080, about 300 kB each, from the body of a backend's request to the tensors of four models, through the
 * decode processes that serve; beside it a plain loop that decodes and resizes one after the other with sharp.
 *
 *     npm run bench -- preprocess [--rounds 15] [--processes 2]
 *     npm run bench -- preprocess --memory        what decoding takes at its height, by kind of picture
 */
import { readFileSync } from 'node:fs';
import { parseArgs } from 'node:util';
import sharp from 'sharp';
import { estimateDecodeBytes } from '../../gpu-backend/vision/header.ts';
import { DecodePool } from '../../gpu-backend/vision/pool.ts';
import {
  clipRecipe,
  fuyuRecipe,
  type ImageRecipe,
  nanoRecipe,
  siglipRecipe,
} from '../../gpu-backend/vision/recipes.ts';
import { LIMITS } from '../../shared/contract/limits.ts';
import { decodeFrame, encodeFrame } from '../../shared/wire/frame.ts';
import { sha256Hex } from '../../shared/wire/signature.ts';
import { Random } from '../fixtures/pictures/random.ts';

const { values: options } = parseArgs({
  options: {
    rounds: { type: 'string', default: '15' },
    processes: { type: 'string', default: '2' },
    memory: { type: 'boolean', default: false },
  },
});

const PICTURES = 9;
const WIDTH = 1920;
const HEIGHT = 1080;
const BAR_MS = 250;

const MODELS: readonly (readonly [string, ImageRecipe, { width: number; height: number }])[] = [
  ['mantis-nano, 32x32', nanoRecipe(32), { width: 32, height: 32 }],
  ['SigLIP, 384x384', siglipRecipe(384), { width: 384, height: 384 }],
  ['CLIP, 336x336', clipRecipe(336), { width: 336, height: 336 }],
  ['Fuyu, 1290x720', fuyuRecipe(1290, 720), { width: 1280, height: 720 }],
];

/** Soft shapes and a grain, which compresses as photographs do. */
async function photograph(seed: number, width = WIDTH, height = HEIGHT): Promise<sharp.Sharp> {
  const random = new Random(seed);
  const coarse = random.bytes(32 * 18 * 3);
  const grain = random.bytes(480 * 270 * 3);
  const raw = (width: number, height: number) => ({ raw: { width, height, channels: 3 as const } });
  const soft = await sharp(coarse, raw(32, 18))
    .resize(width, height, { fit: 'fill', kernel: 'cubic' })
    .raw()
    .toBuffer();
  const rough = await sharp(grain, raw(480, 270))
    .blur(0.8)
    .resize(width, height, { fit: 'fill', kernel: 'cubic' })
    .raw()
    .toBuffer();
  for (let i = 0; i < soft.length; i++) soft[i] = Math.max(0, Math.min(255, soft[i]! * 0.7 + rough[i]! * 0.4 - 20));
  return sharp(soft, raw(width, height));
}

const median = (values: readonly number[]): number => values.toSorted((a, b) => a - b)[values.length >> 1] ?? 0;
const round = (value: number): number => Math.round(value * 10) / 10;

/** Peak of resident memory of a process since its start, bytes. */
function peakBytes(pid: number | 'self'): number {
  const line = /VmHWM:\s+(\d+)/.exec(readFileSync(`/proc/${pid}/status`, 'utf8'));
  return Number(line?.[1] ?? 0) * 1024;
}

async function bodyOf(pictures: readonly Uint8Array[]): Promise<Uint8Array> {
  const blobs = await Promise.all(
    pictures.map(async (bytes) => ({
      digest: `sha256:${await sha256Hex(bytes)}`,
      bytes: bytes.byteLength,
      mime: 'image/jpeg',
    })),
  );
  return encodeFrame({ blobs }, pictures);
}

/** As `POST /v1/generate` does it: frame, then all pictures at once. */
async function preprocessBody(body: Uint8Array, pool: DecodePool, recipe: ImageRecipe): Promise<number> {
  const { blobs } = decodeFrame(body, {
    maxHeaderBytes: LIMITS.backends.maxFrameHeaderBytes,
    maxBlobs: LIMITS.backends.maxFrameBlobs,
    maxBlobBytes: LIMITS.images.maxBytes,
  });
  const images = await Promise.all(blobs.map((bytes) => pool.preprocess(bytes, recipe)));
  return images.reduce((sum, { pixels_CHW }) => sum + pixels_CHW.length, 0);
}

/** The loop one writes first. Its resampling is libvips' own, so its pixels are not those that the models were trained on. */
async function plainLoop(pictures: readonly Uint8Array[], { width, height }: { width: number; height: number }) {
  for (const bytes of pictures)
    await sharp(bytes).resize(width, height, { fit: 'fill', kernel: 'cubic' }).removeAlpha().raw().toBuffer();
}

async function times(rounds: number, run: () => Promise<unknown>): Promise<number[]> {
  const taken: number[] = [];
  for (let i = 0; i < rounds + 2; i++) {
    const start = performance.now();
    await run();
    if (i >= 2) taken.push(performance.now() - start);
  }
  return taken;
}

async function measureSpeed(): Promise<void> {
  const rounds = Number(options.rounds);
  const processes = Number(options.processes);
  const pictures: Uint8Array[] = [];
  for (let i = 0; i < PICTURES; i++) pictures.push(await (await photograph(i)).jpeg({ quality: 74 }).toBuffer());
  const kilobytes = pictures.reduce((sum, { length }) => sum + length, 0) / PICTURES / 1000;
  console.log(
    `${PICTURES} JPEGs of ${WIDTH}x${HEIGHT}, ${kilobytes.toFixed(0)} kB each; ${processes} processes; medians of ${rounds} rounds`,
  );
  const body = await bodyOf(pictures);
  const pool = new DecodePool({ processes });
  pool.warm();
  const results = [];
  // Both kinds of rounds take turns with the machine's moods.
  for (const [model, recipe, size] of MODELS) {
    const ours = await times(rounds, () => preprocessBody(body, pool, recipe));
    const plain = await times(Math.min(rounds, 7), () => plainLoop(pictures, size));
    const row = {
      model,
      ms: round(median(ours)),
      slowestMs: round(Math.max(...ours)),
      plainLoopMs: round(median(plain)),
      isWithinBar: median(ours) <= BAR_MS,
    };
    results.push(row);
    console.log(
      `${model.padEnd(22)}${row.ms} ms (slowest ${row.slowestMs}), sequential sharp loop ${row.plainLoopMs} ms, bar ${BAR_MS} ms`,
    );
  }
  const decodersMib = round(pool.residentBytes() / 2 ** 20);
  await pool.close();
  const parentPeakMib = round(peakBytes('self') / 2 ** 20);
  console.log(
    `decoders hold ${decodersMib} MiB together; this process (with the plain loop) ${parentPeakMib} MiB at its height`,
  );
  console.log(
    JSON.stringify({
      bench: 'preprocess',
      pictures: PICTURES,
      kilobytes: round(kilobytes),
      processes,
      barMs: BAR_MS,
      results,
      decodersMib,
      parentPeakMib,
    }),
  );
}

/** Peak of a decoder above what it holds when idle, for each kind, beside the estimate by which pictures are admitted. */
async function measureMemory(): Promise<void> {
  const side = 4_000;
  const photo = await photograph(1, side, side);
  const small = await photograph(1, 1_500, 1_500);
  const flat = (await photograph(1, side, side)).toColourspace('rgb16');
  const kinds: [string, Uint8Array][] = [
    ['JPEG', await photo.clone().jpeg({ quality: 80 }).toBuffer()],
    ['JPEG, progressive', await photo.clone().jpeg({ quality: 80, progressive: true }).toBuffer()],
    [
      'JPEG, progressive 4:4:4',
      await photo.clone().jpeg({ quality: 80, progressive: true, chromaSubsampling: '4:4:4' }).toBuffer(),
    ],
    ['JPEG, to be turned', await photo.clone().withMetadata({ orientation: 6 }).jpeg({ quality: 80 }).toBuffer()],
    ['JPEG, CMYK with profile', await photo.clone().withIccProfile('cmyk').jpeg({ quality: 80 }).toBuffer()],
    ['JPEG, Display P3', await photo.clone().withIccProfile('p3').jpeg({ quality: 80 }).toBuffer()],
    ['PNG', await small.clone().png({ compressionLevel: 1 }).toBuffer()],
    ['PNG, interlaced', await small.clone().png({ compressionLevel: 1, progressive: true }).toBuffer()],
    ['PNG, RGBA', await small.clone().ensureAlpha(0.5).png({ compressionLevel: 1 }).toBuffer()],
    ['PNG, 16 bits', await flat.resize(1_000).png({ compressionLevel: 1 }).toBuffer()],
    ['WebP', await photo.clone().webp({ quality: 80, effort: 0 }).toBuffer()],
    ['WebP, lossless', await small.clone().webp({ lossless: true, effort: 0 }).toBuffer()],
    ['GIF', await small.clone().gif({ effort: 1 }).toBuffer()],
    ['AVIF', await small.clone().avif({ quality: 60, effort: 0 }).toBuffer()],
  ];
  const results = [];
  for (const [kind, bytes] of kinds) {
    const pool = new DecodePool({ processes: 1, timeoutMs: 60_000, budgetBytes: 2 ** 32, maxRssBytes: 2 ** 32 });
    pool.warm();
    // A little one first, so that what stays of any picture is in the base.
    await pool.preprocess(
      await sharp({ create: { width: 8, height: 8, channels: 3, background: '#123' } })
        .png()
        .toBuffer(),
      siglipRecipe(384),
    );
    const [pid] = pool.processIds();
    const base = pool.residentBytes();
    const start = performance.now();
    await pool.preprocess(bytes, siglipRecipe(384));
    const ms = performance.now() - start;
    const peak = peakBytes(pid!) - base;
    await pool.close();
    const { width, height } = await sharp(bytes).metadata();
    const estimate = estimateDecodeBytes(bytes);
    const row = {
      kind,
      megapixels: round((width * height) / 1e6),
      fileMb: round(bytes.length / 1e6),
      ms: round(ms),
      peakMib: round(peak / 2 ** 20),
      estimateMib: round(estimate / 2 ** 20),
      bytesPerPixel: round(peak / (width * height)),
    };
    results.push(row);
    console.log(
      `${kind.padEnd(26)}${row.megapixels} Mpx, ${row.fileMb} MB: ${row.ms} ms, ${row.peakMib} MiB (${row.bytesPerPixel} B a pixel), estimate ${row.estimateMib} MiB${estimate < peak ? '  TOO LOW' : ''}`,
    );
  }
  console.log(JSON.stringify({ bench: 'preprocess', memory: results }));
}

await (options.memory ? measureMemory() : measureSpeed());
