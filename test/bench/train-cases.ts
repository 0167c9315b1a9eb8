import { join } from 'node:path';
import { writeSafetensors } from '../../gpu-backend/io/safetensors-write.ts';
import { writeAdapter } from '../../gpu-backend/models/adapter.ts';
import type { VlmConfig } from '../../gpu-backend/models/config.ts';
import { writeCheckpoint } from '../../gpu-backend/models/load.ts';
import { initAdapter, initWeights, nanoConfig } from '../../gpu-backend/models/presets.ts';
import type { Precision } from '../../gpu-backend/models/storage.ts';
import type { TrainMode } from '../../gpu-backend/models/train-graph.ts';
import { LLAMA_LINEARS, type LoraSpec } from '../../gpu-backend/models/weights.ts';

/** Sizes of a conversation, in decoder positions; the answers are what is supervised. */
export interface Conversation {
  readonly images: number;
  readonly asked: number;
  readonly answered: number;
}

/** One benchmark: a model, what is trained, and the conversations of an optimizer step. */
export interface TrainCase {
  readonly name: string;
  readonly about: string;
  readonly config: VlmConfig;
  readonly train: Extract<TrainMode, 'projector' | 'lora' | 'full'>;
  readonly lora?: LoraSpec;
  readonly basePrecision: Precision;
  readonly conversations: readonly Conversation[];
}

/** 17 M parameters in about the proportions of Mantis-8B-SigLIP: the encoder is 3 % of them (there 5), the embedding 9 % (there 6). */
const config = nanoConfig({
  ...{ imageToken: 5, bosToken: 1, eosTokens: [2], padToken: 3 },
  ...{ vocab: 4096, imageSize: 56, patchSize: 8, visionHidden: 128, visionLayers: 2, visionHeads: 4 },
  ...{ hidden: 384, layers: 8, heads: 6, kvHeads: 3, intermediate: 1024 },
});

/**
 * The first eight of the 100 example conversations of the Mantis authors (TIGER-AI-Lab/Mantis): pictures, and text at 4.2 characters
 * a token with 5 and 2 tokens for what is around a turn.
 */
const CONVERSATIONS: readonly Conversation[] = [
  { images: 2, asked: 476, answered: 723 },
  { images: 2, asked: 426, answered: 819 },
  { images: 4, asked: 404, answered: 523 },
  { images: 3, asked: 471, answered: 611 },
  { images: 3, asked: 446, answered: 869 },
  { images: 3, asked: 440, answered: 621 },
  { images: 2, asked: 411, answered: 820 },
  { images: 6, asked: 414, answered: 531 },
];

const shared = { config, conversations: CONVERSATIONS } as const;
const lora: LoraSpec = { r: 16, alpha: 32, targets: [...LLAMA_LINEARS] };

export const TRAIN_CASES: readonly TrainCase[] = [
  { ...shared, name: 'projector', about: 'the projector alone', train: 'projector', basePrecision: 'f32' },
  {
    ...shared,
    name: 'lora',
    about: 'LoRA r = 16 on all linears of the decoder',
    train: 'lora',
    lora,
    basePrecision: 'f32',
  },
  { ...shared, name: 'qlora8', about: 'the same over an int8 base', train: 'lora', lora, basePrecision: 'int8' },
  { ...shared, name: 'qlora4', about: 'the same over an int4 base', train: 'lora', lora, basePrecision: 'int4' },
  { ...shared, name: 'full', about: 'projector and language model', train: 'full', basePrecision: 'f32' },
];

/** A case by name. */
export function findCase(name: string): TrainCase {
  const found = TRAIN_CASES.find((c) => c.name === name);
  if (found === undefined) throw new Error(`no case "${name}"; there are ${TRAIN_CASES.map((c) => c.name).join(', ')}`);
  return found;
}

/** Decoder positions of a conversation. */
export const lengthOf = ({ config: { tokensPerImage } }: TrainCase, c: Conversation): number =>
  c.images * tokensPerImage + c.asked + c.answered;

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
 * Writes what both engines read: the checkpoint (published layout), the adapter, and batch.safetensors with `ids` and `labels` of all
 * conversations one behind the other [T] i64 (-100 = not supervised), `pixel_values` [pictures, 3, H, W] f32. Pictures come first, then
 * four turns of question and answer.
 */
export async function writeCase(dir: string, c: TrainCase): Promise<void> {
  await writeCheckpoint(dir, { config: c.config, weights: initWeights(c.config, 1) });
  if (c.lora !== undefined)
    await writeAdapter(join(dir, 'adapter'), { lora: c.lora, weights: initAdapter(c.config, c.lora, 2) });
  const next = random(3);
  const word = (): bigint => BigInt(6 + Math.floor(next() * (c.config.text.vocab - 6)));
  const ids: bigint[] = [];
  const labels: bigint[] = [];
  const turns = 4;
  for (const { images, asked, answered } of c.conversations) {
    for (let i = 0; i < images * c.config.tokensPerImage; i++) {
      ids.push(BigInt(c.config.imageToken));
      labels.push(-100n);
    }
    const share = (all: number, turn: number): number =>
      Math.floor((all * (turn + 1)) / turns) - Math.floor((all * turn) / turns);
    for (let turn = 0; turn < turns; turn++)
      for (const [count, isAnswer] of [
        [share(asked, turn), false],
        [share(answered, turn), true],
      ] as const)
        for (let i = 0; i < count; i++) {
          const id = word();
          ids.push(id);
          labels.push(isAnswer ? id : -100n);
        }
  }
  const side = c.config.vision.imageSize;
  const pictures = c.conversations.reduce((sum, { images }) => sum + images, 0);
  const pixels = Float32Array.from({ length: pictures * 3 * side * side }, () => 2 * next() - 1);
  await writeSafetensors(join(dir, 'batch.safetensors'), [
    ['ids', { dtype: 'i64', shape: [ids.length], data: BigInt64Array.from(ids) }],
    ['labels', { dtype: 'i64', shape: [labels.length], data: BigInt64Array.from(labels) }],
    ['pixel_values', { dtype: 'f32', shape: [pictures, 3, side, side], data: pixels }],
  ]);
}
