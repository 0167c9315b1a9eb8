import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { replaceFile } from '../../io/safetensors-write.ts';
import type { VlmConfig } from '../../models/config.ts';
import { loadCheckpoint } from '../../models/load.ts';
import type { LayoutOptions } from '../../text/layout.ts';
import { bindTemplate, templateByName } from '../../text/templates.ts';
import { parseTokenizer } from '../../text/tokenizer.ts';
import type { ParameterState } from '../state.ts';
import { Questions } from './dialogues.ts';
import { Encoder, type MergePictures } from './forms.ts';
import { STUDY_RECIPE, type StudyRecipe, studyConfig } from './recipe.ts';
import type { Arm, Study, StudyBudget } from './study.ts';
import { type StepSize, trainRun } from './training.ts';

export interface StudyOptions {
  readonly study: Study;
  /** Folder that studies share: common starts are made once. */
  readonly out: string;
  /** Model whose vision tower, vocabulary and chat template all arms start from. */
  readonly modelDir: string;
  readonly budget: StudyBudget;
  /** Training data of an arm, one run each; below 2^32. */
  readonly seeds: readonly number[];
  readonly threads: number;
  readonly merge: MergePictures;
  readonly recipe?: StudyRecipe;
  readonly checkpointS?: number;
  /** Aborting ends the run with a checkpoint; the same call goes on from it. */
  readonly signal?: AbortSignal;
  /** @param what the run under way, e.g. `merged, seed 1` */
  readonly onStep?: (what: string, step: number, totalSteps: number, loss: number) => void;
  /** Told of each arm when its training is complete, before it is asked. */
  readonly onTrained?: (start: ReadonlyMap<string, Float32Array>, state: ParameterState) => void;
  readonly onMessage?: (message: string) => void;
}

/** What all runs of a study share. */
export interface Bench {
  readonly options: StudyOptions;
  readonly recipe: StudyRecipe;
  readonly config: VlmConfig;
  readonly encoder: Encoder;
  readonly questions: Questions;
}

export async function openBench(options: StudyOptions): Promise<Bench> {
  const { modelDir, recipe = STUDY_RECIPE } = options;
  const json = async (name: string): Promise<unknown> => JSON.parse(await readFile(join(modelDir, name), 'utf8'));
  const tokenizer = parseTokenizer(await json('tokenizer.json'));
  const { mantis_template: name } = (await json('tokenizer_config.json')) as { mantis_template?: unknown };
  if (typeof name !== 'string')
    throw new Error(
      `${modelDir}: expected a model made by mantis train nano (mantis_template in tokenizer_config.json)`,
    );
  const config = studyConfig(recipe, loadCheckpoint(modelDir).config, tokenizer);
  const layout: LayoutOptions = {
    tokenizer,
    template: bindTemplate(templateByName(name), tokenizer),
    tokensPerImage: config.tokensPerImage,
    imageTokenId: config.imageToken,
  };
  const encoder = new Encoder(layout, config.vision.imageSize, options.merge);
  return { options, recipe, config, encoder, questions: new Questions() };
}

export interface OneRun {
  readonly out: string;
  readonly start: ReadonlyMap<string, Float32Array>;
  readonly parts: ReturnType<Arm['parts']>;
  readonly pool?: number | undefined;
  readonly stepSize: StepSize;
  readonly seed: number;
  readonly what: string;
}

export function trainOne(
  { options, recipe, config, encoder, questions }: Bench,
  run: OneRun,
): ReturnType<typeof trainRun> {
  const { out, start, parts, stepSize, pool, seed, what } = run;
  return trainRun({
    out,
    config,
    recipe,
    encoder,
    questions,
    start,
    parts,
    stepSize,
    ...(pool === undefined ? {} : { pool }),
    seed,
    threads: options.threads,
    padId: config.text.padToken ?? 0,
    ...(options.signal === undefined ? {} : { signal: options.signal }),
    ...(options.checkpointS === undefined ? {} : { checkpointS: options.checkpointS }),
    onStep: (step, totalSteps, loss) => options.onStep?.(what, step, totalSteps, loss),
  });
}

export async function readJson<T>(path: string): Promise<T | undefined> {
  const text = await readFile(path, 'utf8').catch((error: NodeJS.ErrnoException) => {
    if (error.code === 'ENOENT') return undefined;
    throw error;
  });
  return text === undefined ? undefined : (JSON.parse(text) as T);
}

/** Whole or not at all, whenever the process ends. */
export async function writeJson(path: string, value: unknown): Promise<void> {
  await replaceFile(path, (file) => file.writeFile(`${JSON.stringify(value)}\n`));
}
