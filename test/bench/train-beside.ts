/**
 *     npm run bench -- train-beside [--rounds 3] [--requests 40] [--tokens 64] [--clients 2]
 *
 * Answers of the shipped model with and without a fine-tuning job on the same backend, in turn: time to the first token and between tokens (p50, p99), and the
 * steps the job makes while nobody asks and while somebody does. A real backend process over HTTP. Prints one line of JSON last.
 */
import { setTimeout as sleep } from 'node:timers/promises';
import { parseArgs } from 'node:util';
import { readConfig } from '../../gpu-backend/models/load.ts';
import { NANO_DIR } from '../cpu/engine/nano-service.ts';
import { eventsOf, makeRequest, TestBackend } from '../wire/server/backend-process.ts';
import { FakeEdge, type FakeJob, fakeJob } from '../wire/server/fake-edge.ts';
import { lesson } from '../wire/server/lesson.ts';

const { values: flags } = parseArgs({
  options: {
    rounds: { type: 'string', default: '3' },
    requests: { type: 'string', default: '40' },
    tokens: { type: 'string', default: '64' },
    clients: { type: 'string', default: '2' },
  },
});
const LOOK_MS = 4_000;

interface Times {
  readonly firstMs: number[];
  readonly gapsMs: number[];
}

const quantile = (values: readonly number[], q: number): number => {
  const sorted = values.toSorted((a, b) => a - b);
  return Number((sorted[Math.min(sorted.length - 1, Math.floor(q * sorted.length))] ?? Number.NaN).toPrecision(4));
};
const shown = ({ firstMs, gapsMs }: Times) => ({
  firstTokenP50Ms: quantile(firstMs, 0.5),
  firstTokenP99Ms: quantile(firstMs, 0.99),
  betweenTokensP50Ms: quantile(gapsMs, 0.5),
  betweenTokensP99Ms: quantile(gapsMs, 0.99),
});

const { eosTokens } = readConfig(NANO_DIR).text;
/** Whatever it says, it says so much of it; each token is an event. */
const sampling = {
  maxTokens: Number(flags.tokens),
  temperature: 1,
  logprobs: 0,
  logitBias: eosTokens.map((id): [number, number] => [id, -100]),
};

const edge = new FakeEdge();
await edge.start();
const backend = await TestBackend.start({
  MANTIS_EDGE_URL: edge.url,
  MANTIS_LOG_LEVEL: 'silent',
  MANTIS_MODELS: `nano=${NANO_DIR}`,
});
try {
  const ask = async (times: Times): Promise<void> => {
    const begin = performance.now();
    let last: number | null = null;
    for await (const { type } of eventsOf(await backend.post('/v1/generate', makeRequest(0, sampling), []))) {
      if (type !== 'delta') continue;
      const now = performance.now();
      if (last === null) times.firstMs.push(now - begin);
      else times.gapsMs.push(now - last);
      last = now;
    }
  };
  const askAll = async (times: Times): Promise<void> => {
    const each = Math.ceil(Number(flags.requests) / Number(flags.clients));
    await Promise.all(
      Array.from({ length: Number(flags.clients) }, async () => {
        for (let i = 0; i < each; i++) await ask(times);
      }),
    );
  };
  const rate = async (job: FakeJob, work: () => Promise<unknown>): Promise<number> => {
    const [steps, begin] = [job.steps.length, performance.now()];
    await work();
    return (1000 * (job.steps.length - steps)) / (performance.now() - begin);
  };
  await sleep(500);
  backend.audience = edge.reports.at(-1)?.id ?? '';
  await askAll({ firstMs: [], gapsMs: [] });
  const [without, beside]: [Times, Times] = [
    { firstMs: [], gapsMs: [] },
    { firstMs: [], gapsMs: [] },
  ];
  const [idleRates, busyRates]: [number[], number[]] = [[], []];
  const training = await lesson(16);
  for (let round = 0; round < Number(flags.rounds); round++) {
    await askAll(without);
    const job = fakeJob(`beside-${round}`, training, { n_epochs: 10_000 }, { checkpointEvery: 100_000 });
    edge.jobs.push(job);
    await backend.post('/v1/wake', {}, []);
    while (job.steps.length < 3) await sleep(50);
    idleRates.push(await rate(job, () => sleep(LOOK_MS)));
    busyRates.push(await rate(job, () => askAll(beside)));
    job.cancel = true;
    while (!job.isOver) await sleep(50);
    await sleep(1_000);
  }
  const [alone, together] = [shown(without), shown(beside)];
  console.log(
    JSON.stringify({
      bench: 'train-beside',
      requests: without.firstMs.length,
      clients: Number(flags.clients),
      alone,
      beside: together,
      firstTokenP99Ratio: Number((together.firstTokenP99Ms / alone.firstTokenP99Ms).toFixed(2)),
      betweenTokensP99Ratio: Number((together.betweenTokensP99Ms / alone.betweenTokensP99Ms).toFixed(2)),
      stepsPerSecondIdle: quantile(idleRates, 0.5),
      stepsPerSecondBusy: quantile(busyRates, 0.5),
    }),
  );
} finally {
  await backend.stop();
  await edge.stop();
}
