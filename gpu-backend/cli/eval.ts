import { fileURLToPath } from 'node:url';
import { Command, Option } from 'commander';
import { ChoiceScorer, type ScorerImage } from '../engine/choice-scorer.ts';
import { evaluateNlvr, type NlvrControl, nlvrControls } from '../eval/nlvr.ts';
import { evaluateSkills } from '../eval/skills.ts';
import { sha256Hex } from '../io/digest.ts';
import { heldOutItems } from '../train/nano/heldout.ts';
import { readNlvrBoxes, readNlvrExamples } from '../train/nano/nlvr.ts';
import { boxSidePx } from '../train/nano/scene.ts';
import { preprocessImage, preprocessRgb } from '../vision/preprocess.ts';
import { CliError } from './error.ts';
import { wholeNumber } from './parse.ts';
import { ProgressBar } from './progress.ts';

interface ModelOptions {
  readonly model: string;
  readonly overlay?: string;
  readonly threads: number;
  readonly json?: boolean;
}

interface NlvrOptions extends ModelOptions {
  readonly data: string;
  readonly split: string;
  readonly control: NlvrControl;
  readonly limit?: number;
}

interface SkillsOptions extends ModelOptions {
  readonly perSkill: number;
  readonly seed: number;
  readonly control: 'none' | 'text-only';
}

const bundledModel = fileURLToPath(new URL('../models/nano', import.meta.url));

/** `mantis eval`: how good a model is, with the control runs that show whether it looks at the pictures. */
export function evalCommand(): Command {
  const command = new Command('eval').description('measure a model');
  const nlvr = new Command('nlvr')
    .description('true or false about three boxes (Suhr et al. 2017), every example in all orders of its boxes')
    .requiredOption('--data <folder>', 'folder with SPLIT.jsonl, SPLIT.box.bin, SPLIT.box.idx')
    .option('--split <name>', 'which split', 'dev')
    .addOption(new Option('--control <kind>', 'what the model may not see').choices([...nlvrControls]).default('none'))
    .option('--limit <n>', 'only the first n examples', wholeNumber)
    .action(runNlvr);
  const skills = new Command('skills')
    .description('the four Mantis skills on a generated held-out set: co-reference, comparison, reasoning, temporal')
    .option('--per-skill <n>', 'questions of each skill', wholeNumber, 250)
    .option('--seed <n>', 'another set of the same kind', wholeNumber, 0)
    .addOption(
      new Option('--control <kind>', 'what the model may not see').choices(['none', 'text-only']).default('none'),
    )
    .action(runSkills);
  for (const sub of [nlvr, skills]) {
    sub
      .option('--model <folder>', 'checkpoint folder', bundledModel)
      .option('--overlay <folder>', 'files of a fine-tune to lay over it')
      .option('--threads <n>', 'threads of the runtime', wholeNumber, 1)
      .option('--json', 'end with one line of JSON');
    command.addCommand(sub);
  }
  return command;
}

async function runNlvr(options: NlvrOptions): Promise<void> {
  const [boxes, all] = await readable(() =>
    Promise.all([readNlvrBoxes(options.data, options.split), readNlvrExamples(options.data, options.split)]),
  );
  const scorer = await ChoiceScorer.create(options.model, options.overlay ?? null, options.threads);
  const bar = new ProgressBar(`nlvr ${options.split}`);
  const report = await evaluateNlvr<ScorerImage>(options.limit === undefined ? all : all.slice(0, options.limit), {
    control: options.control,
    image: (box) => ({
      key: String(box),
      picture: () => preprocessImage(boxes.png(box), scorer.front.recipe),
    }),
    score: (questions) => scorer.score(questions),
    onProgress: (done, total) => bar.update(done, total),
  });
  bar.end();
  finish(options, report, [
    `accuracy ${percent(report.accuracy)} ± ${percent(report.accuracyStandardError)}, consistency ${percent(report.consistency)}`,
    `${report.examples} examples, ${report.answers} answers, control ${report.control}`,
  ]);
}

async function runSkills(options: SkillsOptions): Promise<void> {
  const scorer = await ChoiceScorer.create(options.model, options.overlay ?? null, options.threads);
  const bar = new ProgressBar('skills');
  const items = heldOutItems(options.perSkill, options.seed).map((item) => ({
    ...item,
    images: item.images.map(
      (rgb): ScorerImage => ({
        key: sha256Hex(rgb),
        picture: async () =>
          preprocessRgb({ width: boxSidePx, height: boxSidePx, pixels_HWC: rgb }, scorer.front.recipe),
      }),
    ),
  }));
  const report = await evaluateSkills<ScorerImage>(items, {
    control: options.control,
    score: (questions) => scorer.score(questions),
    onProgress: (done, total) => bar.update(done, total),
  });
  bar.end();
  finish(options, report, [
    `accuracy ${percent(report.accuracy)} ± ${percent(report.accuracyStandardError)}, ${report.items} items, control ${report.control}`,
    ...Object.entries(report.bySkill).map(
      ([skill, { accuracy, majority, items: count }]) =>
        `  ${skill}: ${percent(accuracy)} of ${count} (always the commonest answer: ${percent(majority)})`,
    ),
  ]);
}

function percent(share: number): string {
  return `${(100 * share).toFixed(1)} %`;
}

function finish(options: ModelOptions, report: object, lines: readonly string[]): void {
  for (const line of lines) process.stderr.write(`${line}\n`);
  if (options.json === true) process.stdout.write(`${JSON.stringify({ ...report, model: options.model })}\n`);
}

async function readable<T>(read: () => Promise<T>): Promise<T> {
  try {
    return await read();
  } catch (error) {
    throw new CliError(error instanceof Error ? error.message : String(error), 2);
  }
}
