import { existsSync } from 'node:fs';
import { mkdtemp, rm } from 'node:fs/promises';
import { hostname, tmpdir } from 'node:os';
import { basename, join } from 'node:path';
import { Command, Option } from 'commander';
import type { MantisClient } from '../../shared/client/client.ts';
import type {
  DatasetProblem,
  DatasetReport,
  DatasetValidation,
  ValidationProgress,
} from '../../shared/contract/datasets.ts';
import { LIMITS } from '../../shared/contract/limits.ts';
import type { StageDraft } from '../../shared/contract/training.ts';
import { estimateTraining } from '../train/validate/estimate.ts';
import { validateData } from '../train/validate/validate.ts';
import { type ApiOptions, apiOptions, uploadTrainingFile, withApi } from './api.ts';
import { reportText } from './dataset-report.ts';
import { addSourceOptions, planOf, type SourceOptions } from './dataset-source.ts';
import { CliError } from './error.ts';
import { wholeNumber, within } from './parse.ts';
import { ProgressBar } from './progress.ts';
import { size } from './table.ts';

interface ValidateOptions extends ApiOptions, SourceOptions {
  readonly model: string;
  readonly validation?: string;
  readonly heldOut?: string;
  readonly stage: 'projector' | 'lora' | 'full';
  readonly epochs?: number;
  readonly batchSize?: number;
  readonly maxTokens?: number;
  readonly maxBadShare?: number;
  readonly local?: boolean;
  readonly estimate: boolean;
  readonly json?: boolean;
}

/** `mantis dataset validate`: everything that is wrong with training data, and what training on it would take. Exit code 1 where it is refused. */
export function validateCommand(): Command {
  const command = new Command('validate')
    .description('look at every line and picture of training data, and measure what training on it would take')
    .argument(
      '<in...>',
      'files (JSON Lines, JSON, Parquet), ids of files or datasets; with --local also a mixture (.yaml)',
    )
    .option('-m, --model <id>', 'base model; with --local the folder of a checkpoint', 'mantis-nano')
    .option('--validation <file>', 'file to measure on: looked at too, and for what is in both')
    .option('--held-out <file>', 'file that checkpoints or a gate will be asked: no line of it may be wrong')
    .addOption(
      new Option('--stage <stage>', 'which weights would move').choices(['projector', 'lora', 'full']).default('lora'),
    )
    .option('--epochs <n>', 'passes over the data, for the estimate (default: 3)', wholeNumber)
    .option('--batch-size <n>', 'examples a step, for the estimate', wholeNumber)
    .option('--max-tokens <n>', 'examples with more tokens would be left out', wholeNumber)
    .option(
      '--max-bad-share <x>',
      `largest share of bad lines, 0 to 1 (default: ${LIMITS.jobs.defaultMaxBadShare})`,
      within(0, 1),
    )
    .option('--local', 'in this process, without a server; pictures by path are read from their folder')
    .option('--no-estimate', 'with --local: do not measure what training would take')
    .option('--json', 'print the report as JSON');
  for (const option of apiOptions()) command.addOption(option);
  return addSourceOptions(command).action(runValidate);
}

async function runValidate(inputs: string[], options: ValidateOptions): Promise<void> {
  const { report, problems } =
    options.local === true ? await locally(inputs, options) : await remotely(inputs, options);
  process.stdout.write(
    options.json === true ? `${JSON.stringify({ ...report, problems }, null, 2)}\n` : `${reportText(report)}\n`,
  );
  if (report.verdict === 'refused') process.exitCode = 1;
}

type Found = { readonly report: DatasetReport; readonly problems: readonly DatasetProblem[] };

/** Uploads what are files here, and asks. */
async function remotely(inputs: readonly string[], options: ValidateOptions): Promise<Found> {
  return await withApi(options, async (api) => {
    const training_file = await idOf(api, inputs);
    const validation_file = options.validation === undefined ? null : await idOf(api, [options.validation]);
    const held_out_file = options.heldOut === undefined ? null : await idOf(api, [options.heldOut]);
    const { stage, epochs, batchSize, maxTokens, maxBadShare } = options;
    const asked = await api.datasetValidations.create({
      model: options.model,
      training_file,
      validation_file,
      mantis: {
        stage,
        ...(maxTokens === undefined ? {} : { max_tokens: maxTokens }),
        ...(maxBadShare === undefined ? {} : { max_bad_share: maxBadShare }),
        ...(held_out_file === null ? {} : { evaluation: { held_out_file } }),
      },
      hyperparameters: {
        ...(epochs === undefined ? {} : { n_epochs: epochs }),
        ...(batchSize === undefined ? {} : { batch_size: batchSize }),
      },
    });
    const isOld = asked.finished_at !== null;
    process.stderr.write(
      isOld
        ? `${asked.id} found this out before, at ${new Date(1000 * (asked.finished_at ?? 0)).toISOString()}\n`
        : `validating as ${asked.id}\n`,
    );
    const ended = isOld ? asked : await follow(api, asked.id);
    const { report } = ended;
    if (report === null)
      throw new CliError(`${ended.id} ${ended.status}${ended.error === null ? '' : `: ${ended.error.message}`}`);
    return { report, problems: options.json === true ? await api.datasetValidations.problems(ended) : report.problems };
  });
}

