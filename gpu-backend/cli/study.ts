import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { Argument, Command, InvalidArgumentError } from 'commander';
import { mergePictures } from '../eval/run/merge.ts';
import { STUDIES } from '../train/studies/questions.ts';
import { runStudy } from '../train/studies/run.ts';
import type { StudyId } from '../train/studies/study.ts';
import { CliError } from './error.ts';
import { wholeNumber } from './parse.ts';
import { ProgressBar } from './progress.ts';
import { studyFigures, studyMarkdown } from './study-table.ts';

const BUNDLED_MODEL = fileURLToPath(new URL('../models/nano', import.meta.url));

interface StudyFlags {
  readonly out: string;
  readonly steps?: number;
  readonly startSteps?: number;
  readonly items?: number;
  readonly seeds: readonly number[];
  readonly threads: number;
  readonly from: string;
  readonly json?: true;
}

/** `mantis study`: the questions of the Mantis paper, answered by training small models that differ in one thing. */
export function studyCommand(): Command {
  const list = [...STUDIES.values()].map(({ id, title }) => `  ${id.padEnd(12)} ${title}`).join('\n');
  return new Command('study')
    .description(
      'train arms that differ in one thing from a common start, and compare them on the same held-out questions',
    )
    .addArgument(new Argument('<question>', 'what to find out').choices([...STUDIES.keys()]))
    .requiredOption('--out <folder>', 'folder that studies share; the same command goes on where it stopped')
    .option('--steps <n>', 'optimizer steps of an arm', wholeNumber)
    .option('--start-steps <n>', 'steps of the common start', wholeNumber)
    .option('--items <n>', 'held-out questions of each topic', wholeNumber)
    .option('--seeds <list>', 'training data, one run of every arm each: 1,2,3', seedList, [1])
    .option('--threads <n>', 'threads that compute gradients', wholeNumber, 2)
    .option('--from <folder>', 'model whose vision tower and vocabulary the arms start from', BUNDLED_MODEL)
    .option('--json', 'print the figures as JSON')
    .addHelpText('after', `\nQuestions:\n${list}`)
    .action(study);
}

function seedList(value: string): number[] {
  const seeds = value.split(',').map(Number);
  if (!/^\d+(,\d+)*$/.test(value) || new Set(seeds).size < seeds.length || Math.max(...seeds) >= 2 ** 31)
    throw new InvalidArgumentError('Expected different whole numbers below 2^31, such as 1,2,3.');
  return seeds;
}

async function study(question: StudyId, flags: StudyFlags): Promise<void> {
  const found = STUDIES.get(question);
  if (found === undefined) throw new CliError(`there is no study ${question}`, 2);
  const budget = {
    steps: flags.steps ?? found.defaultBudget.steps,
    startSteps: flags.startSteps ?? found.defaultBudget.startSteps,
    items: flags.items ?? found.defaultBudget.items,
  };
  if (Math.min(budget.steps, budget.startSteps, budget.items, flags.threads) < 1)
    throw new CliError('--steps, --start-steps, --items and --threads: expected at least 1', 2);
  const stop = new AbortController();
  // The first signal saves and stops; a second one ends the process at once.
  const onSignal = (): void => stop.abort();
  process.once('SIGINT', onSignal).once('SIGTERM', onSignal);
  const bar = new ProgressBar(`study ${question}`);
  const result = await runStudy({
    study: found,
    out: flags.out,
    modelDir: flags.from,
    budget,
    seeds: flags.seeds,
    threads: flags.threads,
    merge: mergePictures,
    signal: stop.signal,
    onStep: (what, step, totalSteps, loss) => bar.update(step, totalSteps, `${what}, loss ${loss.toFixed(3)}`),
    onMessage: (message) => bar.log(message),
  });
  bar.end();
  process.removeListener('SIGINT', onSignal).removeListener('SIGTERM', onSignal);
  if (result === undefined) {
    process.stderr.write('stopped; the same command goes on\n');
    return;
  }
  const figures = studyFigures(result);
  const markdown = studyMarkdown(figures);
  const json = `${JSON.stringify(figures, null, 1)}\n`;
  await writeFile(join(flags.out, question, 'table.md'), `${markdown}\n`);
  await writeFile(join(flags.out, question, 'figures.json'), json);
  process.stdout.write(flags.json === true ? json : `${markdown}\n`);
}
