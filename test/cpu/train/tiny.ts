import { mkdir, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import sharp from 'sharp';
import { type BaseModel, loadBaseModel } from '../../../gpu-backend/train/base-model.ts';
import type { SampleImage, TrainingSample } from '../../../gpu-backend/train/batch.ts';
import type { FineTuneData, FineTuneSpec } from '../../../gpu-backend/train/finetune-spec.ts';
import { JobData } from '../../../gpu-backend/train/job-data.ts';
import { planStage } from '../../../gpu-backend/train/stage-plan.ts';
import type { Stage } from '../../../shared/contract/training.ts';
import { type FamilyName, writeRandomFamily } from '../../fixtures/random-families.ts';
import { writeRandomNano } from '../../fixtures/random-nano.ts';

/** A stage of three epochs of four examples a step, but for what is said. */
export function tinyStage(stage: Partial<Stage> & Pick<Stage, 'train'>): Stage {
  return { n_epochs: 3, batch_size: 4, learning_rate_multiplier: 1, data: 0, ...stage };
}

/** A file as the data of a job. */
export function dataOf(path: string): FineTuneData {
  const file = { id: 'file-1', bytes: 1, sha256: '0'.repeat(64) };
  return { spec: { files: [{ file_id: 'file-1', file, filename: 'train.jsonl' }], balancing: false }, paths: [path] };
}

/** @param dir where scratch and checkpoints go */
export function tinySpec(
  { baseDir, trainingFile }: TinyJob,
  dir: string,
  stages: readonly (Partial<Stage> & Pick<Stage, 'train'>)[],
): FineTuneSpec {
  return {
    baseDir,
    data: [dataOf(trainingFile)],
    stages: stages.map(tinyStage),
    leftOut: [],
    seed: 5,
    workDir: join(dir, 'work'),
    outDir: join(dir, 'out'),
    checkpointEvery: 2,
    keep: 100,
  };
}

/** Samples of a tiny job, with the features of its pictures. Texts, numbers of pictures and pictures differ. */
export async function tinySamples(
  dir: string,
  examples: number,
  family?: FamilyName,
): Promise<{ base: BaseModel; samples: TrainingSample<SampleImage>[] }> {
  const { baseDir, trainingFile } = await writeTinyJob(dir, examples, family, true);
  const base = loadBaseModel(baseDir);
  const data = new JobData(tinySpec({ baseDir, trainingFile }, dir, [{ train: 'full' }]), {});
  const plan = planStage(base.config, base.weights.keys(), tinyStage({ train: 'full' }), 0, false);
  const { training } = await data.ofStage(base, plan);
  const samples: TrainingSample<SampleImage>[] = [];
  for (const entry of training.selection.entries) {
    const { layout, images } = await training.sampleAt(entry);
    samples.push({
      layout,
      images: await Promise.all(images.map(async (image) => (typeof image === 'function' ? await image() : image))),
    });
  }
  await data.release();
  return { base, samples };
}

/** A base model with random weights and a chat file over squares of two colours: the smallest job that is a real one. */
export interface TinyJob {
  readonly baseDir: string;
  readonly trainingFile: string;
}

const COLORS = [
  ['blue', { r: 20, g: 40, b: 230 }],
  ['yellow', { r: 240, g: 220, b: 30 }],
] as const;

async function picture(color: (typeof COLORS)[number][1], width = 40, height = 40): Promise<string> {
  const png = await sharp({ create: { width, height, channels: 3, background: color } })
    .png()
    .toBuffer();
  return `data:image/png;base64,${png.toString('base64')}`;
}

/**
 * @param examples lines; every fifth has no picture
 * @param family of the base model, whose pictures then differ in size; default a nano
 * @param isVaried examples differ much in length and in pictures
 */
export async function writeTinyJob(
  dir: string,
  examples = 12,
  family?: FamilyName,
  isVaried = false,
): Promise<TinyJob> {
  const baseDir = join(dir, 'base');
  await mkdir(dir, { recursive: true });
  await (family === undefined ? writeRandomNano(baseDir) : writeRandomFamily(baseDir, family));
  const sizes =
    family === undefined
      ? [[40, 40]]
      : [
          [40, 40],
          [60, 25],
          [23, 44],
        ];
  const show = (color: (typeof COLORS)[number][1], i: number): Promise<string> =>
    picture(color, ...(sizes[i % sizes.length] as [number, number]));
  const lines: string[] = [];
  for (let i = 0; i < examples; i++) {
    const [first, second] = [COLORS[i % 2], COLORS[(i >> 1) % 2]] as const;
    if (first === undefined || second === undefined) continue;
    const question = `what color is image ${1 + (i % 3 === 0 ? 1 : 0)}?`;
    const content =
      i % 5 === 4
        ? 'how many colors are there?'
        : [
            { type: 'image_url', image_url: { url: await show(first[1], i) } },
            { type: 'text', text: ' and ' },
            { type: 'image_url', image_url: { url: await show(second[1], i + 1) } },
            { type: 'text', text: isVaried ? `${question} `.repeat(1 + ((i * 5) % 7)) : question },
          ];
    if (isVaried && i % 4 === 1 && Array.isArray(content)) content.splice(0, 2);
    const answer = i % 5 === 4 ? 'two' : i % 3 === 0 ? second[0] : first[0];
    lines.push(
      JSON.stringify({
        messages: [
          { role: 'user', content },
          { role: 'assistant', content: answer },
        ],
      }),
    );
  }
  const trainingFile = join(dir, 'train.jsonl');
  await writeFile(trainingFile, `${lines.join('\n')}\n`);
  return { baseDir, trainingFile };
}
