import { Command, Option } from 'commander';
import type { MantisClient } from '../../shared/client/client.ts';
import { type ApiOptions, apiOptions, uploadTrainingFile, withApi } from './api.ts';
import { CliError } from './error.ts';
import { wholeNumber, within } from './parse.ts';
import { ProgressBar } from './progress.ts';

interface FinetuneOptions extends ApiOptions {
  readonly model: string;
  readonly stage: 'projector' | 'lora' | 'full';
  readonly rank?: number;
  readonly dora?: boolean;
  readonly validation?: string;
  readonly suffix?: string;
  readonly epochs?: number;
  readonly batchSize?: number;
  readonly learningRateMultiplier?: number;
  readonly seed?: number;
  readonly follow: boolean;
}

/** `mantis finetune`: uploads a file, starts a job and follows it to its end. */
export function finetuneCommand(): Command {
  const command = new Command('finetune')
    .description('tune a model on a JSONL file of conversations with images, and follow the job')
    .argument('<file>', 'training file in OpenAI’s chat format, one example a line')
    .option('-m, --model <id>', 'base model', 'mantis-nano')
    .addOption(
      new Option('--stage <stage>', 'which weights move').choices(['projector', 'lora', 'full']).default('lora'),
    )
    .option('--rank <n>', 'rank of the adapters of the stage lora; their alpha is twice it (default: 16)', wholeNumber)
    .option('--dora', 'weight-decomposed adapters: slower, each row of a weight also learns its length')
    .option('--validation <file>', 'file to measure on')
    .option('--suffix <name>', 'part of the new model’s name')
    .option('--epochs <n>', 'passes over the file', wholeNumber)
    .option('--batch-size <n>', 'examples a step', wholeNumber)
    .option('--learning-rate-multiplier <x>', 'scales the stage’s learning rate', within(0, 1000))
    .option('--seed <n>', 'same seed, same model', wholeNumber)
    .option('--no-follow', 'start the job and return');
  for (const option of apiOptions()) command.addOption(option);
  return command.action((file: string, options: FinetuneOptions) =>
    withApi(options, async (api) => {
      process.stdout.write(`${await finetune(api, file, options)}\n`);
    }),
  );
}

/** @returns the tuned model's name; the job's id when it is not followed */
async function finetune(api: MantisClient, file: string, options: FinetuneOptions): Promise<string> {
  const lora = adapters(options);
  const training = await uploadTrainingFile(api, file);
  process.stderr.write(`uploaded ${file} as ${training.id} (${training.bytes} bytes)\n`);
  const validation = options.validation === undefined ? null : await uploadTrainingFile(api, options.validation);
  const hyperparameters = {
    ...(options.epochs === undefined ? {} : { n_epochs: options.epochs }),
    ...(options.batchSize === undefined ? {} : { batch_size: options.batchSize }),
    ...(options.learningRateMultiplier === undefined
      ? {}
      : { learning_rate_multiplier: options.learningRateMultiplier }),
  };
  const job = await api.jobs.create({
    model: options.model,
    training_file: training.id,
    ...(validation === null ? {} : { validation_file: validation.id }),
    ...(options.suffix === undefined ? {} : { suffix: options.suffix }),
    ...(options.seed === undefined ? {} : { seed: options.seed }),
    method: {
      type: 'supervised',
      supervised: { hyperparameters, mantis: { stage: options.stage, ...lora } },
    },
  });
  process.stderr.write(`started ${job.id}\n`);
  return options.follow ? await follow(api, job.id) : job.id;
}

/** What the job is asked about its adapters; nothing where the defaults are meant. */
function adapters({ rank, dora, stage }: FinetuneOptions): { lora?: { r: number; alpha: number; dora?: boolean } } {
  if (rank === undefined && dora !== true) return {};
  if (stage !== 'lora') throw new CliError(`--rank and --dora are for --stage lora, not ${stage}`, 2);
  const r = rank ?? 16;
  return { lora: { r, alpha: 2 * r, ...(dora === true ? { dora } : {}) } };
}

/** Shows events as they come and a bar over the steps, until the job ends. Ctrl-C leaves the job running. */
async function follow(api: MantisClient, id: string): Promise<string> {
  const bar = new ProgressBar('step');
  try {
    for await (const update of api.jobs.follow(id)) {
      if (update.type === 'event') {
        const { event } = update;
        if (event.type === 'metrics') showMetrics(bar, event.data ?? {});
        else bar.log(event.level === 'info' ? event.message : `${event.level}: ${event.message}`);
      } else if (update.status === 'succeeded') return update.fineTunedModel ?? id;
      else {
        const { error } = await api.jobs.retrieve(id);
        throw new CliError(`${id} ${update.status}${error === null ? '' : `: ${error.message}`}`);
      }
    }
  } finally {
    bar.end();
  }
  throw new CliError(`the events of ${id} ended before the job did`);
}

function showMetrics(bar: ProgressBar, data: Record<string, unknown>): void {
  const { step, total_steps, train_loss } = data;
  if (typeof step !== 'number' || typeof total_steps !== 'number') return;
  bar.update(step, total_steps, typeof train_loss === 'number' ? `loss ${train_loss.toFixed(4)}` : '');
}
