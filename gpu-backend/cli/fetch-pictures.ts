/** Pictures at addresses, brought to this machine by a command that its user runs: what is asked of a model is then pinned by their bytes. */
import { setTimeout as sleep } from 'node:timers/promises';
import { LIMITS } from '../../shared/contract/limits.ts';
import type { ImageStore } from '../train/data/image-store.ts';

const AT_ONCE = 8;
/** After a failure that may pass: one hiccup among thousands of pictures is no reason to begin again. */
const PAUSES_MS = [500, 1_000, 2_000, 4_000];
const MAX_PAUSE_MS = 20_000;
const { totalMs } = LIMITS.images.remote;
const { maxBytes } = LIMITS.images;

/**
 * Fetches each picture once, eight at a time; what may pass (no connection, 408, 429, 5xx) is tried again, after the pause that the server names where it does.
 * @param onFetched called after each with how many there are so far
 * @returns reference in the store by address
 * @throws Error naming the first address that gives no picture, and why
 */
export async function fetchPictures(
  addresses: Iterable<string>,
  store: ImageStore,
  onFetched: (count: number) => void = () => {},
): Promise<Map<string, string>> {
  const found = new Map<string, string>();
  const waiting = new Set(addresses).values();
  const broken = new AbortController();
  const fetchNext = async (): Promise<void> => {
    for (const address of waiting) {
      const bytes = await fetchPatiently(address, broken.signal).catch((error: unknown) => {
        broken.abort();
        throw new Error(`${address.slice(0, 200)}: ${error instanceof Error ? error.message : String(error)}`);
      });
      found.set(address, await store.put(bytes));
      onFetched(found.size);
    }
  };
  await Promise.all(Array.from({ length: AT_ONCE }, fetchNext));
  return found;
}

/** It may be there in a moment. */
class Passing extends Error {
  constructor(
    message: string,
    readonly afterMs = 0,
  ) {
    super(message);
  }
}

async function fetchPatiently(address: string, broken: AbortSignal): Promise<Uint8Array> {
  for (let tries = 0; ; tries++) {
    try {
      return await fetchPicture(address, broken);
    } catch (error) {
      const pauseMs = PAUSES_MS[tries];
      if (!(error instanceof Passing) || pauseMs === undefined || error.afterMs > MAX_PAUSE_MS) throw error;
      await sleep(Math.max(pauseMs, error.afterMs), undefined, { signal: broken });
    }
  }
}

/** @throws Passing for what may pass */
async function fetchPicture(address: string, broken: AbortSignal): Promise<Uint8Array> {
  const late = AbortSignal.timeout(totalMs);
  try {
    const response = await fetch(address, { signal: AbortSignal.any([late, broken]) });
    if (!response.ok) {
      await response.body?.cancel();
      const { status } = response;
      const told = `expected a picture, received status ${status}`;
      if (status !== 408 && status !== 429 && status < 500) throw new Error(told);
      throw new Passing(told, 1_000 * (Number(response.headers.get('retry-after')) || 0));
    }
    const parts: Uint8Array[] = [];
    let size = 0;
    for await (const part of response.body ?? []) {
      parts.push(part);
      size += part.byteLength;
      if (size > maxBytes) throw new Error(`expected at most ${maxBytes} bytes, more came`);
    }
    return Buffer.concat(parts);
  } catch (error) {
    if (late.aborted) throw new Error(`expected a picture within ${totalMs / 1000} seconds, it did not come`);
    const cause = error instanceof TypeError && error.cause instanceof Error ? error.cause : undefined;
    if (cause === undefined) throw error;
    const told = `it cannot be reached: ${cause.message}`;
    // Where the network said so there is a code; an address that cannot be has none, and a name that nobody has stays so.
    const code = 'code' in cause ? cause.code : undefined;
    throw code === undefined || code === 'ENOTFOUND' ? new Error(told) : new Passing(told);
  }
}
