/**
 * The control plane under simulated faults: `npm run bench -- simulation [--seeds 100000] [--from 0]` in two processes; `--seed N` replays one seed with its
 * trace; `--bugs 5000` looks for the planted bugs in so many seeds each; `--zombies 500` makes so many rounds of workers that come back after three leases;
 * `--outage 1000` leaves so many jobs and events alone for ten days. Ends with one line of JSON.
 */
import { spawn } from 'node:child_process';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import { loadEdge } from '../fixtures/simulation/edge-code.ts';
import { outage } from '../fixtures/simulation/outage.ts';
import { PLANTED_BUGS } from '../fixtures/simulation/planted.ts';
import { openStage, simulate } from '../fixtures/simulation/simulate.ts';
import { findBug, realStage, type Sweep, sweepSeeds } from '../fixtures/simulation/sweep.ts';
import { zombieRounds } from '../fixtures/simulation/zombies.ts';

const { values } = parseArgs({
  options: {
    seeds: { type: 'string', default: '100000' },
    from: { type: 'string', default: '0' },
    /** In this process: every `step`-th seed. */
    step: { type: 'string' },
    seed: { type: 'string' },
    bugs: { type: 'string' },
    zombies: { type: 'string' },
    outage: { type: 'string' },
  },
});
const seeds = Number(values.seeds);
const from = Number(values.from);
/** Runs that are made twice, to compare their traces. */
const TWICE = 200;

if (values.seed !== undefined) await replay(Number(values.seed));
else if (values.bugs !== undefined) await huntBugs(Number(values.bugs));
else if (values.zombies !== undefined) await zombies(Number(values.zombies));
else if (values.outage !== undefined) await tenDays(Number(values.outage));
else if (values.step !== undefined) await half(Number(values.step));
else await both();

async function replay(seed: number): Promise<void> {
  const { trace, violation, stats, hash } = await simulate(await openStage(await loadEdge()), seed, {
    keepTrace: true,
  });
  for (const line of trace) console.log(line);
  console.log(JSON.stringify({ bench: 'simulation', seed, violation, stats, hash, ok: violation === null }));
  process.exitCode = violation === null ? 0 : 1;
}

async function huntBugs(most: number): Promise<void> {
  const stage = await realStage();
  const found: Record<string, { seeds: number; invariant: string } | null> = {};
  for (const bug of PLANTED_BUGS) {
    const hit = await findBug(
      stage,
      bug,
      Array.from({ length: most }, (_none, i) => from + i),
    );
    found[bug.name] = hit === null ? null : { seeds: hit.ran, invariant: hit.invariant };
    console.log(`${bug.name}: ${hit === null ? `not in ${most} seeds` : `seed ${hit.seed}, "${hit.invariant}"`}`);
  }
  const missed = Object.values(found).filter((hit) => hit === null).length;
  const slowest = Math.max(...Object.values(found).map((hit) => hit?.seeds ?? most));
  console.log(
    JSON.stringify({ bench: 'simulation', bugs: PLANTED_BUGS.length, missed, slowest, found, ok: missed === 0 }),
  );
  process.exitCode = missed === 0 ? 0 : 1;
}

async function zombies(rounds: number): Promise<void> {
  const { violations, ...sums } = await zombieRounds(await realStage(), rounds);
  for (const violation of violations) console.log(violation);
  const ok = violations.length === 0;
  console.log(JSON.stringify({ bench: 'simulation', zombies: sums, staleWrites: violations.length, ok }));
  process.exitCode = ok ? 0 : 1;
}

async function tenDays(jobs: number): Promise<void> {
  const startMs = performance.now();
  const { lost, ...sums } = await outage(await realStage(), jobs, 10);
  for (const line of lost.slice(0, 20)) console.log(line);
  const seconds = Number(((performance.now() - startMs) / 1000).toFixed(1));
  console.log(JSON.stringify({ bench: 'simulation', outage: sums, lost: lost.length, seconds, ok: lost.length === 0 }));
  process.exitCode = lost.length === 0 ? 0 : 1;
}

/** Every `step`-th seed; the first ones twice. */
async function half(step: number): Promise<void> {
  const stage = await realStage();
  const hashes = new Map<number, string>();
  const sweep = await sweepSeeds(stage, from, Math.ceil(seeds / step), {
    step,
    each: ({ seed, hash }) => {
      if (hashes.size < TWICE / step) hashes.set(seed, hash);
      if ((seed - from) / step > 0 && ((seed - from) / step) % 1_000 === 0) console.error(`${seed} …`);
    },
  });
  let different = 0;
  for (const [seed, hash] of hashes) if ((await simulate(stage, seed)).hash !== hash) different++;
  console.log(JSON.stringify({ ...sweep, twice: hashes.size, different }));
}

async function both(): Promise<void> {
  const startMs = performance.now();
  const parts = await Promise.all([0, 1].map((offset) => child(offset)));
  const sum = (of: (part: Part) => number) => parts.reduce((total, part) => total + of(part), 0);
  const violations = parts.flatMap((part) => part.violations);
  const different = sum((part) => part.different);
  const ran = sum((part) => part.ran);
  const seconds = (performance.now() - startMs) / 1000;
  for (const { seed, violation } of violations)
    console.log(`seed ${seed}: ${violation.invariant}: ${violation.detail}`);
  console.log(
    JSON.stringify({
      bench: 'simulation',
      seeds: ran,
      seconds: Number(seconds.toFixed(1)),
      msPerSeed: Number(((1000 * seconds) / ran).toFixed(1)),
      twice: sum((part) => part.twice),
      different,
      violations: violations.length,
      jobs: sum(({ stats }) => stats.jobs),
      grants: sum(({ stats }) => stats.grants),
      crashes: sum(({ stats }) => stats.crashes),
      commits: sum(({ stats }) => stats.commits),
      ok: violations.length === 0 && different === 0,
    }),
  );
  process.exitCode = violations.length === 0 && different === 0 ? 0 : 1;
}

type Part = Sweep & { twice: number; different: number };

function child(offset: number): Promise<Part> {
  return new Promise((resolve, reject) => {
    const args = ['--import', 'tsx', fileURLToPath(import.meta.url)];
    args.push('--step', '2', '--seeds', String(seeds), '--from', String(from + offset));
    const run = spawn(process.execPath, args, { stdio: ['ignore', 'pipe', 'inherit'] });
    let text = '';
    run.stdout.on('data', (chunk: Buffer) => {
      text += chunk.toString();
    });
    run.on('error', reject);
    run.on('close', (code) => {
      if (code === 0) resolve(JSON.parse(text.trim().split('\n').at(-1) ?? '') as Part);
      else reject(new Error(`a half of the seeds ended with ${code}`));
    });
  });
}
