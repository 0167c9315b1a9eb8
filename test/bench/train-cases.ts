import { join } from 'node:path';
import { writeSafetensors } from '../../gpu-backend/io/safetensors-write.ts';
import { writeAdapter } from '../../gpu-backend/models/adapter.ts';
import type { VlmConfig } from '../../gpu-backend/models/config.ts';
import { writeCheckpoint } from '../../gpu-backend/models/load.ts';
import { initAdapter, initWeights, nanoConfig } from '../../gpu-backend/models/presets.ts';
import type { TrainMode } from '../../gpu-backend/models/train-graph.ts';
import { LLAMA_LINEARS, type LoraSpec } from '../../gpu-backend/models/weights.ts';

/** One benchmark: a model, what is trained, and the batch of an optimizer step. */
export interface TrainCase {
  readonly name: string;
  readonly about: string;
  readonly config: VlmConfig;
  readonly train: TrainMode;
  readonly lora?: LoraSpec;
  /** Sequences of a step, and how many go through the graph at once (gradients add up). */
  readonly batch: number;
  readonly microBatch: number;
  readonly length: number;
  readonly imagesPerRow: number;
  readonly supervisedPerRow: number;
  readonly causalBlocks: number;
  /** Peak memory may be at most this share of the stock peer's. */
  readonly maxMemoryRatio: number;
}

const specials = { imageToken: 5, bosToken: 1, eosTokens: [2], padToken: 3 } as const;

const a = nanoConfig({
  ...specials,
  ...{ vocab: 2048, imageSize: 56, patchSize: 8, visionHidden: 128, visionLayers: 2, visionHeads: 4 },
  ...{ hidden: 192, layers: 4, heads: 6, kvHeads: 3, intermediate: 512 },
});
const b = nanoConfig({
  ...specials,
  ...{ vocab: 4096, imageSize: 56, patchSize: 8, visionHidden: 192, visionLayers: 2, visionHeads: 6 },
  ...{ hidden: 512, layers: 8, heads: 8, kvHeads: 4, intermediate: 1376 },
});
const smallRows = { length: 179, imagesPerRow: 3, supervisedPerRow: 32, causalBlocks: 2 } as const;
const longRows = {
  batch: 4,
  microBatch: 4,
  length: 512,
  imagesPerRow: 4,
  supervisedPerRow: 316,
  causalBlocks: 4,
} as const;

export const TRAIN_CASES: readonly TrainCase[] = [
  {
    name: 'a',
    about: '2.9 M parameters, all trained, 32 rows of 179 in micro-batches of 8',
    ...{ config: a, train: 'all', ...smallRows, batch: 32, microBatch: 8, maxMemoryRatio: 0.75 },
  },
  {
    name: 'a32',
    about: '2.9 M parameters, all trained, 32 rows of 179 at once',
    ...{ config: a, train: 'all', ...smallRows, batch: 32, microBatch: 32, maxMemoryRatio: 0.75 },
  },
  {
    name: 'b',
    about: '28.7 M parameters, all trained, 4 rows of 512',
    ...{ config: b, train: 'all', ...longRows, maxMemoryRatio: 0.95 },
  },
  {
    name: 'lora',
    about: 'model b with LoRA r = 16 on all linears and the projector, 4 rows of 512',
    ...{ config: b, train: 'lora+projector', ...longRows, maxMemoryRatio: 0.75 },
    lora: { r: 16, alpha: 32, targets: [...LLAMA_LINEARS] },
  },
];

/** A case by name, optionally with other causal blocks and another micro-batch: `a`, `a:6`, `a:6:8`. */
export function findCase(text: string): TrainCase {
  const [name, blocks, microBatch] = text.split(':');
  const found = TRAIN_CASES.find((c) => c.name === name);
  if (found === undefined) throw new Error(`no case "${name}"; there are ${TRAIN_CASES.map((c) => c.name).join(', ')}`);
  return {
    ...found,
    name: text,
    causalBlocks: blocks === undefined ? found.causalBlocks : Number(blocks),
    microBatch: microBatch === undefined ? found.microBatch : Number(microBatch),
  };
}

/** Small deterministic generator (mulberry32): the batch is the same for every engine and run. */
function random(seed: number): () => number {
  let s = seed;
  return () => {
    s = (s + 0x6d2b79f5) | 0;
    let t = Math.imul(s ^ (s >>> 15), 1 | s);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return ((t ^ (t >>> 14)) >>> 0) / 4294967296;
  };
}

/**
 * Writes what both engines read: the checkpoint (published layout), the adapter, and batch.safetensors with `ids` [B, S] i64,
 * `labels` [B, S] i64 (-100 = not supervised), `pixel_values` [B·images, 3, H, W] f32.
 */
export async function writeCase(dir: string, c: TrainCase): Promise<void> {
  await writeCheckpoint(dir, { config: c.config, weights: initWeights(c.config, 1) });
  if (c.lora !== undefined)
    await writeAdapter(join(dir, 'adapter'), { lora: c.lora, weights: initAdapter(c.config, c.lora, 2) });
  const next = random(3);
  const { batch, length, config } = c;
  const tokens = config.tokensPerImage;
  const ids = new BigInt64Array(batch * length);
  const labels = new BigInt64Array(batch * length).fill(-100n);
  for (let row = 0; row < batch; row++)
    for (let s = 0; s < length; s++) {
      const i = row * length + s;
      ids[i] = BigInt(
        s < c.imagesPerRow * tokens ? config.imageToken : 6 + Math.floor(next() * (config.text.vocab - 6)),
      );
      if (s >= length - c.supervisedPerRow + 1) labels[i] = ids[i] ?? 0n;
    }
  const side = config.vision.imageSize;
  const pixels = Float32Array.from({ length: batch * c.imagesPerRow * 3 * side * side }, () => 2 * next() - 1);
  await writeSafetensors(join(dir, 'batch.safetensors'), [
    ['ids', { dtype: 'i64', shape: [batch, length], data: ids }],
    ['labels', { dtype: 'i64', shape: [batch, length], data: labels }],
    ['pixel_values', { dtype: 'f32', shape: [batch * c.imagesPerRow, 3, side, side], data: pixels }],
  ]);
}
