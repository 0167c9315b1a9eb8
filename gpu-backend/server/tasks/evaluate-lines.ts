import { violationsOf } from '../../../shared/contract/errors.ts';
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

/**
 * Reads every line once before anything is asked: what begins has no malformed line.
 * @returns how many there are
 * @throws TaskFailure that names the first line which is wrong, and in what
 */
export async function countLines(path: string, lines: EvalLines, signal: AbortSignal): Promise<number> {
  let count = 0;
  for await (const { item, sample, line } of readLines(path, signal)) {
    const bytes = lineBytes({ item, sample });
    if (bytes > E.maxItemBytes)
      throw wrong(
        line,
        `expected at most ${E.maxItemBytes} bytes as JSON, pictures in data URLs not counted, received ${bytes}`,
      );
    const mismatch = schemaMismatch(lines.schema, item, 'item');
    if (mismatch !== null) throw wrong(line, `${mismatch.path}: ${mismatch.message}`);
    count++;
    if (count > E.maxItems)
      throw new TaskFailure(CODE, `The data: expected at most ${E.maxItems} items, received more.`, 'data_source');
  }
  if (count === 0) throw new TaskFailure('empty_file', 'The data have no items.', 'data_source');
  return count;
}

/** @throws TaskFailure */
export async function* readLines(path: string, signal: AbortSignal): AsyncGenerator<ReadLine, void, undefined> {
  let index = 0;
  for await (const record of readRecords(path, { filename: 'lines.jsonl', signal })) {
    const at = record.line ?? index + 1;
    if (record.fault !== undefined) throw wrong(at, record.fault.message);
    const line = EvalLine.safeParse(record.value);
    if (!line.success) {
      const [first] = violationsOf(line.error.issues, record.value);
      throw wrong(at, (first?.message ?? 'expected {"item": {…}}').replace(/\.$/, ''));
    }
    yield { index, line: at, item: line.data.item, sample: line.data.sample ?? null };
    index++;
  }
}

function wrong(line: number, message: string): TaskFailure {
  return new TaskFailure(CODE, `Line ${line}: ${message}.`, 'data_source');
}

function lineBytes(whole: unknown): number {
  const text = JSON.stringify(whole, (_, value: unknown) =>
    typeof value === 'string' && value.startsWith('data:image/') ? '' : value,
  );
  return Buffer.byteLength(text);
}
