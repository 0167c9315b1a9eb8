import { open } from 'node:fs/promises';
import { violationsOf } from '../../../shared/contract/errors.ts';
import { type NamedReference, Unseen } from '../../../shared/contract/evalReferences.ts';
import { EvalLine } from '../../../shared/contract/evals.ts';
import type { EvalLines } from '../../../shared/contract/evalTask.ts';
import { schemaMismatch } from '../../../shared/contract/jsonSchema.ts';
import { LIMITS } from '../../../shared/contract/limits.ts';
import { readRecords } from '../../io/rows/records.ts';
import { TaskFailure } from '../task-runner.ts';

const E = LIMITS.evals;
const CODE = 'invalid_eval_items';

/** One line of a run's data; `index` counts lines that hold something, from 0. */
export interface ReadLine {
  readonly index: number;
  /** In the file, as an editor shows it. */
  readonly line: number;
  readonly item: Readonly<Record<string, unknown>>;
  readonly sample: Readonly<Record<string, unknown>> | null;
}

export interface LineChecks {
  /** What the templates of the run look up: nothing of it may be missing in all lines. */
  readonly references: readonly NamedReference[];
  /** What else is wrong with a line that fits the schema; null where nothing is. */
  readonly problemOf: (line: ReadLine) => Promise<string | null>;
}

/**
 * Reads every line once before anything is asked: what begins has no malformed line.
 * @returns how many there are
 * @throws TaskFailure that names the first wrong lines, each with what is wrong in it, and counts the others
 */
export async function countLines(
  path: string,
  lines: EvalLines,
  { references, problemOf }: LineChecks,
  signal: AbortSignal,
): Promise<number> {
  await requireLines(path);
  const unseen = new Unseen(references, lines.hasSample ? ['item', 'sample'] : ['item']);
  const named: string[] = [];
  let wrong = 0;
  let count = 0;
  for await (const read of readAll(path, signal)) {
    const problem =
      read.fault ??
      mismatchOf(read.line, lines) ??
      (await problemOf(read.line).catch((error: unknown) => String(error)));
    if (problem !== null) {
      wrong++;
      if (named.length < E.maxNamedLines) named.push(`Line ${read.at}: ${problem}.`);
    }
    if (read.fault === undefined) {
      const { item, sample } = read.line;
      unseen.see({ item, sample: sample ?? {} });
      count++;
    }
    if (count + wrong > E.maxItems)
      throw new TaskFailure(CODE, `The data: expected at most ${E.maxItems} items, received more.`, 'data_source');
  }
  if (wrong > named.length) named.push(`${wrong - named.length} more lines are wrong.`);
  if (wrong > 0) throw new TaskFailure(CODE, named.join(' '), 'data_source');
  if (count === 0) throw new TaskFailure('empty_file', 'The data have no items.', 'data_source');
  const [missing] = unseen.problems();
  if (missing !== undefined) throw new TaskFailure(CODE, `${missing.param}: ${missing.message}.`, missing.param);
  return count;
}

/** @throws TaskFailure at the first line that is none */
export async function* readLines(path: string, signal: AbortSignal): AsyncGenerator<ReadLine, void, undefined> {
  for await (const read of readAll(path, signal)) {
    if (read.fault !== undefined) throw new TaskFailure(CODE, `Line ${read.at}: ${read.fault}.`, 'data_source');
    yield read.line;
  }
}

type Read = { readonly at: number } & (
  | { readonly line: ReadLine; readonly fault?: undefined }
  | { readonly fault: string }
);

async function* readAll(path: string, signal: AbortSignal): AsyncGenerator<Read, void, undefined> {
  let index = 0;
  for await (const record of readRecords(path, { filename: 'lines.jsonl', signal })) {
    const at = record.line ?? index + 1;
    if (record.fault !== undefined) {
      yield { at, fault: record.fault.message.replace('JSON Lines, a JSON array or Parquet', 'JSON Lines') };
      continue;
    }
    const line = EvalLine.safeParse(record.value);
    if (!line.success) {
      const [first] = violationsOf(line.error.issues, record.value);
      yield { at, fault: (first?.message ?? 'expected {"item": {…}}').replace(/\.$/, '') };
      continue;
    }
    yield { at, line: { index, line: at, item: line.data.item, sample: line.data.sample ?? null } };
    index++;
  }
}

/** Files of other forms are named as what they are, not by their first line. */
async function requireLines(path: string): Promise<void> {
  const file = await open(path, 'r');
  try {
    const head = Buffer.alloc(64);
    const { bytesRead } = await file.read(head, 0, head.length, 0);
    const text = head.toString('latin1', 0, bytesRead).replace(/^\u00ef\u00bb\u00bf/, '');
    const form = text.startsWith('PAR1') ? 'Parquet' : /^\s*\[/.test(text) ? 'a JSON array' : null;
    if (form !== null)
      throw new TaskFailure(
        CODE,
        `The data: expected JSON Lines, one {"item": {…}} a line, received ${form}.`,
        'data_source',
      );
  } finally {
    await file.close();
  }
}

function mismatchOf({ item, sample }: ReadLine, lines: EvalLines): string | null {
  const bytes = lineBytes({ item, sample });
  if (bytes > E.maxItemBytes)
    return `expected at most ${E.maxItemBytes} bytes as JSON, pictures in data URLs not counted, received ${bytes}`;
  const mismatch = schemaMismatch(lines.schema, item, 'item');
  if (mismatch !== null) return `${mismatch.path}: ${mismatch.message}`;
  if (lines.needsSample === true && typeof sample?.output_text !== 'string')
    return 'sample.output_text: expected the answer that is judged, received nothing';
  return null;
}

function lineBytes(whole: unknown): number {
  const text = JSON.stringify(whole, (_, value: unknown) =>
    typeof value === 'string' && value.startsWith('data:image/') ? '' : value,
  );
  return Buffer.byteLength(text);
}
