/**
 * Training throughput and memory of this engine against Hugging Face transformers and PEFT on PyTorch: same model, same written batch of
 * eight conversations, whole optimizer steps, alternating rounds of fresh processes. The last line is JSON.
 *
 *     node --import tsx test/bench/train-throughput.ts [--cases projector,lora,qlora8,qlora4,full] [--threads 1] [--rounds 3] [--save]
 *
 * The peer is run with the interpreter named by MANTIS_BENCH_PYTHON (a venv outside this project with torch, transformers, peft and
 * safetensors), as its users run it: the eight conversations are one padded batch, the default of its
 * Trainer (train_peft.py). It runs three times:
 *
 * - `peft`: as installed;
 * - `peft-unlocked`: with the check that keeps Intel MKL off its AVX-512 kernels on other makers' processors answered "Intel" by a
 *   preloaded library of two lines. That library is a control, so that a ratio is not a story about MKL;
 * - `peft-by-one`: unlocked, and one conversation at a time with accumulated gradients, as this engine does by itself. It is what a user who
 *   knows processors makes of it: no padding, a fraction of the memory. A control too, so that a ratio is not a story about batches.
 */
import { execFileSync, spawn } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { cpus, tmpdir } from 'node:os';
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import { parameterCount } from '../../gpu-backend/models/presets.ts';
import { LLAMA_LINEARS } from '../../gpu-backend/models/weights.ts';
import { findCase, lengthOf, TRAIN_CASES, type TrainCase, writeCase } from './train-cases.ts';
import { type TrainEngine, type TrainResult, type TrainSummary, trainTable, withTrainTable } from './train-table.ts';

interface Measurement {
  readonly wallMs: readonly number[];
  readonly cpuMs: readonly number[];
  readonly losses: readonly number[];
  readonly peakRssMb: number;
  readonly readyMs: number;
  /** Parameters that move. */
  readonly trained: number;
}

/** What the project promises: tokens a second against the peer as installed and with its fast path unlocked, peak memory against it. */
const BAR_STOCK = 1.7;
const BAR_UNLOCKED = 1.0;
const BAR_MEMORY = 0.8;

const median = (xs: readonly number[]): number => {
  const sorted = [...xs].sort((x, y) => x - y);
  const middle = sorted.length >> 1;
  return sorted.length % 2 === 1
    ? (sorted[middle] ?? Number.NaN)
    : ((sorted[middle - 1] ?? Number.NaN) + (sorted[middle] ?? Number.NaN)) / 2;
};

function run(command: string, args: readonly string[], env: Readonly<Record<string, string>>): Promise<Measurement> {
  return new Promise((resolve, reject) => {
    const child = spawn(command, args, { env: { ...process.env, ...env }, stdio: ['ignore', 'pipe', 'inherit'] });
    let output = '';
    child.stdout.on('data', (piece: Buffer) => {
      output += piece.toString();
    });
    child.on('error', reject);
    child.on('close', (code) => {
      const last = output.trimEnd().split('\n').at(-1) ?? '';
      if (code !== 0) reject(new Error(`${command} ended with ${code}: ${last.slice(0, 300)}`));
      else resolve(JSON.parse(last) as Measurement);
    });
  });
}

/** Builds the control library; undefined (with the reason on stderr) where there is no compiler. */
function buildUnlock(dir: string): string | undefined {
  const source = join(dir, 'unlock.c');
  const library = join(dir, 'unlock.so');
  writeFileSync(
    source,
    'int mkl_serv_intel_cpu_true(void) { return 1; }\nint mkl_serv_intel_cpu(void) { return 1; }\n',
  );
  try {
    execFileSync('gcc', ['-shared', '-fPIC', '-O2', '-o', library, source], { stdio: 'pipe' });
    return library;
  } catch (error) {
    console.error(
      `no unlocked peer: gcc could not build the control library (${error instanceof Error ? error.message : String(error)})`,
    );
    return undefined;
  }
}

function peerPython(): string | undefined {
  const python = process.env.MANTIS_BENCH_PYTHON;
  if (python === undefined) {
    console.error(
      'no peer: set MANTIS_BENCH_PYTHON to the python of a venv with torch, transformers, peft and safetensors',
    );
    return undefined;
  }
  try {
    execFileSync(python, ['-c', 'import torch, safetensors, transformers, peft'], { stdio: 'pipe' });
    return python;
  } catch {
    console.error(`no peer: ${python} cannot import torch, transformers, peft and safetensors`);
    return undefined;
  }
}

