import { Command, Option } from 'commander';
import type { MantisClient } from '../../shared/client/client.ts';
import { violationsOf } from '../../shared/contract/errors.ts';
import type { CreateJobRequest } from '../../shared/contract/jobs.ts';
import { EvaluationOptions, type MantisOptions } from '../../shared/contract/training.ts';
import { type ApiOptions, apiOptions, withApi } from './api.ts';
import { CliError } from './error.ts';
import { dataId } from './finetune-data.ts';
import { addTrainingFlags, mantisOptions, type TrainingFlags } from './finetune-options.ts';
import { followJob } from './follow.ts';
import { collect, wholeNumber, within } from './parse.ts';

/** What a job is made of. */
export interface JobFlags extends TrainingFlags {
  readonly model: string;
  readonly validation?: string;
  readonly suffix?: string;
  readonly epochs?: number;
  readonly batchSize?: number;
  readonly learningRateMultiplier?: number;
  readonly seed?: number;
  readonly evalFile?: string;
  readonly evalEvery?: NonNullable<EvaluationOptions['every']>;
  readonly evalMaxExamples?: number;
  readonly evalOption: readonly string[];
  readonly evalOrders?: number;
  readonly evalTextOnly?: boolean;
  readonly evalEarlyStop?: number;
  readonly keepBest?: boolean;
}

interface FinetuneOptions extends ApiOptions, JobFlags {
  readonly follow: boolean;
}

/** `mantis finetune`: uploads a file, starts a job and follows it to its end. */
export function finetuneCommand(): Command {
  const command = addJobFlags(
    new Command('finetune')
      .description('tune a model on conversations with images, and follow the job with a live curve of its losses')
      .argument(
        '<data>',
        'training file (see `mantis dataset`) or mixture (.yaml), or the id of an uploaded file or a dataset',
      ),
  )
    .option('--follow', 'show events, bar and curve until the job has ended; Ctrl-C leaves it running', true)
    .option('--no-follow', 'start the job, print its id and return');
  for (const option of apiOptions()) command.addOption(option);
  return command.action((data: string, options: FinetuneOptions) =>
    withApi(options, async (api) => {
      process.stdout.write(`${await finetune(api, data, options)}\n`);
    }),
  );
}

/** @returns the tuned model's name; the job's id when it is not followed */
async function finetune(api: MantisClient, data: string, options: FinetuneOptions): Promise<string> {
  const job = await api.jobs.create(await jobRequest(api, data, options));
  process.stderr.write(`started ${job.id}\n`);
  return options.follow ? await followJob(api, job.id) : job.id;
}

/** Everything that a job may be told. */
export function addJobFlags(command: Command): Command {
  return addTrainingFlags(
    command
      .option('-m, --model <id>', 'base model', 'mantis-nano')
      .option('--validation <data>', 'file, or id, to measure on')
      .option('--suffix <name>', 'part of the new model’s name')
      .option('--epochs <n>', 'passes over the file', wholeNumber)
      .option('--batch-size <n>', 'examples a step', wholeNumber)
      .option('--learning-rate-multiplier <x>', 'scales the stage’s learning rate', within(0, 1000))
      .option('--seed <n>', 'same seed, same model', wholeNumber)
      .option('--eval-file <data>', 'held-out file, or id: checkpoints are asked its questions')
      .addOption(
        new Option('--eval-every <which>', 'which checkpoints (default: each)').choices(['checkpoint', 'epoch', 'end']),
      )
      .option('--eval-max-examples <n>', 'held-out examples that are asked (default: all)', wholeNumber)
      .option(
        '--eval-option <text>',
        'an answer to choose from, repeated for each; without, answers are generated',
        collect,
        [],
      )
      .option('--eval-orders <n>', 'orders of its pictures in which each question is asked', wholeNumber)
      .option('--eval-text-only', 'ask without pictures too')
      .option('--eval-early-stop <n>', 'end the job after so many evaluations without a new best', wholeNumber)
      .option('--keep-best', 'the checkpoint with the most right answers becomes the model, not the last one'),
  );
}

/** What the flags ask for; files of this machine are uploaded. */
export async function jobRequest(api: MantisClient, data: string, options: JobFlags): Promise<CreateJobRequest> {
  const mantis = { ...(await mantisOptions(options)), ...(await evaluationOf(api, options)) };
  if (options.earlyStopping !== undefined && options.validation === undefined)
    throw new CliError('--early-stopping needs --validation: it watches the loss there', 2);
  const training = await dataId(api, data);
  const validation = options.validation === undefined ? null : await dataId(api, options.validation);
  const hyperparameters = {
    ...(options.epochs === undefined ? {} : { n_epochs: options.epochs }),
    ...(options.batchSize === undefined ? {} : { batch_size: options.batchSize }),
    ...(options.learningRateMultiplier === undefined
      ? {}
      : { learning_rate_multiplier: options.learningRateMultiplier }),
  };
  return {
    model: options.model,
    training_file: training,
    ...(validation === null ? {} : { validation_file: validation }),
    ...(options.suffix === undefined ? {} : { suffix: options.suffix }),
    ...(options.seed === undefined ? {} : { seed: options.seed }),
    method: { type: 'supervised', supervised: { hyperparameters, mantis } },
  };
}

const EVALUATION_FLAGS = [
  'evalEvery',
  'evalMaxExamples',
  'evalOrders',
  'evalTextOnly',
  'evalEarlyStop',
  'keepBest',
] as const satisfies readonly (keyof JobFlags)[];

/** How checkpoints are evaluated; nothing where they are not. @throws CliError for flags that would say nothing */
async function evaluationOf(api: MantisClient, options: JobFlags): Promise<Pick<MantisOptions, 'evaluation'>> {
  const { evalFile, evalEvery, evalMaxExamples, evalOption, evalOrders, evalTextOnly, evalEarlyStop, keepBest } =
    options;
  if (evalFile === undefined) {
    const alone = EVALUATION_FLAGS.find((flag) => options[flag] !== undefined);
    if (alone === undefined && evalOption.length === 0) return {};
    const flag = (alone ?? 'evalOption').replace(/[A-Z]/g, (letter) => `-${letter.toLowerCase()}`);
    throw new CliError(`--${flag}: expected --eval-file beside it, received none`, 2);
  }
  const asked: EvaluationOptions = {
    held_out_file: evalFile,
    ...(evalEvery === undefined ? {} : { every: evalEvery }),
    ...(evalMaxExamples === undefined ? {} : { max_examples: evalMaxExamples }),
    ...(evalOption.length === 0 ? {} : { options: [...evalOption] }),
    ...(evalOrders === undefined ? {} : { image_orders: evalOrders }),
    ...(evalTextOnly === true ? { text_only: true } : {}),
    ...(evalEarlyStop === undefined ? {} : { early_stop: { patience: evalEarlyStop } }),
    ...(keepBest === true ? { keep_best: true } : {}),
  };
  const parsed = EvaluationOptions.safeParse(asked);
  if (!parsed.success)
    throw new CliError(
      violationsOf(parsed.error.issues, asked)
        .map(({ message }) => message)
        .join('\n'),
      2,
    );
  // Uploaded only when all else is right.
  return { evaluation: { ...parsed.data, held_out_file: await dataId(api, evalFile) } };
}
