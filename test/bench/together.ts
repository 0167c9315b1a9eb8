/**
 *     npm run bench -- together [--jobs 4] [--epochs 2] [--hidden 512] [--layers 8]
 *
 * Several small LoRA jobs over one base (random weights) in one process, against the same jobs each in a process of its own: time, peak memory, and whether they
 * end at the same bits. Prints one line of JSON last.
 */
import { spawnSync } from 'node:child_process';
import { mkdir, mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import { sha256File } from '../../gpu-backend/io/digest.ts';
import type { FineTuneSpec } from '../../gpu-backend/train/finetune-spec.ts';
import type { DataSpec } from '../../shared/contract/backend.ts';
import { writeTinyJob } from '../cpu/train/tiny.ts';
import { bundled } from '../fixtures/bundled.ts';
import { writeRandomNano } from '../fixtures/random-nano.ts';

const { values: flags } = parseArgs({
  options: {
    jobs: { type: 'string', default: '4' },
    epochs: { type: 'string', default: '2' },
    hidden: { type: 'string', default: '512' },
    layers: { type: 'string', default: '8' },
  },
});
const EXAMPLES = 12;
const MIB = 2 ** 20;
interface Ran {
  readonly ms: number;
  readonly peakBytes: number;
  readonly digests: readonly string[];
  readonly tokens: number;
}

const dir = await mkdtemp(join(tmpdir(), 'mantis-together-'));
const cache = join(import.meta.dirname, '../../node_modules/.cache');
await mkdir(cache, { recursive: true });
const scripts = await mkdtemp(join(cache, 'mantis-together-'));
try {
  const script = await bundled(join(import.meta.dirname, 'together/worker.ts'), scripts);
  const { trainingFile } = await writeTinyJob(join(dir, 'job'), EXAMPLES);
  const baseDir = join(dir, 'base');
  await writeRandomNano(baseDir, { hidden: Number(flags.hidden), layers: Number(flags.layers), heads: 8, kvHeads: 4 });
  const bytes = (await readFile(trainingFile)).byteLength;
  const file = { id: 'file-1', bytes, sha256: await sha256File(trainingFile) };
  const data: DataSpec = { files: [{ file_id: 'file-1', file, filename: 'train.jsonl' }], balancing: false };
  const specs = Array.from(
    { length: Number(flags.jobs) },
    (_, seed): Omit<FineTuneSpec, 'outDir' | 'workDir'> => ({
      baseDir,
      data: [{ spec: data, paths: [trainingFile] }],
      stages: [
        {
          train: 'lora',
          n_epochs: Number(flags.epochs),
          batch_size: 4,
          learning_rate_multiplier: 1,
          data: 0,
          lora: { r: 8, alpha: 16 },
        },
      ],
      leftOut: [],
      seed,
    }),
  );
  let count = 0;
  const run = async (own: typeof specs): Promise<Ran> => {
    const at = join(dir, `run-${count++}`);
    await mkdir(at);
    await writeFile(join(at, 'job.json'), JSON.stringify({ specs: own, dir: at }));
    const { stdout, stderr, status } = spawnSync(process.execPath, [script, join(at, 'job.json')], {
      encoding: 'utf8',
      env: { ...process.env, OMP_NUM_THREADS: '1' },
    });
    if (status !== 0) throw new Error(stderr);
    return JSON.parse(stdout.trim().split('\n').at(-1) ?? '') as Ran;
  };
  const alone: Ran[] = [];
  for (const spec of specs) alone.push(await run([spec]));
  const together = await run(specs);
  const sum = (values: readonly number[]): number => values.reduce((a, b) => a + b, 0);
  const aloneMs = sum(alone.map(({ ms }) => ms));
  console.log(
    JSON.stringify({
      bench: 'together',
      jobs: specs.length,
      baseMiB: Math.round((await readFile(join(baseDir, 'model.safetensors'))).byteLength / MIB),
      equalBits: JSON.stringify(alone.flatMap(({ digests }) => digests)) === JSON.stringify(together.digests),
      oneAloneMiB: Math.round((alone[0]?.peakBytes ?? 0) / MIB),
      aloneSumMiB: Math.round(sum(alone.map(({ peakBytes }) => peakBytes)) / MIB),
      togetherMiB: Math.round(together.peakBytes / MIB),
      aloneS: Number((aloneMs / 1000).toFixed(1)),
      togetherS: Number((together.ms / 1000).toFixed(1)),
      tokensPerSecondAlone: Math.round((1000 * sum(alone.map(({ tokens }) => tokens))) / aloneMs),
      tokensPerSecondTogether: Math.round((1000 * together.tokens) / together.ms),
    }),
  );
} finally {
  await rm(dir, { recursive: true, force: true });
  await rm(scripts, { recursive: true, force: true });
}
