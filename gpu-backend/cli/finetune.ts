import { setTimeout as sleep } from 'node:timers/promises';
import { Command, Option } from 'commander';
import type { FineTuningJob, JobEvent } from '../../shared/contract/jobs.ts';
import { Api, type ApiOptions, apiOptions } from './api.ts';
import { CliError } from './error.ts';
import { wholeNumber, within } from './parse.ts';
import { ProgressBar } from './progress.ts';

interface FinetuneOptions extends ApiOptions {
  readonly model: string;
  readonly stage: 'projector' | 'lora' | 'full';
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
    .option('--validation <file>', 'file to measure on')
    .option('--suffix <name>', 'part of the new model’s name')
    .option('--epochs <n>', 'passes over the file', wholeNumber)
    .option('--batch-size <n>', 'examples a step', wholeNumber)
    .option('--learning-rate-multiplier <x>', 'scales the stage’s learning rate', within(0, 1000))
    .option('--seed <n>', 'same seed, same model', wholeNumber)
    .option('--no-follow', 'start the job and return');
  for (const option of apiOptions()) command.addOption(option);
  return command.action(async (file: string, options: FinetuneOptions) => {
    const api = new Api(options);
    const training = await api.upload<{ id: string; bytes: number }>(file, 'fine-tune');
    process.stderr.write(`uploaded ${file} as ${training.id} (${training.bytes} bytes)\n`);
    const validation =
      options.validation === undefined ? null : await api.upload<{ id: string }>(options.validation, 'fine-tune');
    const hyperparameters = {
      ...(options.epochs === undefined ? {} : { n_epochs: options.epochs }),
      ...(options.batchSize === undefined ? {} : { batch_size: options.batchSize }),
      ...(options.learningRateMultiplier === undefined
        ? {}
        : { learning_rate_multiplier: options.learningRateMultiplier }),
    };
    const job = await api.post<FineTuningJob>('/v1/fine_tuning/jobs', {
      model: options.model,
      training_file: training.id,
      ...(validation === null ? {} : { validation_file: validation.id }),
      ...(options.suffix === undefined ? {} : { suffix: options.suffix }),
      ...(options.seed === undefined ? {} : { seed: options.seed }),
      method: { type: 'supervised', supervised: { hyperparameters, mantis: { stage: options.stage } } },
    });
    process.stderr.write(`started ${job.id}\n`);
    const ended = options.follow ? await follow(api, job.id) : job;
    process.stdout.write(`${ended.fine_tuned_model ?? ended.id}\n`);
  });
}

/** Shows events as they come and a bar over the steps, until the job ends. Ctrl-C leaves the job running. */
async function follow(api: Api, id: string): Promise<FineTuningJob> {
  const bar = new ProgressBar('step');
  const seen = new Set<string>();
  for (;;) {
    const job = await api.get<FineTuningJob>(`/v1/fine_tuning/jobs/${id}`);
    const { data } = await api.get<{ data: JobEvent[] }>(`/v1/fine_tuning/jobs/${id}/events?limit=100`);
    for (const event of data.reverse()) {
      if (seen.has(event.id)) continue;
      seen.add(event.id);
      if (event.type === 'metrics') showMetrics(bar, event.data ?? {});
      else bar.log(event.level === 'info' ? event.message : `${event.level}: ${event.message}`);
    }
    if (job.status === 'succeeded') {
      bar.end();
      return job;
    }
    if (job.status === 'failed' || job.status === 'cancelled') {
      bar.end();
      throw new CliError(`${id} ${job.status}${job.error === null ? '' : `: ${job.error.message}`}`);
    }
    await sleep(1_000);
  }
}

function showMetrics(bar: ProgressBar, data: Record<string, unknown>): void {
  const { step, total_steps, train_loss } = data;
  if (typeof step !== 'number' || typeof total_steps !== 'number') return;
  bar.update(step, total_steps, typeof train_loss === 'number' ? `loss ${train_loss.toFixed(4)}` : '');
}
