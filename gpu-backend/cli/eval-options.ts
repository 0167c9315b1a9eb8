import { type Command, InvalidArgumentError, Option } from 'commander';
import { KV_CHOICES, PRECISION_SYNTAX } from '../engine/precision.ts';
import { evalControls, type VariantsAsked } from '../eval/controls.ts';
import { promptLayouts, type TaskOptions } from '../eval/options.ts';
import type { ImageMode } from '../eval/task.ts';
import { collect, wholeNumber, wholeWithin, within } from './parse.ts';

/** What `mantis eval TASK` is told, as commander hands it over. */
export interface EvalFlags {
  readonly data: readonly string[];
  readonly images?: number;
  readonly choices?: readonly string[];
  readonly imageFolder?: string;
  readonly split?: string;
  readonly limit?: number;
  readonly first?: number;
  readonly model?: string;
  readonly overlay?: string;
  readonly threads?: number;
  readonly precision: string;
  readonly kv: 'auto' | 'f32' | 'int8';
  readonly baseUrl?: string;
  readonly apiKeyEnv?: string;
  readonly atOnce?: number;
  readonly timeout: number;
  readonly request?: string;
  readonly judge?: string;
  readonly judgeBaseUrl?: string;
  readonly judgeApiKeyEnv?: string;
  readonly mode: ImageMode;
  readonly layout?: NonNullable<TaskOptions['layout']>;
  readonly answerBy?: NonNullable<TaskOptions['answerBy']>;
  readonly maxTokens?: number;
  readonly system?: string;
  readonly oneShot?: string;
  readonly oneShotText?: string;
  readonly control: readonly (typeof evalControls)[number][];
  readonly orders: VariantsAsked['orders'];
  readonly rotate?: boolean;
  readonly maxErrors: number;
  readonly name?: string;
  readonly dryRun?: boolean;
  readonly out?: string;
  readonly cache?: string;
  readonly html?: string;
  readonly compare?: string;
  readonly force?: boolean;
  readonly submission?: string;
  readonly json?: boolean;
  readonly perSkill: number;
  readonly seed: number;
}

/** Names of the options that the user gave, as `EvalFlags` has them: defaults are not among them. */
export type GivenFlags = ReadonlySet<keyof EvalFlags>;

export function givenFlags(command: Command): GivenFlags {
  const names = command.options.map((option) => option.attributeName());
  return new Set(
    names.filter((name) => command.getOptionValueSource(name) === 'cli'),
  ) as ReadonlySet<string> as GivenFlags;
}

