/** A request that is sent again is done once: `Idempotency-Key`, and what the official clients send again by themselves. */
import type { Context, MiddlewareHandler } from 'hono';
import { ApiError, describe, errorMessage } from '../../shared/contract/errors.ts';
import { LIMITS } from '../../shared/contract/limits.ts';
import type { AppEnv } from '../env.ts';
import { claimAnswer, dropClaim, type KeptAnswer, keepAnswer, type Owner, sweepAnswers } from '../store/idempotency.ts';
import { largeChunks } from './body.ts';
import { Fingerprint, watched } from './fingerprint.ts';
import { passedOn } from './relay.ts';

const L = LIMITS.idempotency;

/** Creations that count as the same when a client's own retry brings them again without a key. */
const UNKEYED: ReadonlySet<string> = new Set(['/v1/files', '/v1/uploads', '/v1/batches', '/v1/fine_tuning/jobs']);
/** Answers that are passed on while they are made, and kept when they are whole. */
const PASSED_ON: ReadonlySet<string> = new Set(['/v1/chat/completions']);
/** Kept with an answer; everything else is said anew. */
const KEPT_HEADERS = ['content-type', 'cache-control', 'x-image-cache'] as const;
/** One request in so many also looks for rows that are to go. */
const SWEEP_EVERY = 64;

/**
 * For POSTs under /v1. Successful answers are kept for a day, streams as the text that they were; refusals and failures are not, so that the same key may be
 * sent again once the reason is gone. The work goes on where the client hangs up, except answers that are passed on while they are made.
 */
export function idempotency(): MiddlewareHandler<AppEnv> {
  return async (c, next) => {
    const { method, path } = c.req;
    if (method !== 'POST') return next();
    const given = c.req.header('idempotency-key');
    if (given !== undefined) checkKey(given, path);
    const tries = c.req.header('x-stainless-retry-count');
    if (given === undefined && (tries === undefined || !UNKEYED.has(path))) return next();

    const type = c.req.header('content-type') ?? '';
    const fingerprint = new Fingerprint(`${method} ${path}${new URL(c.req.url).search}`, type);
    // A body that fits into memory is read beforehand; a larger one is compared when it has been read, which only a key can wait for.
    const maxBytes = type.startsWith('multipart/') ? L.maxUnkeyedMultipartBytes : LIMITS.request.maxJsonBytes;
    const isSmall = Number(c.req.header('content-length') ?? Number.NaN) <= maxBytes;
    if (!isSmall && given === undefined) return next();
    const known = isSmall ? await read(c.req.raw.clone(), fingerprint) : null;

    const owner: Owner = {
      tenant: c.get('tenant'),
      key: given === undefined ? `body ${known}` : `key ${given}`,
      token: crypto.randomUUID(),
    };
    const nowMs = Date.now();
    const keepMs = given === undefined ? L.retryWindowMs : L.keepMs;
    // Without a key, a first try is a request of its own even where its words are not new.
    const anew = given === undefined && !(Number(tries) > 0);
    const row = await claimAnswer(c.env.DB, { ...owner, fingerprint: known, nowMs, keepMs, anew });
    if (row.token !== owner.token) return repeat(row, known ?? (await read(c.req.raw, fingerprint)), nowMs);

    if (Math.random() < 1 / SWEEP_EVERY) c.executionCtx.waitUntil(sweepAnswers(c.env.DB, owner.tenant, nowMs));
    if (known === null) c.req.raw = watched(c.req.raw, (chunk) => fingerprint.push(chunk));
    const claim: Claim = { owner, expiresAtMs: nowMs + keepMs, digest: async () => known ?? (await fingerprint.end()) };
    const work = once(c, claim, next);
    c.executionCtx.waitUntil(work.catch(() => {}));
    await work;
  };
}

type Claim = { owner: Owner; expiresAtMs: number; digest: () => Promise<string> };

