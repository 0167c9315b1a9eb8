/**
 * What it costs to find a picture's features in each tier below the engine's memory: real files, and the real Worker with its
 * object store. `node --import tsx test/bench/feature-tiers.ts`; the last line is JSON.
 */
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { monitorEventLoopDelay } from 'node:perf_hooks';
import { startEdge } from '../../deploy/edge.ts';
import { FeatureStore, type FeatureTier } from '../../gpu-backend/engine/feature-store.ts';
import { DiskTier } from '../../gpu-backend/engine/feature-store-disk.ts';
import type { RecordId } from '../../gpu-backend/engine/feature-store-record.ts';
import { EdgeClient } from '../../gpu-backend/server/edge-client.ts';
import { ObjectTier } from '../../gpu-backend/server/feature-objects.ts';

const SECRET = 'the secret of a benchmark';
const PICTURES = 12;
/** Tokens a picture and floats a token. */
const MODELS = {
  'SmolLM2-135M with a 12-layer ViT': { tokens: 196, hidden: 576 },
  'Mantis-8B-siglip': { tokens: 729, hidden: 4096 },
} as const;

function median(values: readonly number[]): number {
  const sorted = values.toSorted((a, b) => a - b);
  return sorted[Math.floor(sorted.length / 2)] ?? Number.NaN;
}

const id = (index: number): RecordId => ({ tenant: 'b'.repeat(32), name: index.toString(16).padStart(64, '0') });

const dir = await mkdtemp(join(tmpdir(), 'mantis-bench-features-'));
const edge = await startEdge({ port: 0, dataDir: dir, backendSecret: SECRET, apiKey: 'mk_bench' });
const results = [];
try {
  let first = 0;
  for (const [model, { tokens, hidden }] of Object.entries(MODELS)) {
    const features = Float32Array.from({ length: tokens * hidden }, (_, i) => Math.sin(i));
    const picture = { pixelDigest: 'd'.repeat(64), width: 384, height: 384, features };
    const tiers: FeatureTier[] = [
      await DiskTier.open(join(dir, `features-${hidden}`), 2 ** 30),
      new ObjectTier(new EdgeClient({ url: edge.url, secret: SECRET })),
    ];
    for (const tier of tiers) {
      const store = new FeatureStore({ tiers: [tier], readTimeoutMs: 10_000, maxPendingBytes: 2 ** 30 });
      const writes = performance.now();
      for (let i = 0; i < PICTURES; i++) store.write(id(first + i), picture);
      await store.flush(60_000);
      const writeMs = (performance.now() - writes) / PICTURES;
      const readMs: number[] = [];
      // How long the event loop, and with it every other request, is held up meanwhile.
      const held = monitorEventLoopDelay({ resolution: 1 });
      held.enable();
      for (let i = 0; i < PICTURES; i++) {
        const start = performance.now();
        if ((await store.read(id(first + i))) === null) throw new Error(`${tier.name} lost record ${i}`);
        readMs.push(performance.now() - start);
      }
      held.disable();
      const row = {
        model,
        tier: tier.name,
        recordBytes: features.byteLength,
        writeMs,
        readMs: median(readMs),
        eventLoopHeldMaxMs: held.max / 1e6,
      };
      results.push(row);
      process.stderr.write(
        `${model}, ${tier.name}: ${(row.recordBytes / 2 ** 20).toFixed(1)} MiB, read ${row.readMs.toFixed(1)} ms, written behind in ${writeMs.toFixed(1)} ms, event loop held ${row.eventLoopHeldMaxMs.toFixed(1)} ms at most\n`,
      );
    }
    first += PICTURES;
  }
} finally {
  await edge.dispose();
  await rm(dir, { recursive: true, force: true });
}
console.log(JSON.stringify({ benchmark: 'feature-tiers', node: process.version, pictures: PICTURES, results }));
process.exit(0);
