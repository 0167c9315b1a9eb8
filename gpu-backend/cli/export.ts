import { Command, Option } from 'commander';
import { type ExportDtype, exportCheckpoint } from '../models/export.ts';
import { CliError } from './error.ts';
import { ProgressBar } from './progress.ts';

interface ExportFlags {
  readonly out: string;
  readonly dtype: ExportDtype;
}

/** `mantis export`: a model folder becomes a Hugging Face checkpoint again. */
export function exportCommand(): Command {
  return new Command('export')
    .description('write a Hugging Face checkpoint folder from an imported model or another checkpoint')
    .argument('<folder>', 'imported model or checkpoint folder')
    .requiredOption('--out <folder>', 'the checkpoint folder to make')
    .addOption(new Option('--dtype <type>', 'of the weights').choices(['f32', 'f16', 'bf16']).default('bf16'))
    .action(async (from: string, { out, dtype }: ExportFlags) => {
      const bar = new ProgressBar('export MB');
      let shownMegabytes = -1;
      try {
        const { tensors, bytes, dequantized, leftOut } = await exportCheckpoint({
          from,
          out,
          dtype,
          onProgress: (done, total, tensor) => {
            const megabytes = Math.round(done / 1e6);
            if (megabytes !== shownMegabytes) bar.update(megabytes, Math.round(total / 1e6), tensor);
            shownMegabytes = megabytes;
          },
        });
        bar.end();
        process.stderr.write(`${out}: ${tensors} tensors in ${dtype}, ${(bytes / 1e6).toFixed(1)} MB\n`);
        if (dequantized > 0)
          process.stderr.write(
            `${dequantized} of them were quantised: they hold the values that the quantised weights stand for, not those of the original\n`,
          );
        if (leftOut > 0)
          process.stderr.write(
            `${leftOut} tensors that nothing reads were left out by the import; a loader may call them missing\n`,
          );
      } catch (error) {
        bar.end();
        throw new CliError(error instanceof Error ? error.message : String(error));
      }
    });
}
