import { readFile } from 'node:fs/promises';
import { type Command, Option } from 'commander';
import { violationsOf } from '../../shared/contract/errors.ts';
import { BasePrecision, MantisOptions, ModelPart } from '../../shared/contract/training.ts';
import { CliError } from './error.ts';
import { collect, wholeNumber, within } from './parse.ts';

/** What the command line says of `method.supervised.mantis`. */
export interface TrainingFlags {
  readonly preset?: 'mantis' | 'mantis-small';
  readonly stage?: 'projector' | 'lora' | 'full';
  readonly stages?: string;
  readonly rank?: number;
  readonly dora?: boolean;
  readonly basePrecision?: BasePrecision;
  readonly learningRate?: number;
  readonly partRate: readonly string[];
  readonly schedule?: NonNullable<MantisOptions['schedule']>['kind'];
  readonly warmupRatio?: number;
  readonly weightDecay?: number;
  readonly maxGradNorm?: number;
  readonly packing?: boolean;
  readonly maxTokens?: number;
  readonly microBatchTokens?: number;
  readonly gradientCheckpointing?: boolean;
  readonly earlyStopping?: number;
  readonly checkpointEvery?: number;
  readonly checkpointsKept?: number;
  readonly maxBadShare?: number;
  readonly maxDurationS?: number;
}

export function addTrainingFlags(command: Command): Command {
  return command
    .addOption(
      new Option('--preset <name>', 'a recipe in place of --stage and --stages; other flags beside it win').choices([
        'mantis',
        'mantis-small',
      ]),
    )
    .addOption(
      new Option('--stage <stage>', 'which weights move (default: lora)').choices(['projector', 'lora', 'full']),
    )
    .option('--stages <list>', 'several stages in order: projector,lora, or a .json file of the API’s `stages`')
    .option('--rank <n>', 'rank of the adapters of the stage lora; their alpha is twice it (default: 16)', wholeNumber)
    .option('--dora', 'weight-decomposed adapters: slower, each row of a weight also learns its length')
    .addOption(new Option('--base-precision <format>', 'how weights that stay are held').choices(BasePrecision.options))
    .option('--learning-rate <x>', 'peak rate (default: by stage and width)', within(0, 1))
    .option(
      '--part-rate <part=factor>',
      `factor on the rate of one of ${ModelPart.options.join(', ')}; 0 freezes it`,
      collect,
      [],
    )
    .addOption(new Option('--schedule <kind>', 'course of the rate').choices(['cosine', 'linear', 'constant']))
    .option('--warmup-ratio <x>', 'share of the steps over which the rate rises', within(0, 1))
    .option('--weight-decay <x>', 'decay of weights a step', within(0, 10))
    .option('--max-grad-norm <x>', 'longer gradients are scaled down to it (default: 1)', within(0, 1e9))
    .option('--packing', 'several examples in one row, unseen by each other')
    .option('--no-packing', 'one example a row')
    .option('--max-tokens <n>', 'leave out longer examples, and say so (default: the model’s context)', wholeNumber)
    .option('--micro-batch-tokens <n>', 'tokens of one pass; a step takes as many passes as it needs', wholeNumber)
    .option('--gradient-checkpointing', 'compute activations twice instead of keeping them')
    .option('--early-stopping <n>', 'end a stage after so many measurements without a new best', wholeNumber)
    .option('--checkpoint-every <n>', 'steps between checkpoints (default: ten a job)', wholeNumber)
    .option('--checkpoints-kept <n>', 'newest checkpoints that are kept (default: all)', wholeNumber)
    .option(
      '--max-bad-share <x>',
      'share of bad lines up to which the good ones are trained on (default: 0.1)',
      within(0, 1),
    )
    .option('--max-duration-s <n>', 'the job fails when it has run so long', wholeNumber);
}

/** @throws CliError for what contradicts itself or the contract */
export async function mantisOptions(flags: TrainingFlags): Promise<MantisOptions> {
  const stages = flags.stages === undefined ? undefined : await stagesOf(flags.stages);
  const schedule = scheduleOf(flags);
  const options = {
    ...said('preset', flags.preset),
    ...said('stage', flags.stage ?? (flags.preset === undefined && stages === undefined ? 'lora' : undefined)),
    ...said('stages', stages),
    ...adapters(flags, stages !== undefined),
    ...said('base_precision', flags.basePrecision),
    ...said('learning_rate', flags.learningRate),
    ...said('part_rates', partRates(flags.partRate)),
    ...said('schedule', schedule),
    ...said('weight_decay', flags.weightDecay),
    ...said('max_grad_norm', flags.maxGradNorm),
    ...said('packing', flags.packing),
    ...said('max_tokens', flags.maxTokens),
    ...said('micro_batch_tokens', flags.microBatchTokens),
    ...said('gradient_checkpointing', flags.gradientCheckpointing),
    ...said('early_stopping', flags.earlyStopping === undefined ? undefined : { patience: flags.earlyStopping }),
    ...said('checkpoint_every', flags.checkpointEvery),
    ...said('checkpoints_kept', flags.checkpointsKept),
    ...said('max_bad_share', flags.maxBadShare),
    ...said('max_duration_s', flags.maxDurationS),
  };
  const parsed = MantisOptions.safeParse(options);
  if (parsed.success) return parsed.data;
  throw new CliError(
    violationsOf(parsed.error.issues, options)
      .map(({ message }) => message)
      .join('\n'),
    2,
  );
}

const said = <K extends string, T>(key: K, value: T | undefined) =>
  (value === undefined ? {} : { [key]: value }) as { [name in K]?: T };

/** What the job is asked about its adapters; nothing where the defaults are meant. */
function adapters({ rank, dora, stage, preset }: TrainingFlags, hasStages: boolean): Pick<MantisOptions, 'lora'> {
  if (rank === undefined && dora !== true) return {};
  if ((stage !== undefined && stage !== 'lora') || (stage === undefined && preset !== undefined && !hasStages))
    throw new CliError(`--rank and --dora are for --stage lora, not ${stage ?? `--preset ${preset}`}`, 2);
  const r = rank ?? 16;
  return { lora: { r, alpha: 2 * r, ...(dora === true ? { dora } : {}) } };
}

function scheduleOf({ schedule, warmupRatio }: TrainingFlags): MantisOptions['schedule'] {
  if (schedule === undefined && warmupRatio === undefined) return undefined;
  return { kind: schedule ?? 'cosine', ...said('warmup_ratio', warmupRatio) };
}

function partRates(rates: readonly string[]): Record<string, number> | undefined {
  if (rates.length === 0) return undefined;
  return Object.fromEntries(
    rates.map((rate) => {
      const [part = '', factor = ''] = rate.split('=');
      if (
        !(ModelPart.options as readonly string[]).includes(part) ||
        factor.trim() === '' ||
        Number.isNaN(Number(factor))
      )
        throw new CliError(
          `--part-rate: expected PART=FACTOR with one of ${ModelPart.options.join(', ')}, received "${rate}"`,
          2,
        );
      return [part, Number(factor)];
    }),
  );
}

async function stagesOf(text: string): Promise<unknown> {
  if (!text.endsWith('.json')) return text.split(',').map((train) => ({ train: train.trim() }));
  try {
    return JSON.parse(await readFile(text, 'utf8')) as unknown;
  } catch (error) {
    throw new CliError(`--stages: cannot read ${text}: ${error instanceof Error ? error.message : String(error)}`, 2);
  }
}
