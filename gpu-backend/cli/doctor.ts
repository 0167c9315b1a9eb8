import { Command } from 'commander';
import { type ApiOptions, apiOptions } from './api.ts';
import { installationChecks } from './doctor-installation.ts';
import { machineChecks } from './doctor-machine.ts';
import { wholeNumber } from './parse.ts';

/**
 * What a check found. `remedy` says what to do, and stands only where something is to be done: `fail` keeps requests from being answered, `warn` is worth
 * knowing, `skip` could not be checked because an earlier check failed.
 */
export interface Finding {
  readonly status: 'ok' | 'warn' | 'fail' | 'skip';
  readonly found: string;
  readonly remedy?: string;
}

export interface Check {
  readonly name: string;
  /** Names of checks without which this one cannot be made. */
  readonly needs?: readonly string[];
  readonly run: () => Promise<Finding> | Finding;
}

export type Result = Finding & { readonly name: string };

/** Longer than the slowest answer of a model that is being loaded; nothing else takes seconds. */
const CHECK_TIMEOUT_MS = 30_000;

interface DoctorOptions extends ApiOptions {
  readonly dataDir: string;
  readonly model?: string;
  readonly port?: number;
  readonly json?: boolean;
}

/** `mantis doctor`: what is wrong with this installation, and what to do about it. */
export function doctorCommand(): Command {
  const command = new Command('doctor')
    .description('check this machine and the installation on it, and say for each fault what to do')
    .option('--data-dir <folder>', 'folder of everything that is kept', process.env.MANTIS_DATA_DIR || '.mantis')
    .option('-m, --model <id>', 'model to ask the test question; default: the first that is served')
    .option('--port <n>', 'port that npm start will want; default: that of --url', wholeNumber)
    .option('--json', 'print one line of JSON');
  for (const option of apiOptions()) command.addOption(option);
  return command.action(async (options: DoctorOptions) => {
    const checks = [...machineChecks(options), ...installationChecks(options)];
    const results: Result[] = [];
    for (const check of checks) {
      const result = await runCheck(check, results);
      results.push(result);
      if (options.json !== true) process.stdout.write(`${lineOf(result)}\n`);
    }
    const failed = results.filter(({ status }) => status === 'fail').length;
    const warned = results.filter(({ status }) => status === 'warn').length;
    if (options.json === true)
      process.stdout.write(`${JSON.stringify({ ok: failed === 0, failed, warned, checks: results })}\n`);
    else process.stdout.write(`\n${verdict(failed, warned)}\n`);
    if (failed > 0) process.exitCode = 1;
    // A check that never came to an end must not keep us.
    setTimeout(() => process.exit(), 500).unref();
  });
}

/** One check after those it needs; whatever it throws is a finding too. */
export async function runCheck({ name, needs = [], run }: Check, before: readonly Result[]): Promise<Result> {
  const missing = needs.find(
    (need) => !before.some((result) => result.name === need && result.status !== 'fail' && result.status !== 'skip'),
  );
  if (missing !== undefined) return { name, status: 'skip', found: `not checked: needs "${missing}"` };
  let timer: NodeJS.Timeout | undefined;
  const late = new Promise<Finding>((resolve) => {
    timer = setTimeout(
      () =>
        resolve({
          status: 'fail',
          found: `no end after ${CHECK_TIMEOUT_MS / 1000} s`,
          remedy: 'Look for what holds it up in the logs (standard error of npm start).',
        }),
      CHECK_TIMEOUT_MS,
    );
  });
  try {
    return { name, ...(await Promise.race([Promise.resolve().then(run), late])) };
  } catch (error) {
    const found = error instanceof Error ? error.message : String(error);
    return { name, status: 'fail', found, remedy: 'This check itself failed; the message above is all that is known.' };
  } finally {
    clearTimeout(timer);
  }
}

const MARK = { ok: 'ok  ', warn: 'WARN', fail: 'FAIL', skip: '-   ' } as const;

function lineOf({ name, status, found, remedy }: Result): string {
  const head = `${MARK[status]} ${name.padEnd(16)} ${found}`;
  return remedy === undefined ? head : `${head}\n     → ${remedy}`;
}

function verdict(failed: number, warned: number): string {
  const warnings = warned === 0 ? '' : `, ${warned} ${warned === 1 ? 'thing' : 'things'} worth knowing`;
  return failed === 0
    ? `Nothing is wrong${warnings}.`
    : `${failed} ${failed === 1 ? 'check' : 'checks'} failed${warnings}.`;
}