/** Shows how far it is until it has ended. */
async function follow(api: MantisClient, id: string): Promise<DatasetValidation> {
  const bar = new ProgressBar('validated');
  try {
    return await api.datasetValidations.wait(id, { onProgress: (progress) => showProgress(bar, progress) });
  } finally {
    bar.end();
  }
}

/** What a bar counts. */
const SAID = { reading: 'kB read', comparing: 'examples compared', estimating: 'stages measured' } as const;

function showProgress(bar: ProgressBar, { phase, done, total, problems }: ValidationProgress): void {
  const said = problems > 0 ? `, ${problems} problems` : '';
  const unit = phase === 'reading' ? 1e-3 : 1;
  bar.update(Math.ceil(done * unit), Math.max(1, Math.ceil(total * unit)), `${SAID[phase]}${said}`);
}

/** An id as it is; a file is uploaded; several become a dataset. */
async function idOf(api: MantisClient, inputs: readonly string[]): Promise<string> {
  const ids: string[] = [];
  for (const input of inputs) {
    if (/^(file-|dataset_)/.test(input) && !existsSync(input)) ids.push(input);
    else {
      const { id, bytes } = await uploadTrainingFile(api, input);
      process.stderr.write(`uploaded ${input} as ${id} (${size(bytes)})\n`);
      ids.push(id);
    }
  }
  const [only] = ids;
  if (only !== undefined && ids.length === 1) return only;
  if (ids.some((id) => id.startsWith('dataset_')))
    throw new CliError('expected one dataset, or files; received a dataset among others', 2);
  const subsets = ids.map((file_id, i) => ({
    file_id,
    name: basename(inputs[i] ?? '').slice(0, 64) || `file ${i + 1}`,
  }));
  const dataset = await api.datasets.create({ name: basename(inputs[0] ?? 'data').slice(0, 128), subsets });
  process.stderr.write(`made the dataset ${dataset.id} of ${ids.length} files\n`);
  return dataset.id;
}

async function locally(inputs: readonly string[], options: ValidateOptions): Promise<Found> {
  const bundled = new URL('../models/nano', import.meta.url).pathname;
  const baseDir = options.model === 'mantis-nano' ? bundled : options.model;
  if (!existsSync(join(baseDir, 'config.json')))
    throw new CliError(`--model: expected the folder of a checkpoint with --local, received ${options.model}`, 2);
  const plan = await planOf(inputs, options);
  for (const note of plan.notes) process.stderr.write(`note: ${note}\n`);
  const held = options.validation === undefined ? null : await planOf([options.validation], options);
  const heldOut = options.heldOut === undefined ? null : await planOf([options.heldOut], options);
  const plans = { validation: held, held_out: heldOut };
  const stage: StageDraft = {
    train: options.stage,
    n_epochs: options.epochs ?? 3,
    batch_size: options.batchSize ?? null,
    learning_rate_multiplier: 1,
    data: 0,
    ...(options.maxTokens === undefined ? {} : { max_tokens: options.maxTokens }),
  };
  const workDir = await mkdtemp(join(tmpdir(), 'mantis-validate-'));
  const bar = new ProgressBar('validated');
  try {
    const { report } = await validateData(
      {
        baseDir,
        training: [{ spec: plan.spec, paths: plan.paths }],
        groups: plan.groups,
        ...(held === null ? {} : { validation: { spec: held.spec, paths: held.paths } }),
        ...(heldOut === null
          ? {}
          : { heldOut: [{ data: { spec: heldOut.spec, paths: heldOut.paths }, param: '--held-out' }] }),
        stages: [stage],
        maxBadShare: options.maxBadShare ?? LIMITS.jobs.defaultMaxBadShare,
        workDir,
      },
      {
        imageRoot: (data, file) => (typeof data === 'number' ? plan : plans[data])?.imageRoots[file],
        fetchImage: (reference) =>
          Promise.reject(
            new CliError(`${reference.slice(0, 80)} is not in the files: without a server nothing is fetched`),
          ),
        ...(options.estimate
          ? {
              estimate: (lists, stages, table) =>
                estimateTraining(lists, stages, table, { baseDir, workDir, threads: 1, backend: hostname() }),
            }
          : {}),
        onProgress: (progress) => showProgress(bar, progress),
      },
    );
    return { report, problems: report.problems };
  } finally {
    bar.end();
    await rm(workDir, { recursive: true, force: true });
  }
}
