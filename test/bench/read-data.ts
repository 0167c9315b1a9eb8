/**
 * Training data read into a store, by container: rate, and peak memory of a process that does nothing else. Files of pictures as large as photographs are, made
 * here. `--mb 2000` is the published bar: within 300 MiB.
 *
 *     npm run bench -- read-data --mb 300
 */
import { execFile } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { mkdtemp, open, rm, stat } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { parseArgs, promisify } from 'node:util';
import * as z from 'zod/mini';
import { MantisParquet } from '../../gpu-backend/train/data/export-parquet.ts';

const { values } = parseArgs({
  options: { mb: { type: 'string', default: '300' }, 'picture-kb': { type: 'string', default: '180' } },
});
const bytes = Number(values.mb) * 1e6;
const noise = randomBytes(Number(values['picture-kb']) * 1000);
/** Pictures of an example; Mantis-Instruct has 4.7 on average. */
const PICTURES = 4;

const Result = z.object({
  records: z.int(),
  usable: z.int(),
  codes: z.record(z.string(), z.int()),
  idleMib: z.int(),
  peakMib: z.int(),
  ms: z.int(),
});

function picture(i: number): Buffer {
  return Buffer.concat([Buffer.from(`\x89PNG\r\n\x1a\n${i}`, 'latin1'), noise]);
}

const question = 'Which of the pictures shows what the others do not, and how can it be told?';
const answer = 'The third one: its horizon stands higher, and the light comes from the left.';

function openAiLine(i: number): string {
  const url = (k: number) => `data:image/png;base64,${picture(PICTURES * i + k).toString('base64')}`;
  const images = Array.from({ length: PICTURES }, (_, k) => ({ type: 'image_url', image_url: { url: url(k) } }));
  return JSON.stringify({
    messages: [
      { role: 'user', content: [...images, { type: 'text', text: question }] },
      { role: 'assistant', content: answer },
    ],
  });
}

async function writeText(path: string, before: string, between: string, end: string): Promise<void> {
  const file = await open(path, 'w');
  let written = 0;
  for (let i = 0; written < bytes; i++) {
    const text = `${i === 0 ? before : between}${openAiLine(i)}`;
    await file.writeFile(text);
    written += text.length;
  }
  await file.writeFile(end);
  await file.close();
}

async function writeParquet(path: string): Promise<void> {
  const parquet = new MantisParquet(path);
  for (let i = 0; i * PICTURES * noise.length < bytes; i++)
    await parquet.add({
      id: String(i),
      skill: 'comparison',
      images: Array.from({ length: PICTURES }, (_, k) => ({ bytes: picture(PICTURES * i + k), path: `${i}-${k}.png` })),
      conversation: [
        { role: 'user', content: `${'<image>'.repeat(PICTURES)}${question}` },
        { role: 'assistant', content: answer },
      ],
    });
  await parquet.finish();
}

const kinds: Readonly<Record<string, (path: string) => Promise<void>>> = {
  'lesson.jsonl': (path) => writeText(path, '', '\n', '\n'),
  'lesson.json': (path) => writeText(path, '[\n', ',\n', '\n]\n'),
  'lesson.parquet': writeParquet,
};

const script = fileURLToPath(new URL('../cpu/train-data/import-rss.mts', import.meta.url));
const folder = await mkdtemp(join(tmpdir(), 'read-data-'));
const rows: Record<string, unknown>[] = [];
try {
  for (const [name, write] of Object.entries(kinds)) {
    const path = join(folder, name);
    await write(path);
    const { size } = await stat(path);
    const { stdout } = await promisify(execFile)(process.execPath, [
      '--import',
      'tsx',
      script,
      path,
      join(folder, 'store'),
    ]);
    const { records, usable, codes, idleMib, peakMib, ms } = Result.parse(
      JSON.parse(stdout.trim().split('\n').at(-1) ?? ''),
    );
    if (usable !== records) throw new Error(`${name}: ${usable} of ${records} are usable: ${JSON.stringify(codes)}`);
    const mbPerS = Math.round(size / 1e3 / ms);
    rows.push({
      container: name.split('.')[1],
      mb: Math.round(size / 1e6),
      examples: records,
      mbPerS,
      peakMib,
      idleMib,
    });
    console.log(
      `${name.padEnd(16)} ${(size / 1e6).toFixed(0).padStart(6)} MB  ${records} examples  ${mbPerS} MB/s  peak ${peakMib} MiB (${idleMib} before)`,
    );
    await rm(path);
    await rm(join(folder, 'store'), { recursive: true, force: true });
  }
} finally {
  await rm(folder, { recursive: true, force: true });
}
console.log(
  JSON.stringify({ bench: 'read-data', pictureKb: Number(values['picture-kb']), picturesPerExample: PICTURES, rows }),
);
