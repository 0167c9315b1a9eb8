/**
 * Training throughput of this engine against PyTorch eager: same model, same written batch, whole optimizer steps (forward,
 * backward, global-norm clip, AdamW), fp32, alternating rounds of fresh processes. The last line is JSON.
 *
 *     node --import tsx test/bench/train-throughput.ts [--cases a,b,lora] [--threads 1,2] [--rounds 3] [--steps 5]
 *
 * The peer is run with the interpreter named by MANTIS_BENCH_PYTHON (a venv outside this project with torch and safetensors).
 * It runs twice: as installed, and with the check that keeps Intel MKL off its AVX-512 kernels on other makers' processors
 * answered "Intel" by a preloaded library of two lines. That library is a control, so that a ratio is not a story about MKL:
 * both ratios are always printed.
 */
import { execFileSync, spawn } from 'node:child_process';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { cpus, tmpdir } from 'node:os';
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import { parameterCount } from '../../gpu-backend/models/presets.ts';
import { findCase, type TrainCase, writeCase } from './train-cases.ts';

interface Measurement {
  readonly wallMs: readonly number[];
  readonly cpuMs: readonly number[];
  readonly losses: readonly number[];
  readonly peakRssMb: number;
  readonly readyMs: number;
}

type Engine = 'mantis' | 'torch' | 'torch-unlocked';

interface Summary {
  readonly stepMs: number;
  readonly cpuMsPerStep: number;
  readonly samplesPerSecond: number;
  readonly peakRssMb: number;
  readonly readyMs: number;
}

/** Ratios that the project promises: against the peer as installed, and with its fast path unlocked. */
const BAR_STOCK = 1.7;
const BAR_UNLOCKED = 0.95;

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
    console.error('no PyTorch peer: set MANTIS_BENCH_PYTHON to the python of a venv with torch and safetensors');
    return undefined;
  }
  try {
    execFileSync(python, ['-c', 'import torch, safetensors'], { stdio: 'pipe' });
    return python;
  } catch {
    console.error(`no PyTorch peer: ${python} cannot import torch and safetensors`);
    return undefined;
  }
}

const { values } = parseArgs({
  options: {
    cases: { type: 'string', default: 'a,b,lora' },
    threads: { type: 'string', default: '1,2' },
    rounds: { type: 'string', default: '3' },
    steps: { type: 'string', default: '5' },
    warmup: { type: 'string', default: '2' },
    'all-rows': { type: 'boolean', default: false },
  },
});
const chosen = values.cases.split(',').map(findCase);
const scratch = mkdtempSync(join(tmpdir(), 'mantis-bench-'));
const python = peerPython();
const unlock = python === undefined ? undefined : buildUnlock(scratch);

async function measure(engine: Engine, c: TrainCase, dir: string, threads: number): Promise<Measurement> {
  const counts = [String(threads), values.warmup, values.steps];
  // One thread is pinned, so that the scheduler does not move it between caches.
  const pin = threads === 1 && process.platform === 'linux' ? ['taskset', '-c', '0'] : [];
  const call = (command: string[], env: Record<string, string>): Promise<Measurement> => {
    const [program = '', ...rest] = [...pin, ...command];
    return run(program, rest, env);
  };
  if (engine === 'mantis')
    return call(
      [process.execPath, '--import', 'tsx', join(import.meta.dirname, 'train-ort.ts'), dir, c.name, ...counts],
      {},
    );
  const { config: _config, ...plain } = c;
  const json = JSON.stringify({ ...plain, lora: c.lora ?? null });
  const args = [python ?? '', join(import.meta.dirname, 'train_torch.py'), dir, json, ...counts];
  return call(
    values['all-rows'] ? [...args, '--all-rows'] : args,
    engine === 'torch' ? {} : { LD_PRELOAD: unlock ?? '' },
  );
}

function summarise(c: TrainCase, rounds: readonly Measurement[]): Summary {
  const stepMs = median(rounds.map((r) => median(r.wallMs)));
  return {
    stepMs,
    cpuMsPerStep: median(rounds.map((r) => median(r.cpuMs))),
    samplesPerSecond: (c.batch * 1000) / stepMs,
    peakRssMb: Math.max(...rounds.map((r) => r.peakRssMb)),
    readyMs: median(rounds.map((r) => r.readyMs)),
  };
}

/**
 * What the peer's matrix product reaches on this machine, alone: its 1024 x 1024 product with both faces of MKL. The ratio of the
 * two is the most that an engine at the faster one's rate could win over the peer as installed.
 */
function peerGemmGflops(engine: Engine, threads: number): number {
  const script =
    'import time,torch,sys\ntorch.set_num_threads(int(sys.argv[1]))\na=torch.rand(1024,1024);b=torch.rand(1024,1024);ts=[]\n' +
    'for _ in range(40):\n t=time.perf_counter();a@b;ts.append(time.perf_counter()-t)\nprint(2*1024**3/sorted(ts)[20]/1e9)';
  const env = { ...process.env, ...(engine === 'torch-unlocked' ? { LD_PRELOAD: unlock ?? '' } : {}) };
  const output = execFileSync(python ?? '', ['-c', script, String(threads)], {
    env,
    stdio: ['ignore', 'pipe', 'inherit'],
  });
  return round(Number(output.toString()), 1);
}

