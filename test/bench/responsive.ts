/**
 * Whether a busy backend stays responsive: `/health` while a long prompt is read, how soon an aborted request is gone, and many
 * streams at once on the shipped model. A real backend process over HTTP; the last line is JSON.
 *
 *     node --import tsx test/bench/responsive.ts [--parts prefill,abort,streams] [--streams 200] [--rows 200] [--kv-tokens 65536]
 *         [--tokens 200] [--precision f32] [--kv f32] [--prompt 1900]
 */
import { readFileSync } from 'node:fs';
import { Agent, request as httpRequest } from 'node:http';
import { setTimeout as sleep } from 'node:timers/promises';
import { parseArgs } from 'node:util';
import { readConfig } from '../../gpu-backend/models/load.ts';
import type { GenerateRequest } from '../../shared/contract/backend.ts';
import { NANO_DIR } from '../cpu/engine/nano-service.ts';
import { eventsOf, TestBackend } from '../wire/server/backend-process.ts';
import { scenePictures, servedBenchCheckpoint } from './served-checkpoint.ts';

const { values: flags } = parseArgs({
  options: {
    parts: { type: 'string', default: 'prefill,abort,streams' },
    streams: { type: 'string', default: '200' },
    rows: { type: 'string', default: '200' },
    'kv-tokens': { type: 'string', default: '65536' },
    tokens: { type: 'string', default: '200' },
    precision: { type: 'string', default: 'f32' },
    kv: { type: 'string', default: 'f32' },
    prompt: { type: 'string', default: '1900' },
  },
});
const parts = new Set(flags.parts.split(','));
const compute = { MANTIS_PRECISION: flags.precision, MANTIS_KV: flags.kv, MANTIS_JOBS: 'off' };

const rounded = (value: number): number => Number(value.toPrecision(4));
const quantile = (values: readonly number[], q: number): number => {
  const sorted = values.toSorted((a, b) => a - b);
  return rounded(sorted[Math.min(sorted.length - 1, Math.floor(q * sorted.length))] ?? Number.NaN);
};

/** Resident memory of a process, now and at its highest, in bytes. */
function memoryOf(pid: number): { readonly rssBytes: number; readonly peakRssBytes: number } {
  const status = readFileSync(`/proc/${pid}/status`, 'utf8');
  const field = (name: string): number => 1024 * Number(new RegExp(`^${name}:\\s+(\\d+) kB`, 'm').exec(status)?.[1]);
  return { rssBytes: field('VmRSS'), peakRssBytes: field('VmHWM') };
}

/** Asks `/health` one call after another over one connection until it is stopped. */
class HealthProbe {
  readonly ms: number[] = [];
  readonly #agent = new Agent({ keepAlive: true, maxSockets: 1 });
  readonly #url: string;
  #isStopped = false;
  readonly #loop: Promise<void>;

  constructor(url: string) {
    this.#url = `${url}/health`;
    this.#loop = this.#run();
    // Told by `stop`.
    this.#loop.catch(() => {});
  }

  async stop(): Promise<{
    readonly calls: number;
    readonly p50Ms: number;
    readonly p99Ms: number;
    readonly maxMs: number;
  }> {
    this.#isStopped = true;
    await this.#loop;
    this.#agent.destroy();
    return {
      calls: this.ms.length,
      p50Ms: quantile(this.ms, 0.5),
      p99Ms: quantile(this.ms, 0.99),
      maxMs: quantile(this.ms, 1),
    };
  }

  async #run(): Promise<void> {
    while (!this.#isStopped) {
      const start = performance.now();
      await this.#get();
      this.ms.push(performance.now() - start);
      await sleep(3);
    }
  }

  #get(): Promise<void> {
    return new Promise((resolve, reject) => {
      const call = httpRequest(this.#url, { agent: this.#agent }, (response) => {
        response.on('end', resolve).on('error', reject).resume();
      });
      call.on('error', reject).end();
    });
  }
}

let requests = 0;

/** @param tenant who asks, 0 … 15: new pictures that many ask about at once are decoded once for each tenant */
function ask(
  text: string,
  images: number,
  sampling: Partial<GenerateRequest['sampling']>,
  tenant = 0,
): GenerateRequest {
  return {
    requestId: `r${requests++}`,
    tenant: tenant.toString(16).repeat(32),
    model: 'm',
    messages: [
      {
        role: 'user',
        parts: [
          ...Array.from({ length: images }, (_, blob) => ({ type: 'image' as const, blob })),
          { type: 'text', text },
        ],
      },
    ],
    // A log-probability makes every token an event, though it be half a character.
    sampling: { maxTokens: 8, temperature: 0, topP: 1, stop: [], logprobs: 0, ...sampling },
    deadlineMs: 600_000,
  };
}

/** A text of about so many tokens, different for each seed. */
const longText = (tokens: number, seed: number): string =>
  Array.from({ length: tokens }, (_, i) => String.fromCharCode(97 + ((i * 7 + seed * 11 + ((i * i) >> 3)) % 26))).join(
    '',
  );

const results: Record<string, unknown> = {};

