/**
 * What the door counts. One recorder an isolate: `metrics.rejections.inc(1, 'too_many_images')`. Names follow spec and vLLM's under the prefix
 * `mantis_edge_`; units are in the names; labels are of low cardinality only: routes as patterns, never ids, keys or what a client wrote.
 */
import { Counter, type Definition, type Delta, Histogram, takeDelta } from './recorder.ts';

export const PREFIX = 'mantis_edge_';

/** Seconds, from a refusal at once to an answer that queued for minutes. */
const LATENCY = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300];
const COUNT = [0, 1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 64];
const BYTES = [1e3, 1e4, 5e4, 1e5, 2.5e5, 5e5, 1e6, 2.5e6, 5e6, 1e7, 2e7];
const PIXELS = [1e4, 1e5, 2.5e5, 5e5, 1e6, 2e6, 5e6, 1e7, 2.5e7, 5e7, 1e8, 2e8];
const TOKENS = [16, 64, 128, 256, 512, 1_024, 2_048, 4_096, 8_192, 16_384, 32_768];
const COLD_START = [0.25, 0.5, 1, 1.5, 2, 2.5, 5, 10, 20, 30, 60, 120, 300];

const counter = (name: string, help: string, ...labels: string[]) => new Counter({ name, help, labels });
const histogram = (name: string, help: string, buckets: readonly number[], ...labels: string[]) =>
  new Histogram({ name, help, buckets, labels });

export const metrics = {
  requests: counter(
    'requests_total',
    'Requests by route pattern and class of the status they were answered with.',
    'method',
    'route',
    'status',
  ),
  requestDuration: histogram(
    'request_duration_seconds',
    'From the first byte of a request to the last byte of its answer handed to the runtime, streams included.',
    LATENCY,
    'route',
  ),
  rejections: counter('rejections_total', 'Requests not done, by error code; errors inside a stream included.', 'code'),
  answers: counter(
    'request_success_total',
    'Answers that came to their end, by how they ended.',
    'model_name',
    'finished_reason',
  ),
  aborts: counter('request_aborts_total', 'Answers whose client hung up before their end.'),
  timeToFirstToken: histogram(
    'time_to_first_token_seconds',
    'From the arrival of a request at the door to its first token.',
    LATENCY,
    'model_name',
  ),
  queueWait: histogram(
    'request_queue_time_seconds',
    'Time a request was held at the door until a backend had room.',
    LATENCY,
    'model_name',
  ),
  requestImages: histogram('request_images', 'Pictures of a request.', COUNT, 'model_name'),
  requestImageBytes: histogram('request_image_bytes', 'Bytes of the pictures of a request.', BYTES, 'model_name'),
  requestImagePixels: histogram('request_image_pixels', 'Pixels of the pictures of a request.', PIXELS, 'model_name'),
  requestImageTokens: histogram(
    'request_image_tokens',
    'Decoder positions of the pictures of a request.',
    TOKENS,
    'model_name',
  ),
  requestPromptTokens: histogram(
    'request_prompt_tokens',
    'Tokens of a prompt, pictures included.',
    TOKENS,
    'model_name',
  ),
  requestGenerationTokens: histogram('request_generation_tokens', 'Tokens of an answer.', TOKENS, 'model_name'),
  promptTokens: counter('prompt_tokens_total', 'Tokens of prompts, pictures included.', 'model_name'),
  cachedTokens: counter(
    'prompt_tokens_cached_total',
    'Prompt tokens that a backend put back instead of computing.',
    'model_name',
  ),
  generationTokens: counter('generation_tokens_total', 'Tokens of answers.', 'model_name'),
  images: counter('images_total', 'Pictures of answered requests.', 'model_name'),
  upstreamAttempts: counter('upstream_attempts_total', 'Calls of a backend, by outcome.', 'outcome'),
  upstreamRetries: counter('upstream_retries_total', 'Calls of a backend beyond the first of a request.'),
  imageCache: counter('image_cache_total', 'Pictures by where the backend had their features from.', 'source'),
  transferCache: counter(
    'transfer_cache_total',
    'Pictures by whether their bytes had to travel to the backend.',
    'result',
  ),
  webhookDeliveries: counter('webhook_deliveries_total', 'Attempts to deliver a webhook, by outcome.', 'outcome'),
  evalQuestions: counter(
    'eval_questions_total',
    'Questions of evaluations that were asked, by what came of them.',
    'status',
  ),
  coldStart: histogram('cold_start_seconds', 'From a backend process that begins until it can answer.', COLD_START),
} as const;

export const DEFINITIONS: readonly Definition[] = Object.values(metrics).map(({ definition }) => definition);

/** What this isolate has counted since it was last asked, or null. */
export function takeCounts(): Delta | null {
  return takeDelta(Object.values(metrics));
}
