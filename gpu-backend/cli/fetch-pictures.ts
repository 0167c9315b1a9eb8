/** Pictures at addresses, brought to this machine by a command that its user runs: what is asked of a model is then pinned by their bytes. */
import { LIMITS } from '../../shared/contract/limits.ts';
import type { ImageStore } from '../train/data/image-store.ts';

const AT_ONCE = 8;
const { totalMs } = LIMITS.images.remote;
const { maxBytes } = LIMITS.images;

/**
 * Fetches each picture once, eight at a time.
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
      const bytes = await fetchPicture(address, broken.signal).catch((error: unknown) => {
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

async function fetchPicture(address: string, broken: AbortSignal): Promise<Uint8Array> {
  const late = AbortSignal.timeout(totalMs);
  try {
    const response = await fetch(address, { signal: AbortSignal.any([late, broken]) });
    if (!response.ok) throw new Error(`expected a picture, received status ${response.status}`);
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
    const cause = error instanceof TypeError && error.cause instanceof Error ? error.cause.message : undefined;
    throw cause === undefined ? error : new Error(`it cannot be reached: ${cause}`);
  }
}