const { values } = parseArgs({
  options: {
    cases: { type: 'string', default: TRAIN_CASES.map((c) => c.name).join() },
    threads: { type: 'string', default: '1' },
    rounds: { type: 'string', default: '3' },
    steps: { type: 'string', default: '1' },
    warmup: { type: 'string', default: '1' },
    save: { type: 'boolean', default: false },
  },
});
const chosen = values.cases.split(',').map(findCase);
const scratch = mkdtempSync(join(tmpdir(), 'mantis-bench-'));
const python = peerPython();
const unlock = python === undefined ? undefined : buildUnlock(scratch);

async function measure(engine: TrainEngine, c: TrainCase, dir: string, threads: number): Promise<Measurement> {
  const counts = [String(threads), values.warmup, values.steps];
  // One thread is pinned, so that the scheduler does not move it between caches.
  const pin = threads === 1 && process.platform === 'linux' ? ['taskset', '-c', '0'] : [];
  const call = (command: string[], env: Record<string, string>): Promise<Measurement> => {
    const [program = '', ...rest] = [...pin, ...command];
    return run(program, rest, env);
  };
  if (engine === 'mantis') {
    const script = join(import.meta.dirname, 'train-ort.ts');
    return call([process.execPath, '--import', 'tsx', script, dir, c.name, ...counts], {});
  }
  const json = JSON.stringify({
    ...{ train: c.train, basePrecision: c.basePrecision, lora: c.lora ?? null, targets: LLAMA_LINEARS },
    lengths: c.conversations.map((x) => lengthOf(c, x)),
    images: c.conversations.map((x) => x.images),
    microBatch: engine === 'peft-by-one' ? 1 : c.conversations.length,
  });
  const args = [python ?? '', join(import.meta.dirname, 'train_peft.py'), dir, json, ...counts];
  return call(args, engine === 'peft' ? {} : { LD_PRELOAD: unlock ?? '' });
}

const tokensOf = (c: TrainCase): number => c.conversations.reduce((sum, x) => sum + lengthOf(c, x), 0);

/** With one thread time is the processor's, which other work on the machine changes less; alone on it the two are equal within 2 %. */
function summarise(c: TrainCase, threads: number, rounds: readonly Measurement[]): TrainSummary {
  const wallMs = median(rounds.map((r) => median(r.wallMs)));
  const cpuMs = median(rounds.map((r) => median(r.cpuMs)));
  const stepMs = threads === 1 ? cpuMs : wallMs;
  return {
    stepMs: round(stepMs, 1),
    wallMsPerStep: round(wallMs, 1),
    tokensPerSecond: round((tokensOf(c) * 1000) / stepMs, 1),
    peakRssMb: round(Math.max(...rounds.map((r) => r.peakRssMb)), 1),
    readyMs: round(median(rounds.map((r) => r.readyMs)), 0),
  };
}

/**
 * What the peer's matrix product reaches on this machine, alone: its 1024 x 1024 product with both faces of MKL. The ratio of the
 * two is the most that an engine at the faster one's rate could win over the peer as installed.
 */
function peerGemmGflops(engine: TrainEngine, threads: number): number {
  const script =
    'import time,torch,sys\ntorch.set_num_threads(int(sys.argv[1]))\na=torch.rand(1024,1024);b=torch.rand(1024,1024);ts=[]\n' +
    'for _ in range(40):\n t=time.perf_counter();a@b;ts.append(time.perf_counter()-t)\nprint(2*1024**3/sorted(ts)[20]/1e9)';
  const env = { ...process.env, ...(engine === 'peft-unlocked' ? { LD_PRELOAD: unlock ?? '' } : {}) };
  const output = execFileSync(python ?? '', ['-c', script, String(threads)], {
    env,
    stdio: ['ignore', 'pipe', 'inherit'],
  });
  return round(Number(output.toString()), 1);
}

const round = (x: number, digits: number): number => Number(x.toFixed(digits));
const ratio = (a: number | undefined, b: number | undefined): number | null =>
  a === undefined || b === undefined ? null : round(a / b, 3);

/** Prints what was measured and whether it is what was promised. @returns bars that were missed */
function report(r: TrainResult): number {
  for (const [engine, s] of Object.entries(r.engines))
    console.log(
      `  ${r.threads} thread${r.threads === 1 ? ' ' : 's'} ${engine.padEnd(14)} ${s.stepMs.toFixed(0).padStart(6)} ms/step (wall ${s.wallMsPerStep.toFixed(0)})  ${s.tokensPerSecond.toFixed(0).padStart(5)} tokens/s  peak ${s.peakRssMb.toFixed(0).padStart(5)} MB  ready ${s.readyMs} ms`,
    );
  const checks = [
    { bar: `stock >= ${BAR_STOCK}`, value: r.vsStock, ok: (r.vsStock ?? BAR_STOCK) >= BAR_STOCK },
    { bar: `unlocked >= ${BAR_UNLOCKED}`, value: r.vsUnlocked, ok: (r.vsUnlocked ?? BAR_UNLOCKED) >= BAR_UNLOCKED },
    { bar: `memory <= ${BAR_MEMORY}`, value: r.memoryRatio, ok: (r.memoryRatio ?? 0) <= BAR_MEMORY },
    { bar: 'losses agree to 1e-4', value: r.lossDifference, ok: r.lossDifference < 1e-4 },
  ];
  if (r.vsByOne !== null)
    console.log(
      `         against one by one, unlocked: ${r.vsByOne.toPrecision(3)} the speed, ${r.memoryByOne} of its memory`,
    );
  for (const { bar, value, ok } of checks)
    if (value !== null) console.log(`    ${ok ? 'ok  ' : 'MISS'} ${bar}: ${value.toPrecision(3)}`);
  return checks.filter(({ value, ok }) => value !== null && !ok).length;
}

