import { Command } from 'commander';
import { aliasCommand } from './aliases.ts';
import { askCommand } from './ask.ts';
import { checkpointCommand } from './checkpoint.ts';
import { datasetCommand } from './dataset.ts';
import { datasetsCommand } from './datasets.ts';
import { devicesCommand } from './devices.ts';
import { doctorCommand } from './doctor.ts';
import { CliError } from './error.ts';
import { evalCommand } from './eval.ts';
import { evalsCommand } from './evals.ts';
import { exportCommand } from './export.ts';
import { finetuneCommand } from './finetune.ts';
import { importCommand } from './import.ts';
import { inspectCommand } from './inspect.ts';
import { inspectImageCommand } from './inspect-image.ts';
import { jobsCommand } from './jobs.ts';
import { keysCommand } from './keys.ts';
import { modelsCommand } from './models.ts';
import { precisionCommand } from './precision.ts';
import { schedulesCommand } from './schedules.ts';
import { serveCommand } from './serve.ts';
import { studyCommand } from './study.ts';
import { auditCommand, tenantsCommand } from './tenants.ts';
import { trainCommand } from './train.ts';
import { verifyCommand } from './verify.ts';
import { webhooksCommand } from './webhooks.ts';

/** Exit codes of all commands. */
const EXIT_CODES = `
Exit codes:
  0 done, 1 failed, 2 wrong use (an option, a name, a file), 130 stopped by Ctrl-C`;

/** Runs one command line. Mistakes of the user end with one sentence and exit code 2, failures with 1. */
export async function main(argv: readonly string[]): Promise<void> {
  // Whoever reads has read enough, as `| head` does.
  process.stdout.on('error', (error: NodeJS.ErrnoException) => {
    if (error.code !== 'EPIPE') throw error;
    process.exit();
  });
  const program = new Command('mantis')
    .description('Ask, tune, train, evaluate and serve multi-image vision-language models.')
    .showHelpAfterError('(run with --help for the options)')
    // What stands behind a command is that command's.
    .enablePositionalOptions()
    .addHelpText(
      'after',
      `
Environment:
  MANTIS_BASE_URL  where the API is (default http://127.0.0.1:8787)
  MANTIS_API_KEY   key for the API

Examples:
  mantis ask --image a.png --image b.png "What changed from image 1 to image 2?"
  mantis finetune data.jsonl --model mantis-nano --stage lora --epochs 3
${EXIT_CODES}`,
    );
  for (const command of [
    askCommand(),
    finetuneCommand(),
    jobsCommand(),
    datasetCommand(),
    datasetsCommand(),
    schedulesCommand(),
    modelsCommand(),
    aliasCommand(),
    checkpointCommand(),
    devicesCommand(),
    doctorCommand(),
    precisionCommand(),
    importCommand(),
    inspectCommand(),
    inspectImageCommand(),
    exportCommand(),
    trainCommand(),
    evalCommand(),
    evalsCommand(),
    studyCommand(),
    verifyCommand(),
    serveCommand(),
    webhooksCommand(),
    keysCommand(),
    tenantsCommand(),
    auditCommand(),
  ])
    program.addCommand(command.copyInheritedSettings(program));
  mistakesAreWrongUse(program);
  try {
    await program.parseAsync([...argv]);
  } catch (error) {
    const isExpected = error instanceof CliError;
    const message = error instanceof Error ? error.message : String(error);
    process.stderr.write(`mantis: ${message}\n`);
    if (!isExpected && error instanceof Error)
      process.stderr.write(`${error.stack?.split('\n').slice(1, 4).join('\n')}\n`);
    process.exitCode = isExpected ? error.exitCode : 1;
  }
}

/** What commander finds wrong with a command line is wrong use; its own code for that is 1. */
function mistakesAreWrongUse(command: Command): void {
  command.exitOverride(({ exitCode }) => process.exit(exitCode === 0 ? 0 : 2));
  for (const below of command.commands) mistakesAreWrongUse(below);
}
