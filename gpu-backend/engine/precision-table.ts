import { fork } from 'node:child_process';
import { createHash } from 'node:crypto';
import { mkdirSync, readFileSync, renameSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import type { VlmConfig } from '../models/config.ts';
import type { WeightFormat } from './precision.ts';
import type { ProbeAnswer, ProbeQuestion } from './precision-child.ts';
import { geometryOf, type Machine, thisMachine } from './precision-machine.ts';
import type { ProbeReport } from './precision-probe.ts';

/** Raised when times mean something else, or formats or kernels change. */
const TABLE_VERSION = 1;
/** A machine that takes this long is busy with something else, and what it would say of itself is worth little. */
const PROBE_TIMEOUT_MS = 60_000;

/** What formats take on this machine, for decoders of one geometry. */
export interface PrecisionTable extends ProbeReport {
  readonly version: number;
  readonly machine: Machine;
  readonly geometry: string;
}

/**
 * The times of this machine: from `folder` where they are known, else measured in a process of its own and kept there.
 * @param formats of weights; a table of more of them is as good
 * @param folder `null` = measure now and keep nothing
 * @throws Error saying why formats cannot be timed here
 */
export async function precisionTable(
  config: VlmConfig,
  threads: number,
  formats: readonly WeightFormat[],
  folder: string | null,
): Promise<PrecisionTable> {
  const machine = thisMachine(threads);
  const geometry = geometryOf(config);
  const key = JSON.stringify([TABLE_VERSION, machine, geometry]);
  const path = folder && join(folder, `${createHash('sha256').update(key).digest('hex').slice(0, 32)}.json`);
  const known = path === null ? null : readTable(path, key);
  if (known !== null && formats.every((format) => known.formats.includes(format))) return known;
  const table = { version: TABLE_VERSION, machine, geometry, ...(await measure({ config, threads, formats })) };
  if (path !== null) writeTable(path, table);
  return table;
}

/** A table that cannot be read is measured again. */
function readTable(path: string, key: string): PrecisionTable | null {
  try {
    const table = JSON.parse(readFileSync(path, 'utf8')) as PrecisionTable;
    return JSON.stringify([table.version, table.machine, table.geometry]) === key && table.timings.length > 0
      ? table
      : null;
  } catch {
    return null;
  }
}

/** A table that cannot be kept costs the next start its measurement, and nothing else. */
function writeTable(path: string, table: PrecisionTable): void {
  const draft = `${path}.${process.pid}`;
  try {
    mkdirSync(join(path, '..'), { recursive: true });
    writeFileSync(draft, `${JSON.stringify(table, null, 2)}\n`);
    renameSync(draft, path);
  } catch {
    // Read-only or full.
  }
}

function measure(question: ProbeQuestion): Promise<ProbeReport> {
  return new Promise((resolve, reject) => {
    const child = fork(new URL('./precision-child.ts', import.meta.url), [], {
      execArgv: ['--import', import.meta.resolve('tsx')],
      stdio: ['ignore', 'ignore', 'pipe', 'ipc'],
      serialization: 'advanced',
    });
    let lastWords = '';
    child.stderr?.on('data', (text: Buffer) => {
      lastWords = (lastWords + text.toString('utf8')).slice(-2000);
    });
    const fail = (why: string): void => {
      clearTimeout(timer);
      child.kill('SIGKILL');
      const last = lastWords.trim().split('\n').at(-1) ?? '';
      reject(new Error(last === '' ? why : `${why}: ${last.slice(0, 300)}`));
    };
    const timer = setTimeout(
      () => fail(`timing formats took longer than ${PROBE_TIMEOUT_MS / 1000} s`),
      PROBE_TIMEOUT_MS,
    );
    child.once('message', (answer: ProbeAnswer) => {
      clearTimeout(timer);
      if ('report' in answer) resolve(answer.report);
      else fail(`timing formats failed: ${answer.problem}`);
    });
    child.once('error', (error) => fail(error.message));
    child.once('exit', (code, signal) =>
      fail(`the process that times formats ended (${signal ?? `exit code ${code}`})`),
    );
    child.send(question);
  });
}