/** Adds the options of `mantis eval TASK` to its command. */
export function addEvalOptions(command: Command): Command {
  command
    .optionsGroup('What is asked:')
    .addOption(
      new Option('--data <[task=]path>', 'file or folder of the benchmark, repeatable; with several tasks FOLDER/TASK')
        .argParser(collect)
        .default([], NO_DEFAULT),
    )
    .option('--image-folder <folder>', 'pictures that records name by path (default: the folder of their file)')
    .option('--split <name>', 'which split (default: the task’s)')
    .option('--limit <n>', 'a sample of n records: of every category its share, drawn by --seed', atLeastOne)
    .option('--first <n>', 'only the first n records, which may all be of one kind; reads no further', atLeastOne)
    .option('--seed <n>', 'another sample; skills: other questions of the same kind', wholeNumber, 0)
    .option('--per-skill <n>', 'skills: questions of each skill', wholeWithin(1, 100_000), 250)
    .option('--images <n>', 'skills: every question about n pictures', wholeWithin(2, 9))
    .addOption(
      new Option('--choices <words>', 'own: the answers to choose from, with commas, as true,false').argParser(choices),
    )
    .addOption(
      new Option('--orders <orders>', 'orders of the pictures: all, how many, or protocol')
        .argParser(orders)
        .default('protocol', 'protocol: as published'),
    )
    .option('--rotate', 'every rotation of the options')
    .addOption(
      new Option(
        '--control <kinds>',
        `ask again without what an answer should rest on: ${evalControls.join(', ')}; several with commas`,
      )
        .argParser(controls)
        .default([], NO_DEFAULT),
    )
    .optionsGroup('Who is asked:')
    .option('--model <folder|id>', 'checkpoint folder, or a model of an installation or endpoint (default: nano)')
    .option('--overlay <folder>', 'files of a fine-tune, or an adapter, to lay over a checkpoint folder')
    .option('--threads <n>', 'processors for a checkpoint folder (default: all)', wholeWithin(1, 256));
  return command
    .option('--precision <format>', `weights while answers are generated: ${PRECISION_SYNTAX}`, 'f32')
    .addOption(new Option('--kv <format>', 'keys and values meanwhile').choices(KV_CHOICES).default('f32'))
    .option('--base-url <url>', 'any endpoint that speaks OpenAI’s chat completions, e.g. https://api.openai.com/v1')
    .option('--api-key-env <name>', 'environment variable with its key (default: OPENAI_API_KEY, MANTIS_API_KEY)')
    .option('--at-once <n>', 'requests to an endpoint under way at once', wholeWithin(1, 1024))
    .option('--timeout <seconds>', 'for one request to an endpoint', within(1, 3600), 120)
    .option('--request <json>', 'fields laid over every request to an endpoint; null takes one away')
    .option('--judge <id>', 'model that reads answers where the benchmark’s authors let one (MathVista, BLINK)')
    .option('--judge-base-url <url>', 'its endpoint (default: that of the model)')
    .option('--judge-api-key-env <name>', 'environment variable with its key')
    .optionsGroup('How:')
    .addOption(
      new Option('--mode <mode>', 'pictures one by one, or pasted into one as for single-image models')
        .choices(['sequence', 'merge'])
        .default('sequence'),
    )
    .addOption(
      new Option('--layout <layout>', 'how text and pictures of a question are put together').choices(promptLayouts),
    )
    .addOption(
      new Option('--answer-by <way>', 'write and parse, or compare options').choices(['generation', 'likelihood']),
    )
    .option('--max-tokens <n>', 'longest answer (default: the task’s)', wholeWithin(1, 1_000_000))
    .option('--system <text>', 'system message')
    .option('--one-shot <picture>', 'this picture and a solved question before every prompt, as for OpenFlamingo')
    .option('--one-shot-text <text>', 'that question with its answer (default: the paper’s)')
    .option(
      '--max-errors <share>',
      'end when more questions than this stay without an answer; 3 may in any case, unless it is 0',
      within(0, 1),
      0.05,
    )
    .option('--dry-run', 'ask nothing: read and check the data, count questions, show the first prompt')
    .optionsGroup('What comes of it:')
    .option('--name <text>', 'what reports and comparisons call this run (default: the model)')
    .option(
      '--out <folder>',
      'items and report; the same command again goes on where it was; with several tasks FOLDER/TASK',
    )
    .option('--cache <folder>', 'answers by content, shared between runs')
    .option('--html <file>', 'the report as one HTML file (default: report.html in --out)')
    .option('--compare <report>', 'another run of the same questions: its folder or report.json')
    .option('--force', 'compare runs that did different things')
    .option('--submission <file>', 'answers as the benchmark’s server wants them: .json, .jsonl, .tsv, .xlsx')
    .option('--json', 'print one line of JSON a task in place of the report');
}

/** Commander writes a default of nothing as []. */
const NO_DEFAULT = 'none';

const atLeastOne = wholeWithin(1, 2 ** 31);

function choices(value: string): readonly string[] {
  const words = value.split(',').map((word) => word.trim());
  if (words.length < 2 || words.includes('') || new Set(words).size < words.length)
    throw new InvalidArgumentError('Expected at least two different answers, with commas.');
  return words;
}

function orders(value: string): VariantsAsked['orders'] {
  if (value === 'all' || value === 'protocol') return value;
  if (!/^[1-9]\d{0,3}$/.test(value))
    throw new InvalidArgumentError('Expected all, protocol or a number of at least 1.');
  return Number(value);
}

function controls(values: string, previous: EvalFlags['control']): EvalFlags['control'] {
  return values.split(',').reduce((sofar, value) => withControl(value.trim(), sofar), previous);
}

function withControl(value: string, previous: EvalFlags['control']): EvalFlags['control'] {
  if (value === 'none') return previous;
  const known = evalControls.find((control) => control === value);
  if (known === undefined)
    throw new InvalidArgumentError(`Expected ${evalControls.join(', ')} or none, several with commas.`);
  return previous.includes(known) ? previous : [...previous, known];
}
