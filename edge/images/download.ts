/** Pictures on the web: fetched through the guard of `egress/`, counted while they come, within time. */

import { LIMITS } from '../../shared/contract/limits.ts';
import { type Egress, fetchTarget } from '../egress/fetch.ts';
import { checkTarget, type Target } from '../egress/target.ts';
import type { ByteBudget } from './budget.ts';
import { DownloadError } from './download-error.ts';

const L = LIMITS.images;
const R = L.remote;
const CHUNK_BYTES = 64 * 1024;
const HEADERS = {
  accept: 'image/avif,image/webp,image/png,image/jpeg,image/gif',
  'user-agent': 'mantis-edge-images/1',
};

/**
 * The bytes at `url`, whatever they are.
 * @param signal ends it with the request
 * @throws DownloadError
 */
export async function download(
  egress: Egress,
  url: string,
  budget: ByteBudget,
  signal: AbortSignal,
): Promise<Uint8Array<ArrayBuffer>> {
  const slow = new AbortController();
  const timer = setTimeout(() => slow.abort(), R.totalMs);
  const both = AbortSignal.any([signal, slow.signal]);
  try {
    return await readCounted(await follow(egress, url, both), budget, both);
  } catch (error) {
    if (error instanceof DownloadError) throw error;
    throw new DownloadError(both.aborted ? 'too_slow' : 'unreachable');
  } finally {
    clearTimeout(timer);
  }
}

/** Follows redirects, each judged as the first address was. @returns a response with status 200 */
async function follow(egress: Egress, url: string, signal: AbortSignal): Promise<Response> {
  let target = targetOf(url, egress);
  for (let hop = 0; ; hop++) {
    const response = await withinFirstByte(egress, target, signal);
    if (response.status === 200) return response;
    const location = response.headers.get('location');
    await response.body?.cancel();
    if (!/^30[12378]$/.test(String(response.status)) || location === null) throw new DownloadError('status');
    if (hop === R.maxRedirects) throw new DownloadError('redirects');
    target = targetOf(resolved(location, target.url), egress);
  }
}

function targetOf(url: string, { allowed }: Egress): Target {
  const target = url.length > R.maxUrlChars ? null : checkTarget(url, allowed);
  if (target === null || 'problem' in target) throw new DownloadError('address');
  return target;
}

function resolved(location: string, base: URL): string {
  try {
    return new URL(location, base).href;
  } catch {
    throw new DownloadError('address');
  }
}

async function withinFirstByte(egress: Egress, target: Target, signal: AbortSignal): Promise<Response> {
  const slow = new AbortController();
  const timer = setTimeout(() => slow.abort(), R.firstByteMs);
  try {
    return await fetchTarget(egress, target, { headers: HEADERS, signal: AbortSignal.any([signal, slow.signal]) });
  } catch {
    throw new DownloadError(slow.signal.aborted || signal.aborted ? 'too_slow' : 'unreachable');
  } finally {
    clearTimeout(timer);
  }
}

/** The header may lie or be missing, so bytes are counted as they come; what is over is not read. */
async function readCounted(
  response: Response,
  budget: ByteBudget,
  signal: AbortSignal,
): Promise<Uint8Array<ArrayBuffer>> {
  const told = Number(response.headers.get('content-length') ?? Number.NaN);
  if (response.body === null) throw new DownloadError('not_an_image');
  if (told > Math.min(L.maxBytes, budget.leftBytes)) {
    await response.body.cancel();
    throw new DownloadError('too_large');
  }
  const chunks: Uint8Array[] = [];
  let total = 0;
  const reader = response.body.getReader({ mode: 'byob' });
  const stop = () => void reader.cancel().catch(() => {});
  signal.addEventListener('abort', stop, { once: true });
  try {
    for (;;) {
      const { done, value } = await reader.readAtLeast(CHUNK_BYTES, new Uint8Array(CHUNK_BYTES));
      const bytes = value?.byteLength ?? 0;
      total += bytes;
      if (total > L.maxBytes) throw new DownloadError('too_large');
      budget.take(bytes);
      if (value !== undefined && bytes > 0) chunks.push(value);
      if (done) break;
    }
  } finally {
    signal.removeEventListener('abort', stop);
    stop();
  }
  if (signal.aborted) throw new DownloadError('too_slow');
  return joined(chunks, total);
}

function joined(chunks: readonly Uint8Array[], total: number): Uint8Array<ArrayBuffer> {
  const bytes = new Uint8Array(total);
  let at = 0;
  for (const chunk of chunks) {
    bytes.set(chunk, at);
    at += chunk.byteLength;
  }
  return bytes;
}
