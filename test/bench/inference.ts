/**
 * Inference against named peers: the same random weights in each one's own format, one process a contender, all of them
 * resident, alternating windows, medians. A table goes to stderr; the last line is JSON.
 *
 *     npm run bench -- inference [--only llama,decode] [--ours f32/f32,w8a8/int8] [--threads 1] [--rounds 7] [--ms 150]
 *                                [--long-rounds 3] [--cpu 1] [--clock cpu] [--save]
 *
 * --only takes words: those that occur in a peer's name choose peers, those in a case's name cases. --cpu is the processor
 * that everything is pinned to, or `none` (with --threads 1 the last one). --clock cpu takes rates by CPU time, for a look on a
 * machine that others use. --save keeps the results; those of a case are replaced as a whole, so that what is compared was
 * measured in one run. Peers are installed into a folder of the system's
 * temporary one (MANTIS_BENCH_CACHE); PyTorch needs MANTIS_BENCH_PYTHON, the python of a venv with torch and safetensors.
 * A peer that is missing is skipped with its reason; one that disagrees with the f32 model is not timed and fails the run.
 */
import { existsSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { cpus } from 'node:os';
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import { RUNTIME_VERSION } from '../../gpu-backend/runtime/session.ts';
import { type Agreement, agreement } from './inference/agreement.ts';
import { CASES } from './inference/cases.ts';
import { benchCheckpoint } from './inference/checkpoint.ts';
import { Child } from './inference/child.ts';
import { measureCase, type Running } from './inference/measure.ts';
import { type ContenderSpec, ourSpecs, PEER_VERSIONS, peerSpecs, TOLERANCE } from './inference/peers.ts';
import { REFERENCE_PROMPT, referenceLogprobs } from './inference/reference.ts';
import { type ContenderReport, ratios, table } from './inference/report.ts';

const { values } = parseArgs({
  options: {
    only: { type: 'string', default: '' },
    ours: { type: 'string', default: 'f32/f32,w8a8/f32,w8a8/int8,int4/int8' },
    threads: { type: 'string', default: '1' },
    rounds: { type: 'string', default: '7' },
    ms: { type: 'string', default: '150' },
    'long-rounds': { type: 'string', default: '3' },
    cpu: { type: 'string' },
    clock: { type: 'string', default: 'wall' },
    save: { type: 'boolean', default: false },
  },
});
const threads = Number(values.threads);
const effort = {
  rounds: Number(values.rounds),
  windowMs: Number(values.ms),
  longRounds: Number(values['long-rounds']),
};
const cpu = values.cpu === undefined ? (threads === 1 ? cpus().length - 1 : null) : Number(values.cpu);
const pinned = cpu === null || Number.isNaN(cpu) ? null : cpu;

/** Those that a word names, or all where no word names any. */
function chosen<T>(all: readonly T[], nameOf: (one: T) => string): readonly T[] {
  const words = values.only.split(',').filter((word) => word !== '');
  const some = all.filter((one) => words.some((word) => nameOf(one).toLowerCase().includes(word.toLowerCase())));
  return some.length > 0 ? some : all;
}

async function start(spec: ContenderSpec): Promise<Child> {
  // Huge pages as the product's start gives them to its backend; all contenders get them.
  const tunables = { GLIBC_TUNABLES: 'glibc.malloc.hugetlb=1' };
  return Child.start(await spec.command(), pinned, { OMP_NUM_THREADS: values.threads, ...tunables });
}

/** @throws Error when the contender does not compute what the model does */
async function check({ spec, child }: Running, reference: Float32Array): Promise<Agreement> {
  const { logits } = await child.call({ op: 'logits', ids: REFERENCE_PROMPT });
  const bytes = new Uint8Array(Buffer.from(logits ?? '', 'base64'));
  const found = agreement(new Float32Array(bytes.buffer), reference);
  const limit = TOLERANCE[spec.bits];
  if (!(found.error <= limit) || (spec.bits > 4 && !found.sameArgmax))
    throw new Error(
      `log-probabilities are off by ${found.error.toPrecision(3)} of their deviation over ${found.count} tokens, at most ${limit} is expected; most likely token ${found.sameArgmax ? 'equal' : 'another'}`,
    );
  return found;
}

/** Stored results with the cases of a new run in place of the old ones. */
function merged<S extends { contenders: Record<string, ContenderReport>; ratios: unknown; barsMissed: number }>(
  kept: S,
  fresh: S,
): S {
  const renewed = new Set(Object.values(fresh.contenders).flatMap((one) => Object.keys(one.cases)));
  const contenders: Record<string, ContenderReport> = {};
  for (const [name, one] of [...Object.entries(kept.contenders), ...Object.entries(fresh.contenders)]) {
    const isFresh = fresh.contenders[name] === one;
    const before = contenders[name];
    const cases = Object.fromEntries(Object.entries(one.cases).filter(([id]) => isFresh || !renewed.has(id)));
    contenders[name] = {
      ...one,
      cases: { ...before?.cases, ...cases },
      loadRssMb: Math.max(one.loadRssMb, before?.loadRssMb ?? 0),
      peakRssMb: Math.max(one.peakRssMb, before?.peakRssMb ?? 0),
    };
  }
  const compared = ratios(contenders, 'rate');
  return { ...fresh, contenders, ratios: compared, barsMissed: compared.filter(({ ok }) => !ok).length };
}

const say = (text: string): void => console.error(text);
const reason = (error: unknown): string => (error instanceof Error ? error.message : String(error));

const checkpoint = await benchCheckpoint();
const reference = await referenceLogprobs(checkpoint);
const specs = [
  ...ourSpecs(checkpoint, values.ours.split(','), threads),
  ...chosen(peerSpecs(checkpoint, threads), ({ name }) => name),
];
const cases = chosen(CASES, ({ id }) => id);
const running: Running[] = [];
const skipped: Record<string, string> = {};
const failures: string[] = [];
const errors = new Map<Running, number>();
const results = new Map<Running, Record<string, ContenderReport['cases'][string]>>();
try {
  for (const spec of specs) {
    let child: Child;
    try {
      child = await start(spec);
    } catch (error) {
      skipped[spec.name] = reason(error);
      say(`skipped ${spec.name}: ${reason(error)}`);
      continue;
    }
    const one = { spec, child };
    try {
      errors.set(one, (await check(one, reference)).error);
      running.push(one);
    } catch (error) {
      failures.push(`${spec.name}: ${reason(error)}`);
      say(`NOT TIMED ${spec.name}: ${reason(error)}`);
      await child.close();
    }
  }
  say(`${cpus()[0]?.model.trim() ?? 'unknown CPU'}, ${threads} thread, pinned to ${pinned ?? 'no'} processor`);
  for (const of of cases) {
    const started = performance.now();
    const found = await measureCase(of, running, effort, ({ spec }, error) => {
      failures.push(`${spec.name} in ${of.id}: ${error.message}`);
      say(`FAILED ${spec.name} in ${of.id}: ${error.message}`);
    });
    for (const [one, result] of found) results.set(one, { ...results.get(one), [of.id]: result });
    say(`${of.id}: ${((performance.now() - started) / 1000).toFixed(0)} s`);
  }
} finally {
  await Promise.all(running.map(({ child }) => child.close()));
}
const contenders: Record<string, ContenderReport> = Object.fromEntries(
  running.map((one) => [
    one.spec.name,
    {
      group: one.spec.group,
      cases: results.get(one) ?? {},
      loadRssMb: Math.round(one.child.loadRssMb),
      peakRssMb: Math.round(one.child.peakRssMb),
      logprobError: Number((errors.get(one) ?? Number.NaN).toPrecision(3)),
    },
  ]),
);
const clock = values.clock === 'cpu' ? 'cpuRate' : 'rate';
const compared = ratios(contenders, clock);
say(`\n${table(contenders, compared, clock)}\n`);
const summary = {
  bench: 'inference',
  cpu: cpus()[0]?.model.trim(),
  threads,
  pinned,
  node: process.version,
  versions: { 'onnxruntime-node': RUNTIME_VERSION, ...PEER_VERSIONS },
  clock: values.clock,
  effort,
  contenders,
  ratios: compared,
  barsMissed: compared.filter(({ ok }) => !ok).length,
  skipped,
  failures,
};
if (values.save) {
  const folder = join(import.meta.dirname, 'results');
  mkdirSync(folder, { recursive: true });
  const path = join(folder, 'inference.json');
  const kept = existsSync(path) ? (JSON.parse(readFileSync(path, 'utf8')) as typeof summary) : null;
  const all = kept === null || kept.cpu !== summary.cpu || kept.threads !== threads ? summary : merged(kept, summary);
  writeFileSync(path, `${JSON.stringify(all, null, 4)}\n`);
}
console.log(JSON.stringify(summary));
process.exitCode = failures.length > 0 ? 1 : 0;
