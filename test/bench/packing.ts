/**
 * Packed rows against padded ones on the 100 real conversations of the Mantis authors, and whether a model learns them by heart:
 *
 *     npm run bench -- packing [--rounds 3] [--epochs 20] [--examples 40] [--tokens 1500,6000] [--data ../shared/data/mantis-chat] [--threads 1]
 *
 * The model is of Mantis's architecture with random weights and 1.5 M parameters; its tokenizer is trained on the conversations. The
 * same steps run in fresh processes, in turns, three ways:
 *
 * - `packed`: rows of examples without padding, up to the micro-batch's tokens;
 * - `byLength`: neighbours in length are padded together, up to the same tokens (this engine without packing);
 * - `padded`: all examples of a step are one padded batch, as trainers without packing make them.
 *
 * Once with whole conversations (about equally long), once question by question (unequal), on the first of them; by heart all are
 * learned. Losses of the three must agree. About 15 minutes on an idle core. The last line is JSON.
 */
import { spawn } from 'node:child_process';
import { existsSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { cpus, tmpdir } from 'node:os';
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import type { FineTuneSpec } from '../../gpu-backend/train/finetune-spec.ts';
import type { Stage } from '../../shared/contract/training.ts';
import { type PackingData, writePackingFiles } from './packing/data.ts';
import type { PackingRun } from './packing/run.ts';

const { values } = parseArgs({
  options: {
    rounds: { type: 'string', default: '3' },
    epochs: { type: 'string', default: '20' },
    examples: { type: 'string', default: '40' },
    tokens: { type: 'string', default: '1500,6000' },
    threads: { type: 'string', default: '1' },
    data: { type: 'string', default: join(import.meta.dirname, '../../../shared/data/mantis-chat') },
  },
});
const SEED = 11;
const WAYS = ['packed', 'byLength', 'padded'] as const;
type Way = (typeof WAYS)[number];
/** Examples of a step. */
const BATCH: Readonly<Record<PackingData, number>> = { whole: 8, questions: 32 };
const LEARNING_RATE = 2e-3;

if (Number(values.examples) <= BATCH.whole)
  throw new Error(
    `--examples ${values.examples}: expected more than ${BATCH.whole}, since the first step is not timed`,
  );

const median = (xs: readonly number[]): number => [...xs].sort((a, b) => a - b)[xs.length >> 1] ?? Number.NaN;
const round = (x: number, digits: number): number => Number(x.toFixed(digits));

if (!existsSync(join(values.data, 'train.json'))) {
  console.error(`there is no ${join(values.data, 'train.json')}; --data names the folder of the conversations`);
  console.log(JSON.stringify({ skipped: 'no conversations' }));
  process.exit(0);
}
const scratch = mkdtempSync(join(tmpdir(), 'mantis-packing-'));
process.on('exit', () => rmSync(scratch, { recursive: true, force: true }));
const files = await writePackingFiles(values.data, scratch);
console.log(
  `${cpus()[0]?.model.trim() ?? 'unknown CPU'}, ${values.threads} thread; ${(files.parameters / 1e6).toFixed(2)} M parameters`,
);

let runs = 0;
/** @param examples the first so many; default all */
async function run(kind: PackingData, stage: Partial<Stage>, examples = Number.POSITIVE_INFINITY): Promise<PackingRun> {
  const dir = join(scratch, `run-${runs++}`);
  const spec: FineTuneSpec = {
    baseDir: files.baseDir,
    data: [files.data[kind]],
    stages: [
      {
        train: 'full',
        n_epochs: 1,
        batch_size: BATCH[kind],
        learning_rate_multiplier: 1,
        learning_rate: LEARNING_RATE,
        data: 0,
        ...stage,
      },
    ],
    leftOut: [{ data: 0, file: `file-${kind}`, lines: linesBehind(examples, files.lines[kind]) }],
    seed: SEED,
    threads: Number(values.threads),
    workDir: join(scratch, `work-${kind}-${examples}`),
    outDir: join(dir, 'out'),
    checkpointEvery: 1_000_000,
  };
  const path = join(scratch, `spec-${runs}.json`);
  writeFileSync(path, JSON.stringify(spec));
  const script = join(import.meta.dirname, 'packing/run.ts');
  const child = spawn(process.execPath, ['--expose-gc', '--import', 'tsx', script, path], {
    stdio: ['ignore', 'pipe', 'inherit'],
  });
  let output = '';
  child.stdout.on('data', (piece: Buffer) => {
    output += piece.toString();
  });
  const code = await new Promise((resolve) => child.on('close', resolve));
  rmSync(dir, { recursive: true, force: true });
  if (code !== 0) throw new Error(`a run ended with ${code}`);
  return JSON.parse(output.trimEnd().split('\n').at(-1) ?? '') as PackingRun;
}

const linesBehind = (first: number, all: number): number[] =>
  Array.from({ length: Math.max(0, all - first) }, (_, i) => first + 1 + i);

const stageOf = (way: Way, tokens: number): Partial<Stage> =>
  way === 'packed'
    ? { packing: true, micro_batch_tokens: tokens }
    : { packing: false, micro_batch_tokens: way === 'padded' ? 10_000_000 : tokens };

const results: object[] = [];
let missed = 0;
for (const kind of ['whole', 'questions'] as const)
  for (const tokens of values.tokens.split(',').map(Number)) {
    const measured = new Map<Way, PackingRun[]>(WAYS.map((way) => [way, []]));
    for (let r = 0; r < Number(values.rounds); r++)
      for (const way of r % 2 === 0 ? WAYS : [...WAYS].reverse())
        measured
          .get(way)
          ?.push(await run(kind, stageOf(way, tokens), Number(values.examples) * (kind === 'whole' ? 1 : 4)));
    const rate = (way: Way): number => median((measured.get(way) ?? []).map((m) => m.tokensPerCpuSecond));
    const first = (way: Way): PackingRun | undefined => measured.get(way)?.[0];
    const reference = first('byLength')?.losses ?? [];
    const difference = Math.max(
      ...WAYS.flatMap((way) => (first(way)?.losses ?? []).map((loss, i) => Math.abs(loss / (reference[i] ?? 0) - 1))),
    );
    console.log(
      `\n${kind}, micro-batches of ${tokens} tokens, ${BATCH[kind]} examples a step, ${first('packed')?.losses.length} steps`,
    );
    const ways: Record<string, object> = {};
    for (const way of WAYS) {
      const own = measured.get(way) ?? [];
      const row = {
        tokensPerSecond: round(median(own.map((m) => m.tokensPerSecond)), 0),
        tokensPerCpuSecond: round(rate(way), 0),
        allRounds: own.map((m) => round(m.tokensPerCpuSecond, 0)),
        paddingShare: round(first(way)?.paddingShare ?? 0, 4),
        peakRssMb: round(Math.max(...own.map((m) => m.peakRssMb)), 0),
      };
      ways[way] = row;
      console.log(
        `  ${way.padEnd(10)}${String(row.tokensPerSecond).padStart(7)} tokens/s, ${row.tokensPerCpuSecond} a second of processor time (${row.allRounds.join(', ')})  padding ${(100 * row.paddingShare).toFixed(1).padStart(5)} %  peak ${row.peakRssMb} MB`,
      );
    }
    const gain = {
      overPadded: round(rate('packed') / rate('padded'), 3),
      overByLength: round(rate('packed') / rate('byLength'), 3),
    };
    console.log(
      `  packed over padded ${gain.overPadded}, over by length ${gain.overByLength}; losses differ by ${difference.toExponential(1)} at most`,
    );
    // Rounding that AdamW carries through the steps.
    if (!(difference < 1e-3)) missed++;
    results.push({ kind, tokens, ways, gain, lossDifference: difference });
  }

console.log(`\nby heart: ${values.epochs} epochs of the whole conversations, packed`);
const epochs = Number(values.epochs);
const heart = await run('whole', {
  ...stageOf('packed', 3000),
  n_epochs: epochs,
  // Small batches: more steps an epoch, which is what learning by heart takes.
  batch_size: 2,
  learning_rate: 3e-3,
  weight_decay: 0,
});
const [from, to] = [heart.losses[0] ?? 0, heart.losses.at(-1) ?? 0];
console.log(
  `  loss ${from.toFixed(3)} → ${to.toFixed(3)}, ${(100 * heart.accuracy).toFixed(1)} % of tokens right, ${heart.losses.length} steps in ${heart.seconds.toFixed(0)} s, ${heart.tokensPerSecond.toFixed(0)} tokens/s, peak ${heart.peakRssMb.toFixed(0)} MB`,
);
if (!(to < 0.5 * from)) missed++;
console.log(
  JSON.stringify({
    benchmark: 'packing',
    cpu: cpus()[0]?.model.trim(),
    threads: Number(values.threads),
    rounds: Number(values.rounds),
    parameters: files.parameters,
    results,
    byHeart: {
      epochs,
      steps: heart.losses.length,
      lossFrom: round(from, 4),
      lossTo: round(to, 4),
      curve: heart.losses.filter((_, i) => i % Math.ceil(heart.losses.length / 20) === 0).map((l) => round(l, 3)),
      accuracy: round(heart.accuracy, 4),
      tokensPerSecond: round(heart.tokensPerSecond, 0),
      seconds: round(heart.seconds, 0),
      peakRssMb: round(heart.peakRssMb, 0),
    },
    missed,
  }),
);
process.exitCode = missed === 0 ? 0 : 1;
