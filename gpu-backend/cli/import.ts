import { existsSync, rmSync, statSync } from 'node:fs';
import { Command, InvalidArgumentError, Option } from 'commander';
import { downloadFromHub, type HubDownload } from '../io/hub.ts';
import { HubError } from '../io/hub-error.ts';
import { importCheckpoint } from '../models/import.ts';
import { BLOCK_SIZES, chooseStorage, PARTS, PRECISIONS, type Precision } from '../models/storage.ts';
import { CliError } from './error.ts';
import { ProgressBar } from './progress.ts';

interface ImportFlags extends Partial<Record<(typeof PARTS)[number] | 'precision', Precision>> {
  readonly out: string;
  readonly block: number;
  readonly revision?: string;
  readonly keepDownload?: boolean;
  readonly json?: boolean;
}

const PART_HELP = {
  vision: 'vision encoder (default: --precision, int8 for int4)',
  projector: 'projector between encoder and decoder (default: --precision, int8 for int4)',
  decoder: 'language model and token embeddings (default: --precision)',
  head: 'output head (default: as the decoder, int8 for int4)',
} as const;

/** `mantis import`: a checkpoint becomes a local model folder, quantised if asked. */
export function importCommand(): Command {
  const command = new Command('import')
    .description('make a local model folder from a checkpoint folder or a Hugging Face hub id')
    .argument('<source>', 'checkpoint folder, or hub id such as TIGER-Lab/Mantis-8B-siglip-llama3')
    .requiredOption('--out <folder>', 'the model folder to make')
    .addOption(new Option('--precision <kind>', 'of all parts').choices([...PRECISIONS]).default('f16'));
  for (const part of PARTS) command.addOption(new Option(`--${part} <kind>`, PART_HELP[part]).choices([...PRECISIONS]));
  return command
    .option('--block <n>', `values that share a scale in int8 and int4: ${BLOCK_SIZES.join(', ')}`, blockSize, 32)
    .option('--revision <name>', 'branch, tag or commit on the hub', 'main')
    .option('--keep-download', 'keep what was downloaded, in OUT.download')
    .option('--json', 'end with one line of JSON')
    .addHelpText(
      'after',
      `
A hub is asked at HF_ENDPOINT (default https://huggingface.co) with the token HF_TOKEN.
An interrupted import goes on where it stopped when the same command runs again.`,
    )
    .action(runImport);
}

function blockSize(value: string): number {
  const size = Number(value);
  if (!BLOCK_SIZES.some((known) => known === size))
    throw new InvalidArgumentError(`Expected one of ${BLOCK_SIZES.join(', ')}.`);
  return size;
}

async function runImport(source: string, flags: ImportFlags): Promise<void> {
  const stop = new AbortController();
  // The first signal stops between two pieces; a second one ends the process at once.
  const onSignal = (): void => stop.abort(new CliError('stopped; the same command goes on from here'));
  process.once('SIGINT', onSignal).once('SIGTERM', onSignal);
  const isFolder = statSync(source, { throwIfNoEntry: false })?.isDirectory() === true;
  const downloaded = isFolder ? null : await download(source, flags, stop.signal);
  const from = downloaded?.dir ?? source;
  const bar = new ProgressBar('import MB');
  const startedAt = performance.now();
  let shownMegabytes = -1;
  try {
    const { manifest, outcome, readBytes, unused } = await importCheckpoint({
      from,
      out: flags.out,
      storage: chooseStorage({ ...flags, blockSize: flags.block }),
      ...(downloaded === null
        ? {}
        : {
            origin: {
              from: `${source}@${downloaded.commit ?? flags.revision ?? 'main'}`,
              digests: new Map(downloaded.files.map(({ name, sha256 }) => [name, sha256])),
            },
          }),
      signal: stop.signal,
      onProgress: (done, total, tensor) => {
        const megabytes = Math.round(done / 1e6);
        if (megabytes !== shownMegabytes) bar.update(megabytes, Math.round(total / 1e6), tensor);
        shownMegabytes = megabytes;
      },
    });
    bar.end();
    const seconds = (performance.now() - startedAt) / 1000;
    const bytes = manifest.files.reduce((sum, file) => sum + file.bytes, 0);
    const { precision, blockSize: block } = manifest.storage;
    const lines = [
      `${outcome}: ${flags.out}, ${gigabytes(bytes)} from ${gigabytes(manifest.source.weights.reduce((sum, file) => sum + file.bytes, 0))}`,
      `${PARTS.map((part) => `${part} ${precision[part]}`).join(', ')}; blocks of ${block}`,
      ...(unused.length === 0 ? [] : [`${unused.length} tensors that no result depends on were left out`]),
      ...(outcome === 'kept' ? [] : [`${seconds.toFixed(1)} s, ${(readBytes / 1e6 / seconds).toFixed(0)} MB/s`]),
    ];
    for (const line of lines) process.stderr.write(`${line}\n`);
    if (downloaded !== null && flags.keepDownload !== true) rmSync(from, { recursive: true, force: true });
    if (flags.json === true)
      process.stdout.write(
        `${JSON.stringify({ outcome, out: flags.out, bytes, readBytes, seconds, storage: manifest.storage, peakRssBytes: process.resourceUsage().maxRSS * 1024 })}\n`,
      );
  } catch (error) {
    bar.end();
    if (error instanceof CliError) throw error;
    throw new CliError(error instanceof Error ? error.message : String(error));
  }
}

/** Brings a hub's files here, beside the folder to be made. */
async function download(id: string, flags: ImportFlags, signal: AbortSignal): Promise<HubDownload> {
  if (!/^[\w.-]+\/[\w.-]+$/.test(id) || existsSync(id))
    throw new CliError(`${id}: expected a checkpoint folder or a hub id such as owner/name`, 2);
  const dir = `${flags.out}.download`;
  const bar = new ProgressBar('download MB');
  try {
    return await downloadFromHub(id, {
      dir,
      revision: flags.revision,
      signal,
      onProgress: ({ allDoneBytes, allTotalBytes, file }) =>
        bar.update(Math.round(allDoneBytes / 1e6), Math.round(allTotalBytes / 1e6), file),
    });
  } catch (error) {
    throw error instanceof HubError ? new CliError(error.message) : error;
  } finally {
    bar.end();
  }
}

function gigabytes(bytes: number): string {
  return bytes < 1e9 ? `${(bytes / 1e6).toFixed(1)} MB` : `${(bytes / 1e9).toFixed(2)} GB`;
}
