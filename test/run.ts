/**
 * `npm test`: runs the tiers in order and ends with the line `N passed, N failed`; exit code 1 when something failed.
 *
 *     npm test                     everything this machine can run
 *     npm test -- null cpu         two tiers
 *     npm test -- graph/passes     files whose path contains the word
 */
import { randomUUID } from 'node:crypto';
import { setMaxListeners } from 'node:events';
import { dirname, join, relative } from 'node:path';
import { run } from 'node:test';
import { fileURLToPath } from 'node:url';
import { stop as stopEsbuild } from 'esbuild';
import { builtBackend } from '../deploy/bundle-backend.ts';
import {
  describeError,
  dim,
  emptyTally,
  firstLines,
  green,
  indent,
  printClosing,
  red,
  seconds,
  type Tally,
} from './run/report.ts';
import { findStrays, killStrays, RUN_MARK } from './run/strays.ts';
import { groupsOf, type Selection, select } from './run/tiers.ts';

const testRoot = dirname(fileURLToPath(import.meta.url));
const root = dirname(testRoot);

/** A run that takes longer than this has hung somewhere that no file's own time limit sees. */
const RUN_TIMEOUT_MS = 25 * 60_000;

/** What one test file has shown so far. */
interface FileProgress {
  passed: number;
  failed: number;
  skipped: number;
  output: string;
  durationMs: number;
}

/** What the runner says of a test that has ended. */
type TestEvent = {
  name: string;
  file?: string;
  nesting: number;
  skip?: string | boolean;
  todo?: string | boolean;
  details: { duration_ms: number; type?: string };
};

async function runTier({ tier, files }: Selection, tally: Tally, signal: AbortSignal): Promise<void> {
  const reason = files.length === 0 ? 'it has no tests yet' : tier.cannotRun?.();
  console.log(`\n${tier.name} ${dim(`· ${tier.about} · ${files.length} files`)}`);
  if (reason !== undefined) {
    tally.skips.push({ name: `tier ${tier.name}`, reason });
    console.log(dim(`  skipped: ${reason}`));
    return;
  }

  const startedAt = performance.now();
  const progress = new Map<string, FileProgress>();
  const progressOf = (file: string): FileProgress => {
    const known = progress.get(file) ?? { passed: 0, failed: 0, skipped: 0, output: '', durationMs: 0 };
    progress.set(file, known);
    return known;
  };
  // The runner reports file by file, so the first word of the next file means that this one is done.
  let current: string | undefined;
  const turnTo = (file: string | undefined): void => {
    if (current !== undefined && current !== file) printFile(current, progressOf(current));
    current = file;
  };

  for (const { files: group, concurrency } of groupsOf(testRoot, tier, files)) {
    const stream = run({ files: [...group], concurrency, timeout: tier.fileTimeoutMs, signal });
    stream.on('test:stdout', ({ file, message }) => keepOutput(file, message));
    stream.on('test:stderr', ({ file, message }) => keepOutput(file, message));
    stream.on('test:pass', passed);
    stream.on('test:fail', failed);
    await new Promise<void>((resolve) => {
      stream.on('end', resolve);
      stream.on('error', (error) => {
        tally.failures.push({ file: testRoot, name: `tier ${tier.name}`, detail: describeError(error) });
        resolve();
      });
      stream.resume();
    });
  }
  turnTo(undefined);
  console.log(dim(`  ${seconds(performance.now() - startedAt)}`));
  refuseStrays(tier.name, tally);

  function passed(test: TestEvent): void {
    if (test.nesting === 0) progressOf(test.file ?? test.name).durationMs += test.details.duration_ms;
    if (test.details.type === 'suite') return;
    const file = test.file ?? test.name;
    turnTo(file);
    const seen = progressOf(file);
    const skip = test.skip ?? test.todo;
    if (skip !== undefined && skip !== false) {
      seen.skipped += 1;
      tally.skips.push({ name: test.name, reason: skip === true ? 'no reason given' : skip });
    } else if (!isFileItself(file, test.name)) {
      seen.passed += 1;
      tally.passed += 1;
    }
  }

  function failed(test: TestEvent & { details: { error: Error } }): void {
    if (test.nesting === 0) progressOf(test.file ?? test.name).durationMs += test.details.duration_ms;
    const error: unknown = test.details.error;
    if (!isOwnFailure(error)) return;
    const file = test.file ?? test.name;
    turnTo(file);
    const seen = progressOf(file);
    seen.failed += 1;
    const detail = describeError(error) + (isFileItself(file, test.name) ? `\n${seen.output.slice(-4000)}` : '');
    const name = isFileItself(file, test.name) ? 'the file as a whole' : test.name;
    // A broken set-up fails every test of its file with one and the same words: they are said once.
    const before = tally.failures.find((failure) => failure.file === file && failure.detail === detail);
    tally.failures.push({ file, name, detail });
    console.log(`  ${red('✗')} ${relative(testRoot, file)} › ${name}`);
    console.log(indent(before === undefined ? firstLines(detail, 60) : `the same as '${before.name}'`));
  }

  function keepOutput(file: string, message: string): void {
    const seen = progressOf(file);
    seen.output = (seen.output + message).slice(-100_000);
    // Lines that start with '#' are for the reader: measurements, the size card, seeds.
    for (const line of message.split('\n')) if (line.startsWith('# ')) console.log(dim(`    ${line.slice(2)}`));
  }
}

