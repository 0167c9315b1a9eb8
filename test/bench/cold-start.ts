/**
 * `npm run bench -- cold-start`: no backend runs; a request comes in through the public door; how long until its first token, and where the time goes.
 * The bar of issue D is 2.5 s for nano on two cores, as the median.
 */
import { setTimeout as sleep } from 'node:timers/promises';
import { parseArgs } from 'node:util';
import { imagePart, textPart } from '../wire/e2e/pictures.ts';
import { type Product, startProduct, stopAndForget } from '../wire/e2e/product.ts';

const BAR_MS = 2_500;
const { values } = parseArgs({ options: { runs: { type: 'string', default: '7' } } });

const product = await startProduct({
  env: { MANTIS_MIN_BACKENDS: '0', MANTIS_IDLE_S: '1', MANTIS_SCALE_DOWN_S: '0', MANTIS_JOBS: 'off' },
});
type Run = { toFirstTokenMs: number; untilPlannedMs: number; backendMs: number; fromJoinMs: number };
const runs: Run[] = [];
try {
  // The first start of all measures the machine and learns which models there are.
  await firstToken(product);
  for (let i = 0; i < Number(values.runs); i++) {
    await untilAsleep(product);
    const before = product.output().length;
    const askedAtMs = Date.now();
    const toFirstTokenMs = await firstToken(product);
    const said = product.output().slice(before);
    const startedAtMs = timeOf(said, /"msg":"uses cpu/);
    const listening = /"coldStartMs":(\d+)/.exec(said)?.[1];
    const joinedAtMs = timeOf(said, /"msg":"registered with the edge"/);
    if (listening === undefined)
      throw new Error(`expected a backend that starts, the product said:\n${said.slice(-2_000)}`);
    const backendMs = Number(listening);
    const listeningAtMs = timeOf(said, /"msg":"listening"/);
    runs.push({
      toFirstTokenMs: Math.round(toFirstTokenMs),
      untilPlannedMs: listeningAtMs - backendMs - askedAtMs,
      backendMs,
      fromJoinMs: Math.round(askedAtMs + toFirstTokenMs - joinedAtMs),
    });
    console.log(JSON.stringify({ ...runs.at(-1), importsMs: startedAtMs - (listeningAtMs - backendMs) }));
  }
} finally {
  await stopAndForget(product);
}
const median = (of: (run: Run) => number) =>
  runs.map(of).sort((a, b) => a - b)[Math.floor(runs.length / 2)] ?? Number.NaN;
const firstTokenMs = median((run) => run.toFirstTokenMs);
console.log(`median of ${runs.length}, from the request on:`);
console.log(`  ${median((run) => run.untilPlannedMs)} ms until the process starts (edge, autoscaler, spawn)`);
console.log(`  ${median((run) => run.backendMs)} ms until it answers (modules, weights, sessions)`);
console.log(`  ${median((run) => run.fromJoinMs)} ms from joining to the first token (decoding the picture, prompt)`);
console.log(
  JSON.stringify({
    bench: 'cold-start',
    passed: firstTokenMs <= BAR_MS,
    barMs: BAR_MS,
    medianFirstTokenMs: firstTokenMs,
    medianUntilProcessMs: median((run) => run.untilPlannedMs),
    medianBackendMs: median((run) => run.backendMs),
    medianFromJoinMs: median((run) => run.fromJoinMs),
    runs,
  }),
);
process.exitCode = firstTokenMs <= BAR_MS ? 0 : 1;

async function firstToken({ client }: Product): Promise<number> {
  const content = [imagePart('frame-1'), imagePart('frame-2'), textPart('Describe image 1.')];
  const startedMs = performance.now();
  const stream = await client.chat.completions.create({
    model: 'mantis-nano',
    messages: [{ role: 'user', content }],
    temperature: 0,
    max_completion_tokens: 8,
    stream: true,
  });
  let firstMs: number | null = null;
  for await (const chunk of stream) if (chunk.choices[0]?.delta.content) firstMs ??= performance.now() - startedMs;
  if (firstMs === null) throw new Error('expected an answer with text, received none');
  return firstMs;
}

/** Waits until no backend is left. */
async function untilAsleep({ url }: Product): Promise<void> {
  for (let i = 0; i < 600; i++) {
    const health = (await (await fetch(`${url}/health`)).json()) as { backends: object[] };
    if (health.backends.length === 0) break;
    await sleep(100);
  }
  // What the last one left behind is done.
  await sleep(1_000);
}

/** Unix ms of the first log line that fits. */
function timeOf(said: string, what: RegExp): number {
  const line = said.split('\n').find((one) => what.test(one)) ?? '';
  return Number(/"time":(\d+)/.exec(line)?.[1]);
}