function checkKey(key: string, path: string): void {
  if (path.startsWith('/v1/admin/')) {
    throw new ApiError(
      'unsupported_parameter',
      errorMessage('Idempotency-Key', {
        expected: 'no such header under /v1/admin',
        remedy: 'Answers there hold secrets, which are not kept.',
      }),
      { param: 'Idempotency-Key' },
    );
  }
  if (/^[\x21-\x7e](?:[\x20-\x7e]*[\x21-\x7e])?$/.test(key) && key.length <= L.maxKeyChars) return;
  throw new ApiError(
    'invalid_value',
    errorMessage('Idempotency-Key', {
      expected: `1 to ${L.maxKeyChars} printable ASCII characters`,
      received: describe(key),
    }),
    { param: 'Idempotency-Key' },
  );
}

async function read(request: Request, fingerprint: Fingerprint): Promise<string> {
  if (request.body !== null) for await (const chunk of largeChunks(request.body)) await fingerprint.push(chunk);
  return fingerprint.end();
}

/** The answer to a request whose key somebody has. */
function repeat(row: KeptAnswer, fingerprint: string, nowMs: number): Response {
  if (row.fingerprint !== null && row.fingerprint !== fingerprint) {
    throw new ApiError(
      'idempotency_mismatch',
      'Idempotency-Key: expected the request that it was first sent with, received another path or body. Draw a new key for a new request.',
      { param: 'Idempotency-Key' },
    );
  }
  if (row.status === null) {
    const runsMs = Math.max(nowMs - row.started_at, 0);
    throw new ApiError(
      'idempotency_in_progress',
      `Idempotency-Key: the first request with it has been running for ${runsMs} ms. Send it again to get its answer.`,
      // As long again as it has taken so far.
      { param: 'Idempotency-Key', shouldRetry: true, retryAfterMs: Math.min(Math.max(runsMs, 100), 5_000) },
    );
  }
  const headers = new Headers(JSON.parse(row.headers ?? '{}') as Record<string, string>);
  headers.set('idempotent-replayed', 'true');
  return new Response(row.body, { status: row.status, headers });
}

/** Runs the handler and keeps what it answers, before the client can have all of it. */
async function once(c: Context<AppEnv>, claim: Claim, next: () => Promise<void>): Promise<void> {
  try {
    await next();
  } catch (error) {
    await dropClaim(c.env.DB, claim.owner);
    throw error;
  }
  const { res } = c;
  if (!res.ok) return dropClaim(c.env.DB, claim.owner);
  if (PASSED_ON.has(c.req.path) && res.body !== null) {
    c.res = new Response(keptOnItsWay(c, claim, res.body), res);
    return;
  }
  const body = await res.text();
  await keep(c, claim, body);
  c.res = new Response(body, res);
}

async function keep(c: Context<AppEnv>, { owner, expiresAtMs, digest }: Claim, body: string): Promise<void> {
  const { status, headers } = c.res;
  if (body.length > L.maxAnswerBytes || isBroken(headers.get('content-type') ?? '', body)) {
    return dropClaim(c.env.DB, owner);
  }
  const kept: Record<string, string> = {};
  for (const name of KEPT_HEADERS) {
    const value = headers.get(name);
    if (value !== null) kept[name] = value;
  }
  const answer = { status, headers: JSON.stringify(kept), body, fingerprint: await digest() };
  await keepAnswer(c.env.DB, owner, answer, expiresAtMs);
}

/** Whether an answer whose status had gone out came to a bad end. */
function isBroken(type: string, body: string): boolean {
  if (type.startsWith('text/event-stream')) return !body.trimEnd().endsWith('data: [DONE]');
  // What was begun with white space was begun before its end was known.
  return body.startsWith(' ') && /^\s*\{"error":/.test(body);
}

/** The same body, which ends only after it has been kept. One that is given up or breaks leaves nothing. */
function keptOnItsWay(c: Context<AppEnv>, claim: Claim, body: ReadableStream<Uint8Array>): ReadableStream<Uint8Array> {
  const decoder = new TextDecoder();
  let text = '';
  return passedOn(body, {
    see(chunk) {
      if (text.length <= L.maxAnswerBytes) text += decoder.decode(chunk, { stream: true });
    },
    atEnd(isWhole) {
      // A client that hangs up may end this invocation at any await; what is to be done all the same is said beforehand.
      const work = isWhole ? keep(c, claim, text) : dropClaim(c.env.DB, claim.owner);
      c.executionCtx.waitUntil(work);
      return work;
    },
  });
}
