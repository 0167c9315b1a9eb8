/** Everything about a command line that can be refused before a model is loaded or a file is read. */
import { existsSync, statSync } from 'node:fs';
import { resolve } from 'node:path';
import type { EvalTask } from '../eval/task.ts';
import { pathOf } from './data-path.ts';
import { CliError } from './error.ts';
import type { EvalFlags, GivenFlags } from './eval-options.ts';
import { OWN, SKILLS } from './eval-task.ts';

/** Where a model is asked. */
export type ModelPlace = 'folder' | 'endpoint' | 'installation';

export interface CheckedCommand {
  readonly flags: EvalFlags;
  readonly given: GivenFlags;
  /** With the options of the command line, not opened. */
  readonly tasks: readonly EvalTask[];
  readonly place: ModelPlace;
  readonly judgePlace: ModelPlace | null;
}

/** `--per-skill` for `perSkill`. */
const written = (name: keyof EvalFlags): string =>
  `--${name.replaceAll(/[A-Z]/g, (letter) => `-${letter.toLowerCase()}`)}`;

/**
 * A flag that would change nothing is a mistake in an experiment that nobody sees.
 * @throws CliError naming the flag and why it does nothing
 */
export function requireFlagsOfUse({ flags, given, tasks, place, judgePlace }: CheckedCommand): void {
  const idle = (names: readonly (keyof EvalFlags)[], why: string, isIdle = true): void => {
    const found = isIdle ? names.find((name) => given.has(name)) : undefined;
    if (found !== undefined) throw new CliError(`${written(found)} does nothing here: ${why}`, 2);
  };
  const [first] = tasks;
  const named = tasks.length === 1 ? (first?.title ?? '') : 'none of these tasks';
  const skills = tasks.filter(({ name }) => name === SKILLS).length;
  idle(['choices'], `it is for the task ${OWN}`, !tasks.some(({ name }) => name === OWN));
  idle(
    ['rotate'],
    'the choices of own conversations are compared, not shown',
    tasks.length === 1 && first?.name === OWN,
  );
  idle(['split'], 'files of one’s own have no splits', tasks.length === 1 && first?.name === OWN);
  idle(['perSkill', 'images'], `it is for the task ${SKILLS}`, skills === 0);
  idle(['seed'], `it draws the sample of --limit, or the questions of ${SKILLS}`, skills === 0 && !given.has('limit'));
  idle(['data', 'split', 'imageFolder'], `the questions of ${SKILLS} are generated`, skills === tasks.length);
  if (given.has('limit') && given.has('first'))
    throw new CliError('--limit draws a sample, --first takes the first records: name one of them', 2);

  const chooses = tasks.filter(({ protocol }) => protocol.answerBy !== undefined);
  idle(['answerBy', 'rotate'], `${named} has no options to choose from`, chooses.length === 0);
  if (place === 'endpoint' && flags.answerBy === 'likelihood')
    throw new CliError(
      '--answer-by likelihood: an endpoint of chat completions only writes answers; a checkpoint folder or an installation compares options',
      2,
    );
  idle(
    ['judge'],
    `no model reads answers for ${named === 'none of these tasks' ? 'any of these tasks' : named}; \`mantis eval list\` shows who does`,
    tasks.every(({ extraction }) => extraction === undefined),
  );
  idle(['judgeBaseUrl', 'judgeApiKeyEnv'], 'there is no --judge', !given.has('judge'));
  if (given.has('submission') && tasks.every(({ submissionRow }) => submissionRow === undefined))
    throw new CliError(`--submission: ${named} has no server that answers are handed in to`, 2);

  idle(
    ['overlay', 'threads', 'precision', 'kv'],
    'the model is not in this process, it is asked over the network',
    place !== 'folder' && judgePlace !== 'folder',
  );
  idle(
    ['apiKeyEnv', 'atOnce', 'timeout', 'request'],
    'the model is a checkpoint folder in this process',
    place === 'folder' && (judgePlace === null || judgePlace === 'folder'),
  );
  idle(['oneShotText'], 'there is no --one-shot picture', !given.has('oneShot'));
  idle(['force'], 'there is no --compare', !given.has('compare'));
  idle(
    ['html', 'compare', 'force', 'submission', 'cache', 'out', 'json'],
    '--dry-run asks nothing',
    flags.dryRun === true,
  );
  if (tasks.length > 1) {
    for (const name of ['html', 'submission', 'split', 'imageFolder'] as const)
      if (given.has(name)) throw new CliError(`${written(name)} is for one task, ${tasks.length} are named`, 2);
  }
}

/** Results do not belong between the files of a benchmark. @throws CliError */
export function requireOutBesideData({ out, data }: Pick<EvalFlags, 'out' | 'data'>): void {
  if (out === undefined) return;
  const inData = data.find((path) => resolve(pathOf(path)) === resolve(out) && isFolder(pathOf(path)));
  if (inData !== undefined)
    throw new CliError(
      `--out ${out} is the folder of the data; name another one, so that results do not lie between its files`,
      2,
    );
}

function isFolder(path: string): boolean {
  return existsSync(path) && statSync(path).isDirectory();
}