const round = (x: number, digits: number): number => Number(x.toFixed(digits));
const results: Record<string, unknown>[] = [];
let failed = 0;
const gemm: Record<string, number> = {};
try {
  for (const threads of values.threads.split(',').map(Number))
    for (const engine of ['torch', 'torch-unlocked'] as const)
      if (python !== undefined && (engine === 'torch' || unlock !== undefined))
        gemm[`${engine}/${threads}`] = peerGemmGflops(engine, threads);
  console.log(`${cpus()[0]?.model.trim() ?? 'unknown CPU'}, ${cpus().length} CPUs, node ${process.version}`);
  if (python !== undefined) console.log(`peer's matrix product, GFLOP/s by threads: ${JSON.stringify(gemm)}`);
  for (const c of chosen) {
    const dir = join(scratch, c.name);
    await writeCase(dir, c);
    console.log(`\n${c.name}: ${c.about} (${(parameterCount(c.config) / 1e6).toFixed(1)} M)`);
    for (const threads of values.threads.split(',').map(Number)) {
      const engines: Engine[] = [
        'mantis',
        ...(python === undefined ? [] : (['torch'] as const)),
        ...(unlock === undefined ? [] : (['torch-unlocked'] as const)),
      ];
      const rounds = new Map<Engine, Measurement[]>(engines.map((e) => [e, []]));
      for (let r = 0; r < Number(values.rounds); r++)
        for (const engine of engines) rounds.get(engine)?.push(await measure(engine, c, dir, threads));
      const summaries = new Map(engines.map((e) => [e, summarise(c, rounds.get(e) ?? [])]));
      for (const [engine, s] of summaries)
        console.log(
          `  ${threads} thread${threads === 1 ? ' ' : 's'} ${engine.padEnd(15)} ${s.stepMs.toFixed(0).padStart(6)} ms/step (cpu ${s.cpuMsPerStep.toFixed(0)})  ${s.samplesPerSecond.toFixed(2).padStart(7)} samples/s  peak ${s.peakRssMb.toFixed(0).padStart(5)} MB  ready ${s.readyMs.toFixed(0)} ms`,
        );
      const mine = summaries.get('mantis');
      const [stock, unlocked] = [summaries.get('torch'), summaries.get('torch-unlocked')];
      // Two engines that train the same model on the same batch report the same losses.
      const losses = engines.map((e) => rounds.get(e)?.[0]?.losses ?? []);
      const lossDifference = Math.max(
        0,
        ...losses.slice(1).flatMap((other) => other.map((x, i) => Math.abs(x / (losses[0]?.[i] ?? Number.NaN) - 1))),
      );
      const vsStock = mine && stock ? stock.stepMs / mine.stepMs : undefined;
      const vsUnlocked = mine && unlocked ? unlocked.stepMs / mine.stepMs : undefined;
      const memoryRatio = mine && stock ? mine.peakRssMb / stock.peakRssMb : undefined;
      const checks = [
        { bar: `stock >= ${BAR_STOCK}`, value: vsStock, ok: vsStock === undefined || vsStock >= BAR_STOCK },
        {
          bar: `unlocked >= ${BAR_UNLOCKED}`,
          value: vsUnlocked,
          ok: vsUnlocked === undefined || vsUnlocked >= BAR_UNLOCKED,
        },
        {
          bar: `memory <= ${c.maxMemoryRatio}`,
          value: memoryRatio,
          ok: memoryRatio === undefined || memoryRatio <= c.maxMemoryRatio,
        },
        { bar: 'losses agree to 1e-4', value: lossDifference, ok: lossDifference < 1e-4 },
      ];
      for (const { bar, value, ok } of checks) {
        if (value === undefined) continue;
        if (!ok) failed++;
        console.log(`    ${ok ? 'ok  ' : 'MISS'} ${bar}: ${value.toPrecision(3)}`);
      }
      results.push({
        case: c.name,
        threads,
        engines: Object.fromEntries(
          [...summaries].map(([e, s]) => [e, Object.fromEntries(Object.entries(s).map(([k, v]) => [k, round(v, 2)]))]),
        ),
        vsStock: vsStock === undefined ? null : round(vsStock, 3),
        vsUnlocked: vsUnlocked === undefined ? null : round(vsUnlocked, 3),
        memoryRatio: memoryRatio === undefined ? null : round(memoryRatio, 3),
        lossDifference,
      });
    }
  }
} finally {
  rmSync(scratch, { recursive: true, force: true });
}
console.log(
  JSON.stringify({
    bench: 'train-throughput',
    cpu: cpus()[0]?.model.trim(),
    peer: python !== undefined,
    peerGemmGflops: gemm,
    barsMissed: failed,
    results,
  }),
);
process.exitCode = failed > 0 ? 1 : 0;
