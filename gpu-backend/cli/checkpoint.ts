import { Command } from 'commander';
import { type CheckpointDigest, digestCheckpoint } from '../train/checkpoint-digest.ts';
import { CliError } from './error.ts';

/** `mantis checkpoint digest`: what tells two checkpoints of a run apart, or that they are the same to the last bit. */
export function checkpointCommand(): Command {
  const command = new Command('checkpoint').description('checkpoints of training runs on disk');
  command
    .command('digest')
    .description('SHA-256 of the weights and of the optimizer state, after every file was compared with the manifest')
    .argument('<folder>', 'folder of one checkpoint, step-XXXXXXXX')
    .option('--json', 'print one line of JSON')
    .action(async (folder: string, { json }: { readonly json?: boolean }) => {
      let digest: CheckpointDigest;
      try {
        digest = await digestCheckpoint(folder);
      } catch (error) {
        throw new CliError(error instanceof Error ? error.message : String(error), 1);
      }
      const { progress, weights, optimizer, parameters } = digest;
      const lines = [
        `step        ${progress.step + progress.skipped}${progress.skipped > 0 ? ` (${progress.skipped} left out)` : ''}`,
        `parameters  ${parameters.toLocaleString('en-US')}`,
        `weights     ${weights}`,
        `optimizer   ${optimizer}`,
      ];
      process.stdout.write(json === true ? `${JSON.stringify(digest)}\n` : `${lines.join('\n')}\n`);
    });
  return command;
}
