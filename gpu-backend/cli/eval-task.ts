import { existsSync } from 'node:fs';
import { readFile } from 'node:fs/promises';
import { join, resolve } from 'node:path';
import { benchmarkFacts } from '../eval/facts.ts';
import { type TaskOptions, wrapTask } from '../eval/options.ts';
import { taskFactories, taskNamed } from '../eval/registry.ts';
import { partOf } from '../eval/run/part.ts';
import { PAPER_DEMONSTRATION, type PromptForm } from '../eval/run/prompt-form.ts';
import { sampleRecords } from '../eval/source/sample.ts';
import type { EvalImage, EvalPart, EvalRecords, EvalTask } from '../eval/task.ts';
import { ownTask } from '../eval/tasks/own.ts';
import { skillsTask } from '../eval/tasks/skills.ts';
import { sha256Hex } from '../io/digest.ts';
import { skillFiles } from '../train/nano/skill-files.ts';
import { readFacts } from '../vision/header.ts';
import { pathOf } from './data-path.ts';
import { CliError } from './error.ts';
import type { EvalFlags } from './eval-options.ts';
import { openOwn } from './eval-own.ts';
import { nearestName } from './near.ts';

export const SKILLS = 'skills';
export const OWN = 'own';

/** Names of all tasks, the generated one and the user's own last. */
export const taskNames = (): readonly string[] => [...Object.keys(taskFactories), SKILLS, OWN];

/** `nlvr,skills` and several words are several tasks. @throws CliError for a name that no task has, with the one that was meant */
export function namedTasks(words: readonly string[]): readonly string[] {
  const names = words.flatMap((word) => word.split(',')).filter((name) => name !== '');
  for (const name of names) {
    if (taskNames().includes(name)) continue;
    const near = nearestName(name, taskNames());
    throw new CliError(
      `there is no task ${JSON.stringify(name)}; ${near === null ? `there are ${taskNames().join(', ')}` : `did you mean ${near}? \`mantis eval list\` prints all`}`,
      2,
    );
  }
  const twice = names.find((name, i) => names.indexOf(name) !== i);
  if (twice !== undefined) throw new CliError(`the task ${twice} is named twice`, 2);
  return names;
}

/** The task as the command line asks it, without its records. @throws CliError for options that do not go together */
export function taskOf(name: string, flags: EvalFlags): EvalTask {
  const options = optionsOf(flags);
  return orWrongUse(() => {
    if (name === SKILLS) return wrapTask(skillsTask([], {}, options), options);
    if (name !== OWN) return taskNamed(name, options);
    const { choices = [] } = flags;
    return wrapTask(ownTask({ ...options, choices, open: (source) => openOwn(source, choices) }), options);
  });
}

function optionsOf({ layout, answerBy, maxTokens }: EvalFlags): TaskOptions {
  return {
    ...(layout === undefined ? {} : { layout }),
    ...(answerBy === undefined ? {} : { answerBy }),
    ...(maxTokens === undefined ? {} : { maxTokens }),
  };
}

export interface OpenedTask {
  readonly task: EvalTask;
  readonly records: EvalRecords;
  readonly part: EvalPart | null;
}

/**
 * A task with the records that the command line asks.
 * @param paths what `--data` says of it
 * @throws CliError saying what is wrong with options or files
 */
export async function openTask(name: string, flags: EvalFlags, paths: readonly string[]): Promise<OpenedTask> {
  try {
    const task = name === SKILLS ? await generatedSkills(flags) : taskOf(name, flags);
    if (name !== SKILLS && paths.length === 0)
      throw new Error(`${task.title} is read from your own files: name them with --data${howToFetch(name)}`);
    const read = await task.open({
      // Readers join names of pictures to these, so they must mean the same wherever they are read.
      paths: paths.map((path) => resolve(path)),
      ...(flags.imageFolder === undefined ? {} : { imageFolder: resolve(flags.imageFolder) }),
      ...(flags.split === undefined ? {} : { split: flags.split }),
      ...(flags.first === undefined ? {} : { limit: flags.first }),
    });
    try {
      // Answers that are kept can be handed in to whoever has the references.
      const isKept = task.submissionRow === undefined ? flags.out !== undefined : flags.submission !== undefined;
      if (!isKept) await requireReferences(task, read, paths);
      const records =
        flags.limit === undefined
          ? read
          : await sampleRecords(read, { count: flags.limit, seed: flags.seed, byGroup: task.aggregate === 'groups' });
      return {
        task,
        records,
        part: await partOf(task, records, flags.split === undefined ? {} : { split: flags.split }),
      };
    } catch (error) {
      await read.close();
      throw error;
    }
  } catch (error) {
    throw error instanceof CliError ? error : new CliError(error instanceof Error ? error.message : String(error), 2);
  }
}

/** What files a task wants, and for a data set of Hugging Face's hub how to get them. */
function howToFetch(name: string): string {
  const files = benchmarkFacts[name]?.files;
  if (files === undefined) return '';
  const hub = /^[\w-]+\/[\w.-]*\w/.exec(files)?.[0];
  const fetch = `huggingface-cli download ${hub} --repo-type dataset --local-dir ${name}`;
  return hub === undefined ? ` (${files})` : ` (${files}); to fetch them: ${fetch}, then --data ${name}`;
}

/** Questions that nobody can score are asked for a test server alone. */
async function requireReferences(task: EvalTask, records: EvalRecords, paths: readonly string[]): Promise<void> {
  for (let index = 0; index < records.length; index++) if ((await records.get(index)).answers.length > 0) return;
  throw new Error(
    `none of the ${records.length} records in ${paths.join(', ')} has an answer to be held against: nothing would be scored. ${
      task.submissionRow === undefined
        ? 'Name the split that is published with its answers, or keep those of the model with --out FOLDER'
        : 'Name the split that is published with its answers, or write what the test server wants with --submission FILE'
    }`,
  );
}

/** What `--data` says of each task: `task=path` of one, a folder that holds folders of their names, or the same path for all of them. */
export function dataOf(name: string, names: readonly string[], data: readonly string[]): readonly string[] {
  const own: string[] = [];
  for (const value of data) {
    const path = pathOf(value);
    const prefix = path === value ? null : value.slice(0, value.length - path.length - 1);
    if (prefix !== null && !names.includes(prefix))
      throw new CliError(`--data ${value}: ${prefix} is not among the tasks that are asked (${names.join(', ')})`, 2);
    if (prefix === name) own.push(path);
    else if (prefix === null) own.push(names.length > 1 && existsSync(join(path, name)) ? join(path, name) : path);
  }
  return own;
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
  const bytes = await readFile(path).catch((error: NodeJS.ErrnoException) => {
    throw new CliError(`--one-shot: cannot read ${path} (${error.code ?? error.message})`, 2);
  });
  if (readFacts(bytes) === null)
    throw new CliError(`--one-shot: expected a JPEG, PNG, WebP, GIF or AVIF picture, ${path} is none`, 2);
  return { sha256: sha256Hex(bytes), bytes: async () => bytes };
}

async function generatedSkills(flags: EvalFlags): Promise<EvalTask> {
  const { items, origin } = await skillFiles(flags);
  const options = optionsOf(flags);
  return wrapTask(skillsTask(items, origin, options), options);
}

function orWrongUse<T>(make: () => T): T {
  try {
    return make();
  } catch (error) {
    throw new CliError(error instanceof Error ? error.message : String(error), 2);
  }
}