if (parts.has('prefill') || parts.has('abort')) {
  const dir = await servedBenchCheckpoint();
  const backend = await TestBackend.start({ ...compute, MANTIS_MODELS: `m=${dir}` });
  try {
    const pictures = await scenePictures(1, 8);
    // Compiles, and packs weights.
    for await (const _ of eventsOf(await backend.post('/v1/generate', ask('x', 1, {}), pictures.slice(0, 1))));
    if (parts.has('prefill')) {
      const idle = new HealthProbe(backend.url);
      await sleep(2000);
      const before = await idle.stop();
      const during = new HealthProbe(backend.url);
      const start = performance.now();
      let promptTokens = 0;
      for (const images of [0, 8]) {
        const text = longText(images === 0 ? Number(flags.prompt) : 100, images);
        const response = await backend.post(
          '/v1/generate',
          ask(text, images, { maxTokens: 1 }),
          pictures.slice(0, images),
        );
        for await (const event of eventsOf(response)) if (event.type === 'started') promptTokens += event.promptTokens;
      }
      results.prefill = {
        promptTokens,
        seconds: rounded((performance.now() - start) / 1000),
        healthIdle: before,
        health: await during.stop(),
      };
      console.error(JSON.stringify(results.prefill));
    }
    if (parts.has('abort')) {
      const steps: number[] = [];
      const untilGoneMs: number[] = [];
      for (let round = 0; round < 5; round++) {
        const before = await backend.metric('mantis_decode_runs');
        const abort = new AbortController();
        const response = await backend.post(
          '/v1/generate',
          ask(`${round}`, 0, { maxTokens: 400, temperature: 1, seed: round }),
          [],
          abort.signal,
        );
        let tokens = 0;
        const start = await (async () => {
          for await (const event of eventsOf(response))
            if (event.type === 'delta' && ++tokens === 4) return performance.now();
          throw new Error('the answer ended before it was aborted');
        })();
        abort.abort();
        while ((await backend.metric('mantis_num_requests_running')) > 0) await sleep(1);
        untilGoneMs.push(performance.now() - start);
        // The prompt gives the first token, each decode run one more.
        steps.push((await backend.metric('mantis_decode_runs')) - before - (tokens - 1));
      }
      results.abort = {
        /** Runs after the last token that the client had seen; one was under way. */
        runsAfterAbort: steps,
        untilGoneMs: untilGoneMs.map(rounded),
      };
      console.error(JSON.stringify(results.abort));
    }
  } finally {
    await backend.stop();
  }
}

if (parts.has('streams')) {
  const count = Number(flags.streams);
  const backend = await TestBackend.start({
    ...compute,
    MANTIS_MODELS: `m=${NANO_DIR}`,
    MANTIS_MAX_ROWS: flags.rows,
    MANTIS_KV_TOKENS: flags['kv-tokens'],
  });
  try {
    const pid = backend.child.pid!;
    const pictures = await scenePictures(2, 6);
    for await (const _ of eventsOf(await backend.post('/v1/generate', ask('x', 1, {}), pictures.slice(0, 1))));
    const { rssBytes: rssBefore } = memoryOf(pid);
    const { eosTokens } = readConfig(NANO_DIR).text;
    const probe = new HealthProbe(backend.url);
    const start = performance.now();
    const firstTokenMs: number[] = [];
    const gaps: number[] = [];
    const worstOfStream: number[] = [];
    let tokens = 0;
    const stream = async (index: number): Promise<void> => {
      const images = index % 4;
      const sampling = {
        maxTokens: Number(flags.tokens),
        temperature: 1,
        seed: index,
        // So that every answer is as long as it may be.
        logitBias: eosTokens.map((id): [number, number] => [id, -100]),
      };
      const text = `Is there a black square in image 1? ${longText(index % 40, index)}`;
      const request = ask(text, images, sampling, index % 5);
      const own = [index, index + 1, index + 2].slice(0, images).map((one) => pictures[one % pictures.length]!);
      let last: number | null = null;
      let worst = 0;
      for await (const event of eventsOf(await backend.post('/v1/generate', request, own))) {
        if (event.type === 'error') throw new Error(event.error.message);
        if (event.type !== 'delta') continue;
        const now = performance.now();
        if (last === null) firstTokenMs.push(now - start);
        else {
          gaps.push(now - last);
          worst = Math.max(worst, now - last);
        }
        last = now;
        tokens++;
      }
      worstOfStream.push(worst);
    };
    let peakRunning = 0;
    let isDone = false;
    const watching = (async () => {
      while (!isDone) {
        peakRunning = Math.max(peakRunning, await backend.metric('mantis_num_requests_running'));
        await sleep(250);
      }
    })();
    watching.catch(() => {});
    await Promise.all(Array.from({ length: count }, (_, index) => stream(index)));
    const seconds = (performance.now() - start) / 1000;
    isDone = true;
    await watching;
    const memory = memoryOf(pid);
    results.streams = {
      streams: count,
      tokens,
      seconds: rounded(seconds),
      tokensPerSecond: rounded(tokens / seconds),
      peakRunning,
      firstTokenMs: { p50: quantile(firstTokenMs, 0.5), max: quantile(firstTokenMs, 1) },
      gapMs: { p50: quantile(gaps, 0.5), p99: quantile(gaps, 0.99), max: quantile(gaps, 1) },
      streamsWithStall: worstOfStream.filter((ms) => ms > 1000).length,
      preemptions: await backend.metric('mantis_num_preemptions_total'),
      health: await probe.stop(),
      rssBeforeMiB: Math.round(rssBefore / 2 ** 20),
      peakRssMiB: Math.round(memory.peakRssBytes / 2 ** 20),
      rssAfterMiB: Math.round(memory.rssBytes / 2 ** 20),
      kvBytesAfter: await backend.metric('mantis_kv_cache_bytes'),
    };
    console.error(JSON.stringify(results.streams));
  } finally {
    await backend.stop();
  }
}
console.log(
  JSON.stringify({
    benchmark: 'responsive',
    node: process.version,
    precision: flags.precision,
    kv: flags.kv,
    ...results,
  }),
);
process.exit(0);
