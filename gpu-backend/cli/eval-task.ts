import { readFile } from 'node:fs/promises';
import { resolve } from 'node:path';
import type { TaskOptions } from '../eval/options.ts';
import { taskFactories, taskNamed } from '../eval/registry.ts';
import { PAPER_DEMONSTRATION, type PromptForm } from '../eval/run/prompt-form.ts';
import type { EvalImage, EvalRecords, EvalTask } from '../eval/task.ts';
import { type SkillItem, skillsTask } from '../eval/tasks/skills.ts';
import { sha256Hex } from '../io/digest.ts';
import { heldOutItems, trainedSetSizes } from '../train/nano/heldout.ts';
import { boxSidePx } from '../train/nano/scene.ts';
import { encodePng } from '../vision/encode.ts';
import { CliError } from './error.ts';
import type { EvalFlags } from './eval-options.ts';

export const SKILLS = 'skills';

/** Name and title of every task. */
export function taskTitles(): { readonly name: string; readonly title: string }[] {
  const read = Object.values(taskFactories).map((make) => make());
  return [...read, skillsTask([], {})].map(({ name, title }) => ({ name, title }));
}

/** The task by its name on the command line, and its records. @throws CliError saying what is wrong with name, options or files */
export async function openTask(
  name: string,
  flags: EvalFlags,
): Promise<{ readonly task: EvalTask; readonly records: EvalRecords }> {
  const options: TaskOptions = {
    ...(flags.layout === undefined ? {} : { layout: flags.layout }),
    ...(flags.answerBy === undefined ? {} : { answerBy: flags.answerBy }),
    ...(flags.maxTokens === undefined ? {} : { maxTokens: flags.maxTokens }),
  };
  try {
    const task = name === SKILLS ? await generatedSkills(flags, options) : taskNamed(name, options);
    if (name !== SKILLS && flags.data.length === 0)
      throw new Error(`${task.title} is read from your own files: name them with --data (repeatable)`);
    const records = await task.open({
      // Readers join names of pictures to these, so they must mean the same wherever they are read.
      paths: flags.data.map((path) => resolve(path)),
      ...(flags.imageFolder === undefined ? {} : { imageFolder: resolve(flags.imageFolder) }),
      ...(flags.split === undefined ? {} : { split: flags.split }),
      ...(flags.limit === undefined ? {} : { limit: flags.limit }),
    });
    return { task, records };
  } catch (error) {
    throw new CliError(error instanceof Error ? error.message : String(error), 2);
  }
}

/** What the flags say about the form of every prompt. */
export async function promptForm({ mode, system, oneShot, oneShotText }: EvalFlags): Promise<PromptForm> {
  return {
    mode,
    ...(system === undefined ? {} : { system }),
    ...(oneShot === undefined
      ? {}
      : { oneShot: { image: await imageFile(oneShot), text: oneShotText ?? PAPER_DEMONSTRATION } }),
  };
}

async function imageFile(path: string): Promise<EvalImage> {
  const bytes = await readFile(path).catch((error: unknown) => {
    throw new CliError(`cannot read ${path}: ${error instanceof Error ? error.message : String(error)}`, 2);
  });
  return { sha256: sha256Hex(bytes), bytes: async () => bytes };
}

async function generatedSkills({ perSkill, seed, images }: EvalFlags, options: TaskOptions): Promise<EvalTask> {
  const sizes = images === undefined ? trainedSetSizes : [images];
  const items: SkillItem[] = [];
  for (const item of heldOutItems(perSkill, seed, sizes))
    items.push({ ...item, images: await Promise.all(item.images.map(pngOf)) });
  return skillsTask(items, { seed, perSkill, pictures: [...new Set(sizes)].join(', ') }, options);
}

/** A generated picture as the file that any model could be sent. */
async function pngOf(rgb_HWC: Uint8Array): Promise<EvalImage> {
  const bytes = await encodePng({ width: boxSidePx, height: boxSidePx, pixels_HWC: rgb_HWC }, 1);
  return { sha256: sha256Hex(bytes), bytes: async () => bytes };
}
