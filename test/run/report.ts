import { relative } from 'node:path';
import { inspect } from 'node:util';

export interface Failure {
  readonly file: string;
  readonly name: string;
  readonly detail: string;
}

export interface Skip {
  readonly name: string;
  readonly reason: string;
}

/** What one run has seen so far. Every test counts once: suites and parents that only repeat a child's failure do not. */
export interface Tally {
  passed: number;
  readonly failures: Failure[];
  readonly skips: Skip[];
}

export function emptyTally(): Tally {
  return { passed: 0, failures: [], skips: [] };
}

const color = process.stdout.isTTY === true && process.env.NO_COLOR === undefined;
const paint = (code: number, text: string): string => (color ? `\u001b[${code}m${text}\u001b[0m` : text);
export const green = (text: string): string => paint(32, text);
export const red = (text: string): string => paint(31, text);
export const dim = (text: string): string => paint(2, text);

export function seconds(durationMs: number): string {
  return `${(durationMs / 1000).toFixed(1)} s`;
}

/** Message, stack and cause chain of a thrown value, without the frames of the test runner itself. */
export function describeError(error: unknown): string {
  if (!(error instanceof Error)) return typeof error === 'string' ? error : inspect(error, { depth: 6, colors: color });
  // The runner wraps what a test threw; for a crashed file it has nothing to say beyond 'test failed'.
  const wrapped = 'failureType' in error && error.cause !== undefined;
  if (wrapped) return describeError(error.cause) + describeExit(error);
  const text = (error.stack ?? error.message)
    .split('\n')
    .filter((line) => !/^\s+at .*(node:internal\/|node:async_hooks)/.test(line))
    .join('\n');
  return error.cause === undefined ? text : `${text}\n[cause] ${describeError(error.cause)}`;
}

export function indent(text: string, by = '      '): string {
  return text
    .trimEnd()
    .split('\n')
    .map((line) => by + line)
    .join('\n');
}

/** How the process of a crashed file ended: a signal means that somebody, or the system, killed it. */
function describeExit(error: Error): string {
  const { exitCode, signal } = error as { exitCode?: unknown; signal?: unknown };
  if (typeof signal === 'string') return `: its process was ended by ${signal}`;
  return typeof exitCode === 'number' ? `: its process ended with exit code ${exitCode}` : '';
}

/** The beginning of a long text, and how much was left out. */
export function firstLines(text: string, count: number): string {
  const lines = text.split('\n');
  if (lines.length <= count) return text;
  return [...lines.slice(0, count), `… and ${lines.length - count} more lines`].join('\n');
}

/**
 * The end of a run: skips with their reasons, failures once more (they may have scrolled away), and the closing line
 * `N passed, N failed`, which scripts may read.
 */
export function printClosing(tally: Tally, root: string, wallMs: number): void {
  if (tally.skips.length > 0) {
    console.log(`\n${tally.skips.length} skipped`);
    const byReason = new Map<string, string[]>();
    for (const { name, reason } of tally.skips) {
      byReason.set(reason, [...(byReason.get(reason) ?? []), name]);
    }
    for (const [reason, names] of byReason) {
      const shown = names.slice(0, 3).join('; ');
      console.log(dim(`  ${reason}: ${shown}${names.length > 3 ? ` and ${names.length - 3} more` : ''}`));
    }
  }
  if (tally.failures.length > 0) {
    console.log(red('\nfailures'));
    for (const [i, failure] of tally.failures.entries()) {
      console.log(`  ${red('✗')} ${relative(root, failure.file)} › ${failure.name}`);
      if (tally.failures[i - 1]?.detail !== failure.detail) console.log(indent(firstLines(failure.detail, 12)));
    }
  }
  console.log(dim(`\n${seconds(wallMs)} in all`));
  console.log(`${tally.passed} passed, ${tally.failures.length} failed`);
}
