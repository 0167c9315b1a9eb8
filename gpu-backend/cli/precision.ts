import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { Command, Option } from 'commander';
import { KV_CHOICES, PRECISION_SYNTAX, type PrecisionRequest, parsePrecision } from '../engine/precision.ts';
import { type ChosenPrecision, choosePrecision } from '../engine/precision-choice.ts';
import { CliError } from './error.ts';
import { within } from './parse.ts';

interface PrecisionOptions {
  readonly precision: string;
  readonly kv: PrecisionRequest['kv'];
  readonly rows: number;
  readonly threads: number;
  readonly fresh?: boolean;
  readonly json?: boolean;
}

const BUNDLED_MODEL = fileURLToPath(new URL('../models/nano', import.meta.url));

/** Where a backend keeps what it measured. */
export const tablesFolder = (): string =>
  join(process.env.MANTIS_DATA_DIR ?? join(tmpdir(), 'mantis'), 'backend', 'precision');

/** `--precision` and `--kv`, as MANTIS_PRECISION and MANTIS_KV say it to a backend. */
export const precisionOptions = (): readonly Option[] => [
  new Option('--precision <format>', `weights: ${PRECISION_SYNTAX}`).env('MANTIS_PRECISION').default('auto'),
  new Option('--kv <format>', 'keys and values').choices(KV_CHOICES).env('MANTIS_KV').default('auto'),
];

/** @throws CliError saying what of the options is not understood */
export function readPrecision({ precision, kv }: Pick<PrecisionOptions, 'precision' | 'kv'>): PrecisionRequest {
  try {
    return { weights: parsePrecision(precision), kv };
  } catch (error) {
    throw new CliError(`--precision: ${error instanceof Error ? error.message : String(error)}`, 2);
  }
}

/** `mantis precision`: what each format takes on this machine, what it costs in accuracy, and which one a backend takes. */
export function precisionCommand(): Command {
  const command = new Command('precision')
    .description(
      'what each format of weights, keys and values takes here and costs in accuracy, and which a backend takes',
    )
    .argument('[folder]', 'checkpoint folder', BUNDLED_MODEL)
    .option('--rows <n>', 'rows that the backend decodes at the same time (MANTIS_MAX_ROWS)', within(1, 1024), 16)
    .option('--threads <n>', 'kernel threads (MANTIS_THREADS)', within(1, 256), 1)
    .option('--fresh', 'measure again, whatever is stored')
    .option('--json', 'print one line of JSON');
  for (const option of precisionOptions()) command.addOption(option);
  return command.action(async (dir: string, options: PrecisionOptions) => {
    const request = readPrecision(options);
    let chosen: ChosenPrecision;
    try {
      chosen = await choosePrecision(request, {
        dirs: [dir],
        device: 'cpu',
        threads: options.threads,
        maxRows: options.rows,
        timesAll: true,
        tables: options.fresh === true ? null : tablesFolder(),
      });
    } catch (error) {
      throw new CliError(error instanceof Error ? error.message : String(error), 2);
    }
    process.stdout.write(options.json === true ? `${JSON.stringify(chosen)}\n` : `${chosen.lines.join('\n')}\n`);
  });
}
