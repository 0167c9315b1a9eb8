import type { MiddlewareHandler } from 'hono';
import { ApiError } from '../../shared/contract/errors.ts';
import { LIMITS } from '../../shared/contract/limits.ts';
import { FRAME_TYPE } from '../../shared/wire/frame.ts';
import { NonceCache } from '../../shared/wire/nonces.ts';
import { bodyMatches, verifyHeaders } from '../../shared/wire/signature.ts';
import { frameMatches } from '../../shared/wire/signedFrame.ts';

const FRAME_LIMITS = {
  maxHeaderBytes: LIMITS.backends.maxFrameHeaderBytes,
  maxBlobs: LIMITS.backends.maxFrameBlobs,
  maxBlobBytes: LIMITS.images.maxBytes,
};

/** By how much the clocks of the edge's own machines may differ. */
const CLOCK_SLACK_S = 1;

/** What the signature check leaves for the handlers: the body it has read and compared. */
export interface SignedEnv {
  Variables: { body: Uint8Array };
}

/**
 * Refuses every call that the edge did not sign, and those that it signed but that came before, before the body is read; then reads the body within `maxBytes` and compares
 * its digest. Mounted on everything but the health routes: a route added later is closed unless somebody opens it.
 *
 * Throws `invalid_signature` (401) and `request_too_large` (413).
 */
export function requireSignature(options: {
  readonly secret: string;
  /** Id of this backend, drawn anew at each start: calls for others, and those from before, are refused. Left out: any is accepted. */
  readonly audience?: string | undefined;
  /** The edge's clock, Unix ms, when it first heard of this run of the backend; null = not yet. What it signed before was for an earlier run. */
  readonly knownSinceMs?: (() => number | null) | undefined;
  readonly toleranceS: number;
  readonly maxBytes: number;
}): MiddlewareHandler<SignedEnv> {
  const nonces = new NonceCache(options.toleranceS, LIMITS.backends.maxNonces);
  return async function requireSignature(c, next) {
    const url = new URL(c.req.url);
    const verdict = await verifyHeaders({
      secret: options.secret,
      ...(options.audience === undefined ? {} : { audience: options.audience }),
      method: c.req.method,
      target: url.pathname + url.search,
      header: (name) => c.req.header(name),
      nowS: Date.now() / 1000,
      toleranceS: options.toleranceS,
    });
    if (!verdict.ok) throw new ApiError('invalid_signature', `Signature: ${verdict.reason}.`);
    if (options.knownSinceMs !== undefined) {
      const sinceMs = options.knownSinceMs();
      if (sinceMs === null)
        throw new ApiError('overloaded', 'This backend is starting: the edge has not heard of it yet.');
      if (verdict.timestampS < Math.floor(sinceMs / 1000) - CLOCK_SLACK_S)
        throw new ApiError(
          'invalid_signature',
          'Signature: expected a call for this run of the backend, received an earlier one.',
        );
    }
    if (!nonces.take(verdict.nonce, verdict.timestampS, Date.now() / 1000))
      throw new ApiError(
        'invalid_signature',
        'Signature: expected a nonce that was not used before. Sign each call anew.',
      );
    const body = await readWithin(c.req.raw.body, options.maxBytes);
    const isFrame = c.req.header('content-type') === FRAME_TYPE;
    const matches = isFrame
      ? await frameMatches(verdict.bodyDigest, body, FRAME_LIMITS)
      : await bodyMatches(verdict.bodyDigest, body);
    if (!matches) throw new ApiError('invalid_signature', 'Signature: the body is not the one that was signed.');
    c.set('body', body);
    await next();
  };
}

async function readWithin(stream: ReadableStream<Uint8Array> | null, maxBytes: number): Promise<Uint8Array> {
  if (stream === null) return new Uint8Array(0);
  const chunks: Uint8Array[] = [];
  let total = 0;
  for await (const chunk of stream as ReadableStream<Uint8Array> & AsyncIterable<Uint8Array>) {
    total += chunk.byteLength;
    if (total > maxBytes)
      throw new ApiError('request_too_large', `Body: expected at most ${maxBytes} bytes, received more.`);
    chunks.push(chunk);
  }
  return Buffer.concat(chunks, total);
}