function printFile(file: string, seen: FileProgress): void {
  const counts = [`${seen.passed} passed`];
  if (seen.failed > 0) counts.push(`${seen.failed} failed`);
  if (seen.skipped > 0) counts.push(`${seen.skipped} skipped`);
  counts.push(seconds(seen.durationMs));
  const mark = seen.failed > 0 ? red('✗') : green('✓');
  console.log(`  ${mark} ${relative(testRoot, file)} ${dim(counts.join(', '))}`);
}

/** A tier that leaves a process behind has failed, whatever its tests say. */
function refuseStrays(tierName: string, tally: Tally): void {
  const strays = findStrays(mark, new Set([process.pid]));
  if (strays.length === 0) return;
  killStrays(strays);
  const detail = strays.map(({ pid, command }) => `${pid} ${command.slice(0, 200)}`).join('\n');
  tally.failures.push({ file: join(testRoot, tierName), name: 'leaves no process behind', detail });
  console.log(`  ${red('✗')} ${tierName} left ${strays.length} processes behind (now killed)\n${indent(detail)}`);
}

/** The runner reports a file that crashed, or that has no tests, as one test named after its path. */
function isFileItself(file: string, name: string): boolean {
  return file === name || file.endsWith(`/${name}`);
}

/** False for a parent that failed only because one of its children did: that child is counted. */
function isOwnFailure(error: unknown): boolean {
  const kind = error instanceof Error && 'failureType' in error ? error.failureType : undefined;
  return kind !== 'subtestsFailed';
}

const mark = randomUUID();
process.env[RUN_MARK] = mark;
// Two cores are the machine we promise to run on: one thread for each of the files that run side by side.
process.env.OMP_NUM_THREADS ??= '1';
process.env.NO_COLOR ??= '1';

const startedAt = performance.now();
const tally = emptyTally();
const signal = AbortSignal.timeout(RUN_TIMEOUT_MS);
// Each file of a tier listens for the abort.
setMaxListeners(0, signal);
const selections = select(testRoot, process.argv.slice(2));
// Once, before two files need it at the same time: backends and the command line start from it.
if (selections.some(({ tier }) => tier.name === 'cpu' || tier.name === 'wire')) {
  await builtBackend().catch(() => {});
  // Its service is a child of this process and would be taken for one that a test has left behind.
  await stopEsbuild();
}
for (const selection of selections) {
  if (signal.aborted) {
    tally.failures.push({
      file: testRoot,
      name: `tier ${selection.tier.name}`,
      detail: `not run: the whole run is over its limit of ${seconds(RUN_TIMEOUT_MS)}`,
    });
    continue;
  }
  await runTier(selection, tally, signal);
}
printClosing(tally, root, performance.now() - startedAt);
process.exit(tally.failures.length > 0 ? 1 : 0);
