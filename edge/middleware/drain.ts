import type { MiddlewareHandler } from 'hono';
import { LIMITS } from '../../shared/contract/limits.ts';
import type { AppEnv } from '../env.ts';
import { largeChunks } from './body.ts';

const R = LIMITS.request;

/**
 * Reads what a refused request is still sending, within bounds, and throws it away: the runtime closes a connection whose request was not read to its
 * end, and a client in the middle of it would see a broken pipe instead of the answer. Who is not known is listened to for less.
 */
export function drain(): MiddlewareHandler<AppEnv> {
  return async (c, next) => {
    await next();
    const { body, bodyUsed } = c.req.raw;
    if (c.res.status < 400 || body === null || bodyUsed || body.locked) return;
    const isKnown = c.get('keyId') !== undefined;
    await discard(body, isKnown ? R.maxDrainedBytes : R.maxDrainedBytesUnknown);
  };
}

async function discard(body: ReadableStream, maxBytes: number): Promise<void> {
  const chunks = largeChunks(body);
  const endAtMs = Date.now() + R.maxDrainMs;
  let timer: ReturnType<typeof setTimeout> | undefined;
  const late = new Promise<null>((resolve) => {
    timer = setTimeout(() => resolve(null), R.maxDrainMs);
  });
  try {
    for (let read = 0; read <= maxBytes && Date.now() < endAtMs; ) {
      const chunk = await Promise.race([chunks.next(), late]);
      if (chunk === null || chunk.done === true) break;
      read += chunk.value.byteLength;
    }
  } catch {
    // The client has left.
  } finally {
    clearTimeout(timer ?? null);
    // Not waited for: a read that is pending ends with the connection.
    chunks.return().catch(() => {});
  }
}