const results: TrainResult[] = [];
let failed = 0;
const gemm: Record<string, number> = {};
const threadCounts = values.threads.split(',').map(Number);
try {
  for (const threads of threadCounts)
    for (const engine of ['peft', 'peft-unlocked'] as const)
      if (python !== undefined && (engine === 'peft' || unlock !== undefined))
        gemm[`${engine}/${threads}`] = peerGemmGflops(engine, threads);
  console.log(`${cpus()[0]?.model.trim() ?? 'unknown CPU'}, ${cpus().length} CPUs, node ${process.version}`);
  if (python !== undefined) console.log(`peer's matrix product, GFLOP/s by threads: ${JSON.stringify(gemm)}`);
  const engines: TrainEngine[] = [
    'mantis',
    ...(python === undefined ? [] : (['peft'] as const)),
    ...(unlock === undefined ? [] : (['peft-unlocked', 'peft-by-one'] as const)),
  ];
  for (const c of chosen) {
    const dir = join(scratch, c.name);
    await writeCase(dir, c);
    console.log(
      `\n${c.name}: ${c.about}; ${(parameterCount(c.config) / 1e6).toFixed(1)} M parameters, ${tokensOf(c)} tokens a step`,
    );
    for (const threads of threadCounts) {
      const rounds = new Map<TrainEngine, Measurement[]>(engines.map((e) => [e, []]));
      for (let r = 0; r < Number(values.rounds); r++)
        for (const engine of engines) rounds.get(engine)?.push(await measure(engine, c, dir, threads));
      const summary = (e: TrainEngine): TrainSummary | undefined =>
        engines.includes(e) ? summarise(c, threads, rounds.get(e) ?? []) : undefined;
      const [mine, stock, unlocked, byOne] = [
        summarise(c, threads, rounds.get('mantis') ?? []),
        summary('peft'),
        summary('peft-unlocked'),
        summary('peft-by-one'),
      ];
      // Engines that train the same model on the same batch report the same losses.
      const losses = engines.map((e) => rounds.get(e)?.[0]?.losses ?? []);
      const result: TrainResult = {
        case: c.name,
        about: c.about,
        threads,
        trained: rounds.get('mantis')?.[0]?.trained ?? 0,
        engines: {
          mantis: mine,
          ...(stock === undefined ? {} : { peft: stock }),
          ...(unlocked === undefined ? {} : { 'peft-unlocked': unlocked }),
          ...(byOne === undefined ? {} : { 'peft-by-one': byOne }),
        },
        vsStock: ratio(stock?.stepMs, mine.stepMs),
        vsUnlocked: ratio(unlocked?.stepMs, mine.stepMs),
        vsByOne: ratio(byOne?.stepMs, mine.stepMs),
        memoryRatio: ratio(mine.peakRssMb, stock?.peakRssMb),
        memoryByOne: ratio(mine.peakRssMb, byOne?.peakRssMb),
        lossDifference: Math.max(
          0,
          ...losses.slice(1).flatMap((other) => other.map((x, i) => Math.abs(x / (losses[0]?.[i] ?? Number.NaN) - 1))),
        ),
      };
      failed += report(result);
      results.push(result);
    }
  }
} finally {
  rmSync(scratch, { recursive: true, force: true });
}
const kept = {
  bench: 'train-throughput',
  cpu: cpus()[0]?.model.trim() ?? 'unknown',
  peer: python !== undefined,
  peerGemmGflops: gemm,
  barsMissed: failed,
  results,
};
if (values.save) {
  const file = join(import.meta.dirname, 'results', 'train-throughput.json');
  writeFileSync(file, `${JSON.stringify(kept, null, 2)}\n`);
  execFileSync('npx', ['biome', 'format', '--write', file], { stdio: 'ignore' });
  const readme = join(import.meta.dirname, '../../README.md');
  writeFileSync(readme, withTrainTable(readFileSync(readme, 'utf8'), kept));
}
console.log(`\n${trainTable(kept)}\n`);
console.log(JSON.stringify(kept));
process.exitCode = failed > 0 ? 1 : 0;
