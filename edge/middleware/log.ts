import type { Context, MiddlewareHandler } from 'hono';
import { routePath } from 'hono/route';
import { ApiError } from '../../shared/contract/errors.ts';
import type { AppEnv, Env } from '../env.ts';
import { flushSoon } from '../metrics/collector.ts';
import { countRequest, newFacts, type RequestFacts } from '../metrics/facts.ts';
import type { Metered } from '../usage/record.ts';
import { recordRequest } from '../usage/request.ts';

/** The backend's names, of which it writes some that the edge has no use for. */
const LEVELS = ['trace', 'debug', 'info', 'warn', 'error', 'fatal', 'silent'] as const;
export type LogLevel = (typeof LEVELS)[number];

/** What is below `least` is not written; of requests that went well, only the share `sample`. */
type LogSettings = { least: number; sample: number };

/** Read once an isolate: bindings do not change under it. */
let settings: LogSettings | null = null;

/** @throws never: what cannot be read means the default, `info` and all */
export function logSettings(env: Pick<Env, 'LOG_LEVEL' | 'LOG_SAMPLE'>): LogSettings {
  const level = LEVELS.indexOf((env.LOG_LEVEL ?? '') as LogLevel);
  const sample = Number(env.LOG_SAMPLE || '1');
  return { least: level < 0 ? LEVELS.indexOf('info') : level, sample: sample >= 0 && sample <= 1 ? sample : 1 };
}

/**
 * One JSON line a request when its answer is over, streams included, and its part in the metrics. The line has ids, counts and times; never a key, a
 * header, a body, a picture or anything a person wrote. Health probes are left out, internal calls unless they fail: they come every second.
 */
export function log(): MiddlewareHandler<AppEnv> {
  return async (c, next) => {
    const facts = newFacts();
    c.set('facts', facts);
    await next();
    const { status } = c.res;
    facts.code ??= c.error instanceof ApiError ? c.error.code : status >= 500 ? 'server_error' : null;
    if (facts.pending) facts.onEnd = () => end(c, facts, status);
    else end(c, facts, status);
  };
}

function end(c: Context<AppEnv>, facts: RequestFacts, status: number): void {
  const { method, path } = c.req;
  // What no handler took has no pattern but the middleware's.
  const pattern = routePath(c, -1);
  const route = pattern.includes('*') ? 'none' : pattern;
  addPictures(facts, c.get('metered'));
  countRequest(facts, method, route, status);
  recordRequest(c, facts, route, status);
  flushSoon(c.env, c.executionCtx);
  settings ??= logSettings(c.env);
  const failed = facts.code !== null || status >= 400;
  const isProbe = route.startsWith('/health') || route === '/metrics';
  if (isProbe || (!failed && route.startsWith('/internal/'))) return;
  const level = status >= 500 || (facts.code !== null && status < 400) ? 'error' : 'info';
  if (LEVELS.indexOf(level) < settings.least) return;
  if (!failed && settings.sample < 1 && Math.random() >= settings.sample) return;
  console.log(JSON.stringify({ ...lineOf(c, facts, level, status), path: path.slice(0, 256), route }));
}

/** What validation has found out about a request for a model. */
function addPictures(facts: RequestFacts, metered: Metered | undefined): void {
  if (metered === undefined) return;
  // A fine-tune's name is nobody's label: `ft:<base>:…`.
  facts.model ??= metered.model.startsWith('ft:') ? (metered.model.split(':')[1] ?? null) : metered.model;
  facts.images = metered.images.length;
  facts.imageBytes = 0;
  facts.imagePixels = 0;
  let tokens = 0;
  const seen = new Set<string>();
  for (const image of metered.images) {
    tokens += image.tokens;
    if (seen.has(image.digest)) continue;
    seen.add(image.digest);
    facts.imageBytes += image.bytes;
    facts.imagePixels += image.width * image.height;
  }
  if (facts.imageTokens === 0) facts.imageTokens = tokens;
}

function lineOf(c: Context<AppEnv>, facts: RequestFacts, level: LogLevel, status: number): object {
  const nowMs = Date.now();
  const head = {
    level,
    event: 'request',
    time: new Date(nowMs).toISOString(),
    request_id: c.get('requestId'),
    trace_id: c.get('trace')?.id,
    tenant: c.get('tenant'),
    key_id: c.get('keyId'),
    method: c.req.method,
    status,
    ms: nowMs - facts.startMs,
    ...(facts.code === null ? {} : { code: facts.code }),
  };
  if (facts.model === null) return head;
  return {
    ...head,
    model: facts.model,
    stream: facts.stream,
    images: facts.images,
    image_bytes: facts.imageBytes,
    image_pixels: facts.imagePixels,
    image_tokens: facts.imageTokens,
    prompt_tokens: facts.promptTokens,
    cached_tokens: facts.cachedTokens,
    completion_tokens: facts.completionTokens,
    queue_ms: facts.queueMs,
    first_token_ms: facts.firstTokenMs,
    backend: facts.backend,
    attempts: facts.attempts,
    finish_reason: facts.finishReason,
    ...(facts.aborted ? { aborted: true } : {}),
  };
}
