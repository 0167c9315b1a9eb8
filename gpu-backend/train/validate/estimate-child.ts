/** The process that trains a few steps of one stage, so that what they take is what they take: its peak memory is the trainer's. */
import { readFileSync } from 'node:fs';
import { setPriority } from 'node:os';
import { join } from 'node:path';
import { preprocessImage } from '../../vision/preprocess.ts';
import { loadBaseModel } from '../base-model.ts';
import { importData } from '../data/import.ts';
import { FeatureStore } from '../feature-store.ts';
import { runFineTune } from '../finetune.ts';
import type { FromMeasure, MeasureStart } from './estimate-protocol.ts';

const PICTURES = 4;

function tell(message: FromMeasure): Promise<void> {
  return new Promise((resolve) => {
    if (process.send === undefined) resolve();
    else process.send(message, () => resolve());
  });
}

/** Most memory that this process ever had resident, bytes; what it has now where the system does not say. */
function peakBytes(): number {
  try {
    const kib = /^VmHWM:\s+(\d+) kB$/m.exec(readFileSync('/proc/self/status', 'utf8'))?.[1];
    if (kib !== undefined) return Number(kib) * 1024;
  } catch {
    // Not Linux.
  }
  return process.resourceUsage().maxRSS * 1024;
}

async function measure({ baseDir, tunedDir, stage, data, workDir, threads }: MeasureStart): Promise<void> {
  const start = performance.now();
  const tuned = tunedDir === null ? {} : { tunedDir };
  const result = await runFineTune(
    {
      baseDir,
      ...tuned,
      data: [data],
      stages: [stage],
      leftOut: [],
      seed: 0,
      threads,
      workDir,
      outDir: join(workDir, 'checkpoints'),
      checkpointEvery: Number.MAX_SAFE_INTEGER,
      keep: 1,
    },
    {
      onMetrics: (metrics) =>
        tell({
          type: 'step',
          tokensPerSecond: metrics.tokens_per_second,
          sinceStartMs: performance.now() - start,
          peakBytes: peakBytes(),
        }),
    },
  );
  if (result.outcome === 'failed') {
    await tell({ type: 'failed', message: result.message });
    return;
  }
  await tell({ type: 'done', peakBytes: peakBytes() });
  await measurePictures({ baseDir, tunedDir, data, workDir, threads });
}

/** After the peak was told: this opens the model once more. */
async function measurePictures(start: Omit<MeasureStart, 'stage'>): Promise<void> {
  const { store } = await importData(start.data.spec, start.data.paths, join(start.workDir, 'pictures'));
  const references = new Set<string>();
  for (let i = 0; i < store.length && references.size < PICTURES; i++)
    for (const image of (await store.get(i)).images) references.add(image);
  if (references.size === 0) return;
  const base = loadBaseModel(start.baseDir, start.tunedDir ?? undefined);
  const features = await FeatureStore.create(base, { threads: start.threads });
  let [count, sumMs] = [0, 0];
  for (const reference of references) {
    const file = await store.readImage(reference);
    const began = performance.now();
    await features.get(reference, () => preprocessImage(file, base.recipe));
    // The first run of a session is not like the others.
    if (count++ > 0 || references.size === 1) sumMs += performance.now() - began;
  }
  await tell({ type: 'pictures', msEach: sumMs / Math.max(1, count - 1) });
  await features.release();
  await store.close();
}

// Answers come before measurements where both want the processor.
setPriority(10);
process.on('disconnect', () => process.exit(1));
for (const signal of ['SIGINT', 'SIGTERM'] as const) process.on(signal, () => {});
process.on('message', (start: MeasureStart) => {
  measure(start)
    .catch((error: unknown) =>
      tell({ type: 'failed', message: error instanceof Error ? error.message : String(error) }),
    )
    .then(() => process.exit(0));
});
