import type { Picture } from '../models/family.ts';
import type { EngineCounters } from './counters.ts';
import type { FeatureCache } from './feature-cache.ts';
import { type Live, pendingImages } from './live-request.ts';
import type { ModelRunner } from './runner.ts';

interface Missing {
  readonly key: string;
  readonly picture: Picture;
  readonly adapter: string | null;
}

/**
 * Gives each request the features of its next `images` pictures: from the cache, or computed, the pictures of all requests
 * together. Where a run over pictures of several requests fails, each request is tried alone.
 * @returns requests whose own pictures cannot be encoded
 */
export async function encodePending(
  work: readonly { readonly live: Live; readonly images: number }[],
  runner: ModelRunner,
  cache: FeatureCache,
  counters: EngineCounters,
): Promise<readonly { readonly live: Live; readonly error: unknown }[]> {
  const start = performance.now();
  const failed: { live: Live; error: unknown }[] = [];
  try {
    await encodeTogether(work, runner, cache, counters);
  } catch (error) {
    if (work.length === 1) failed.push({ live: work[0]!.live, error });
    else
      for (const one of work)
        await encodeTogether([one], runner, cache, counters).catch((own: unknown) =>
          failed.push({ live: one.live, error: own }),
        );
  }
  counters.encodeMs += performance.now() - start;
  return failed;
}

async function encodeTogether(
  work: readonly { readonly live: Live; readonly images: number }[],
  runner: ModelRunner,
  cache: FeatureCache,
  counters: EngineCounters,
): Promise<void> {
  const wanted = work.flatMap(({ live, images }) =>
    pendingImages(live)
      .slice(0, images)
      .map((index) => ({ live, index, key: live.request.images[index]!.key })),
  );
  const found = new Map<string, Float32Array>();
  const missing = new Map<string, Missing>();
  for (const { live, index, key } of wanted) {
    if (found.has(key) || missing.has(key)) continue;
    const cached = cache.acquire(key);
    const picture = live.pictures[index] ?? null;
    if (cached !== null) {
      found.set(key, cached);
      cache.release(key);
    } else if (picture === null) throw new Error(`internal: features of ${key} were evicted while held`);
    else missing.set(key, { key, picture, adapter: live.request.adapter });
  }
  for (const adapter of new Set([...missing.values()].map((one) => one.adapter))) {
    const pictures = [...missing.values()].filter((one) => one.adapter === adapter);
    const encoded = await runner.encode(
      pictures.map(({ picture }) => picture),
      adapter,
    );
    for (const [index, { key }] of pictures.entries()) {
      const features = encoded[index]!;
      found.set(key, features);
      cache.insert(key, features);
      cache.release(key);
    }
    counters.encodedImages += pictures.length;
    counters.encodeRuns++;
  }
  for (const { live, index, key } of wanted) {
    live.features[index] = found.get(key)!;
    live.pictures[index] = null;
  }
}
