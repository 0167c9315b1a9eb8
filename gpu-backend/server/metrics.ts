import { Counter, collectDefaultMetrics, Gauge, Histogram, Registry } from 'prom-client';
import type { TierStats } from '../engine/feature-store.ts';
import type { PictureCounts } from '../engine/pictures.ts';
import type { EngineStats, ModelStats } from '../engine/protocol.ts';
import type { ServiceStats } from '../engine/service.ts';
import type { BlobCacheStats } from './blob-cache.ts';

/** Seconds; from one decode step of a small model to a request that queued for minutes. */
const LATENCY_BUCKETS = [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300];

const TOKEN_BUCKETS = [16, 64, 128, 256, 512, 1_024, 2_048, 4_096, 8_192, 16_384, 32_768];

const NO_BLOBS: BlobCacheStats = { bytes: 0, entries: 0, hits: 0, misses: 0, evictions: 0 };

export type Metrics = ReturnType<typeof createMetrics>;

/**
 * Prometheus metrics of a backend. Names follow vLLM's under the prefix `mantis_`; labels are of low cardinality only, never
 * request ids or keys.
 * @param readStats called at every scrape
 * @param readBlobs as `readStats`, of picture files; default none
 */
export function createMetrics(
  readStats: () => Promise<ServiceStats>,
  readBlobs: () => BlobCacheStats = () => NO_BLOBS,
) {
  // One question to the engine a scrape, however many numbers are read from its answer.
  let asked: Promise<ServiceStats> | null = null;
  const readEngine = (): Promise<ServiceStats> =>
    (asked ??= readStats().finally(() => {
      asked = null;
    }));
  const registry = new Registry();
  collectDefaultMetrics({ register: registry, prefix: 'mantis_' });
  const registers = [registry];
  const labelNames = ['model_name'] as const;
  const histogram = (name: string, help: string) =>
    new Histogram({ name: `mantis_${name}`, help, labelNames, buckets: LATENCY_BUCKETS, registers });
  const tokenHistogram = (name: string, help: string) =>
    new Histogram({ name: `mantis_${name}`, help, labelNames, buckets: TOKEN_BUCKETS, registers });
  const counter = <L extends string = 'model_name'>(name: string, help: string, labels?: readonly L[]) =>
    new Counter({
      name: `mantis_${name}`,
      help,
      labelNames: labels ?? (labelNames as unknown as readonly L[]),
      registers,
    });

  /** Levels and sums that live in the engine thread, copied at every scrape. */
  const ofModel: [name: string, help: string, value: (stats: ModelStats) => number][] = [
    ['num_requests_running', 'Requests with a row in the batch.', (m) => m.running],
    ['num_requests_waiting', 'Requests that wait for a row.', (m) => m.waiting],
    ['kv_cache_usage_perc', 'Share of the KV budget in use, 0 … 1.', (m) => m.kvTokens / m.kvBudgetTokens],
    [
      'kv_cache_bytes',
      'Bytes of memory for keys and values; what an idle engine keeps for the next rows is given back after 10 s.',
      (m) => m.kvBytes,
    ],
    ['prefix_cache_bytes', 'Bytes of keys and values kept of prompts and answers.', (m) => m.prefixBytes],
    ['encoded_images', 'Images run through the vision encoder since start.', (m) => m.counters.encodedImages],
    ['encoder_runs', 'Encoder runs since start; images over runs is the mean batch.', (m) => m.counters.encodeRuns],
    ['encoder_seconds', 'Seconds in the vision encoder since start.', (m) => m.counters.encodeMs / 1000],
    ['prefill_seconds', 'Seconds on prompt tokens since start.', (m) => m.counters.prefillMs / 1000],
    ['decode_seconds', 'Seconds in decode steps since start.', (m) => m.counters.decodeMs / 1000],
    ['decode_runs', 'Decode steps since start; tokens over steps is the mean batch.', (m) => m.counters.decodeRuns],
  ];
  for (const [name, help, value] of ofModel)
    new Gauge({
      name: `mantis_${name}`,
      help,
      labelNames,
      registers,
      async collect() {
        this.reset();
        for (const stats of (await readEngine()).models) this.set({ model_name: stats.model }, value(stats));
      },
    });
  const sumsOfModel: [name: string, help: string, value: (stats: ModelStats) => number][] = [
    ['num_preemptions_total', 'Rows that had to give their room to others.', (m) => m.counters.preemptions],
    [
      'prompt_tokens_computed_total',
      'Prompt tokens computed, again after a preemption included.',
      (m) => m.counters.promptTokens,
    ],
    ['prompt_tokens_cached_total', 'Prompt tokens put back instead of computed.', (m) => m.counters.cachedTokens],
    ['prefix_cache_queries_total', 'Tokens looked for in the prefix cache.', (m) => m.prefixes.queryTokens],
    ['prefix_cache_hits_total', 'Tokens found in the prefix cache.', (m) => m.prefixes.hitTokens],
    ['prefix_cache_evictions_total', 'Pieces of prompts dropped for want of room.', (m) => m.prefixes.evictions],
    ['spec_decode_num_draft_tokens_total', 'Guessed tokens that were tried.', (m) => m.counters.draftedTokens],
    ['spec_decode_num_accepted_tokens_total', 'Guessed tokens that were right.', (m) => m.counters.acceptedTokens],
  ];
  for (const [name, help, value] of sumsOfModel)
    new Counter({
      name: `mantis_${name}`,
      help,
      labelNames,
      registers,
      async collect() {
        const { models } = await readEngine();
        // Without a pause between the two: scrapes may overlap.
        this.reset();
        for (const stats of models) this.inc({ model_name: stats.model }, value(stats));
      },
    });
  const ofCache: [name: string, help: string, value: (cache: EngineStats['cache']) => number][] = [
    ['mm_cache_bytes', 'Bytes of cached image features.', (cache) => cache.bytes],
    ['mm_cache_entries', 'Pictures with cached features.', (cache) => cache.entries],
    ['mm_cache_queries', 'Look-ups of image features since start.', (cache) => cache.queries],
    ['mm_cache_hits', 'Look-ups of image features answered from the cache, since start.', (cache) => cache.hits],
    ['mm_cache_evictions', 'Features dropped for want of room, since start.', (cache) => cache.evictions],
  ];
  for (const [name, help, value] of ofCache)
    new Gauge({
      name: `mantis_${name}`,
      help,
      registers,
      async collect() {
        this.set(value((await readEngine()).cache));
      },
    });

  const ofBlobs: [name: string, help: string, value: (blobs: BlobCacheStats) => number][] = [
    ['bytes', 'Bytes of picture files that need not travel again.', (blobs) => blobs.bytes],
    ['entries', 'Picture files that need not travel again.', (blobs) => blobs.entries],
    ['hits', 'Pictures named by digest and found, since start.', (blobs) => blobs.hits],
    ['misses', 'Pictures named by digest and not found, since start.', (blobs) => blobs.misses],
    ['evictions', 'Picture files dropped for want of room, since start.', (blobs) => blobs.evictions],
  ];
  for (const [name, help, value] of ofBlobs)
    new Gauge({
      name: `mantis_blob_cache_${name}`,
      help,
      registers,
      collect() {
        this.set(value(readBlobs()));
      },
    });

  const ofTier: [name: string, help: string, value: (tier: TierStats) => number][] = [
    ['queries', 'Look-ups of stored image features since start.', (tier) => tier.queries],
    ['hits', 'Look-ups answered, since start.', (tier) => tier.hits],
    ['timeouts', 'Look-ups given up for the time they took, since start.', (tier) => tier.timeouts],
    ['failures', 'Reads and writes that failed, since start.', (tier) => tier.failures],
    ['damaged', 'Records that were not as they were written, since start.', (tier) => tier.damaged],
    ['writes', 'Records written since start.', (tier) => tier.writes],
    ['written_bytes', 'Bytes written since start.', (tier) => tier.writtenBytes],
    ['dropped', 'Records not written because too many waited, since start.', (tier) => tier.dropped],
    ['bytes', 'Bytes held, where the tier knows.', (tier) => tier.size?.bytes ?? Number.NaN],
    ['entries', 'Records held, where the tier knows.', (tier) => tier.size?.entries ?? Number.NaN],
    ['evictions', 'Records removed for want of room, since start.', (tier) => tier.size?.evictions ?? Number.NaN],
  ];
  for (const [name, help, value] of ofTier)
    new Gauge({
      name: `mantis_mm_store_${name}`,
      help,
      labelNames: ['tier'],
      registers,
      async collect() {
        this.reset();
        for (const tier of (await readEngine()).featureTiers) {
          const level = value(tier);
          if (!Number.isNaN(level)) this.set({ tier: tier.tier }, level);
        }
      },
    });
  const sources = ['memory', 'disk', 'objects', 'decoded'] as const satisfies readonly (keyof PictureCounts)[];
  new Gauge({
    name: 'mantis_mm_pictures',
    help: 'Pictures of requests since start, by where their features were found; decoded: nowhere.',
    labelNames: ['source'],
    registers,
    async collect() {
      const { pictures } = await readEngine();
      for (const source of sources) this.set({ source }, pictures[source]);
    },
  });

  return {
    registry,
    promptTokens: counter('prompt_tokens_total', 'Prompt tokens of started requests, image tokens included.'),
    generationTokens: counter('generation_tokens_total', 'Tokens sent to clients.'),
    requestSuccess: counter('request_success_total', 'Requests that ended as they should.', [
      'model_name',
      'finished_reason',
    ]),
    requestFailure: counter('request_failure_total', 'Requests refused or failed, by error code.', ['code']),
    timeToFirstToken: histogram('time_to_first_token_seconds', 'From arrival to the first token.'),
    interTokenLatency: histogram('inter_token_latency_seconds', 'Between consecutive tokens of a request.'),
    e2eLatency: histogram('e2e_request_latency_seconds', 'From arrival to the end of the answer.'),
    prefillTime: histogram(
      'request_prefill_time_seconds',
      'From a prompt that is ready to its first token: waiting for a row, encoding pictures, prefill.',
    ),
    decodeTime: histogram('request_decode_time_seconds', 'From the first token of a request to its last.'),
    requestPromptTokens: tokenHistogram('request_prompt_tokens', 'Tokens of a prompt, image tokens included.'),
    requestGenerationTokens: tokenHistogram('request_generation_tokens', 'Tokens of an answer.'),
    preprocess: histogram(
      'request_preprocess_seconds',
      'Decoding and resizing of a request’s images, and its tokenization.',
    ),
    requestImages: new Histogram({
      name: 'mantis_request_images',
      help: 'Images in a request.',
      labelNames,
      buckets: [0, 1, 2, 3, 4, 6, 8, 16, 32, 64],
      registers,
    }),
    evalQuestions: counter(
      'eval_questions_total',
      'Questions of evaluations that were asked here, by what came of them.',
      ['status'],
    ),
    evalQuestionTime: new Histogram({
      name: 'mantis_eval_question_seconds',
      help: 'From a question of an evaluation that is asked to its verdict, judges and waiting for the engine included.',
      buckets: LATENCY_BUCKETS,
      registers,
    }),
    evalRunsRunning: new Gauge({
      name: 'mantis_eval_runs_running',
      help: 'Runs of evaluations that this backend works on now.',
      registers,
    }),
    jobs: counter('jobs_total', 'Fine-tuning jobs that left this backend, by outcome.', ['outcome']),
    jobsRunning: new Gauge({ name: 'mantis_jobs_running', help: 'Fine-tuning jobs running now.', registers }),
    trainStep: new Gauge({
      name: 'mantis_train_step',
      help: 'Optimizer step of the running job; 0 = none.',
      registers,
    }),
    edgeHeartbeatFailures: new Counter({
      name: 'mantis_edge_heartbeat_failures_total',
      help: 'Heartbeats that the edge did not answer.',
      registers,
    }),
  };
}
