import { open } from 'node:fs/promises';
import { readRecords } from '../../io/rows/records.ts';
import type { Json } from '../task.ts';

/** A row of a file of records; every complaint names file, row and column. */
export class Row {
  /** @param file for messages @param line of the file, from 1: a line, an element of the array or a row */
  constructor(
    readonly file: string,
    readonly line: number,
    readonly values: Readonly<Record<string, unknown>>,
  ) {}

  where(column: string): string {
    return `${this.file}, row ${this.line}, column \`${column}\``;
  }

  fail(column: string, expected: string): never {
    throw new Error(`${this.where(column)}: expected ${expected}, received ${shown(this.values[column])}`);
  }

  /** Whether the column holds something; null counts as nothing. */
  has(column: string): boolean {
    const value = this.values[column];
    return value !== undefined && value !== null;
  }

  text(column: string): string {
    const value = this.values[column];
    return typeof value === 'string' ? value : this.fail(column, 'text');
  }

  optionalText(column: string): string | null {
    return this.has(column) ? this.text(column) : null;
  }

  /** An answer that may be kept back, as null; a column that is not there is a mistake in its name. */
  reference(column: string): string | null {
    if (!Object.hasOwn(this.values, column)) this.fail(column, 'a column of answers (null where they are kept back)');
    return this.optionalText(column);
  }

  /** Text, or a number or boolean as text: ids are either. */
  label(column: string): string {
    const value = this.values[column];
    if (typeof value === 'number' || typeof value === 'boolean') return String(value);
    return typeof value === 'string' ? value : this.fail(column, 'text or a number');
  }

  number(column: string): number {
    const value = this.values[column];
    return typeof value === 'number' && Number.isFinite(value) ? value : this.fail(column, 'a number');
  }

  list(column: string): readonly unknown[] {
    const value = this.values[column];
    return Array.isArray(value) ? (value as readonly unknown[]) : this.fail(column, 'a list');
  }

  texts(column: string): readonly string[] {
    const list = this.list(column);
    return list.every((one): one is string => typeof one === 'string') ? list : this.fail(column, 'a list of texts');
  }

  /** As JSON; what a Parquet column holds as bytes or dates is none. */
  json(column: string): Json {
    const value = this.values[column] ?? null;
    return isJson(value) ? value : this.fail(column, 'values that JSON can hold');
  }
}

/**
 * The rows of a file: JSON Lines, a JSON array or Parquet, told apart by their bytes.
 * @param label name of the file in messages
 * @throws Error naming file and row where one cannot be read
 */
export async function* readRows(path: string, label: string): AsyncGenerator<Row, void, undefined> {
  await requireRows(path, label);
  for await (const { line, value, fault } of readRecords(path)) {
    if (fault !== undefined) throw new Error(`${label}${line === null ? '' : `, row ${line}`}: ${fault.message}`);
    if (typeof value !== 'object' || value === null || Array.isArray(value))
      throw new Error(`${label}, row ${line}: expected an object, received ${shown(value)}`);
    yield new Row(label, line ?? 0, value as Readonly<Record<string, unknown>>);
  }
}

/** @throws Error for an empty file, and for one that is named as Parquet and is none */
async function requireRows(path: string, label: string): Promise<void> {
  const file = await open(path, 'r');
  try {
    const { size } = await file.stat();
    if (size === 0) throw new Error(`${label}: expected rows, the file is empty`);
    if (!/\.parquet$/i.test(path)) return;
    const head = Buffer.alloc(4);
    await file.read(head, 0, 4, 0);
    if (head.toString('latin1') !== 'PAR1')
      throw new Error(
        `${label}: expected a Parquet file, which begins with PAR1, received ${size} bytes that begin with ${JSON.stringify(head.toString('latin1'))}; was it fetched whole, and not as a Git LFS pointer?`,
      );
  } finally {
    await file.close();
  }
}

function isJson(value: unknown): value is Json {
  if (value === null || typeof value === 'string' || typeof value === 'boolean') return true;
  if (typeof value === 'number') return Number.isFinite(value);
  if (Array.isArray(value)) return value.every(isJson);
  return (
    typeof value === 'object' &&
    !(value instanceof Uint8Array || value instanceof Date) &&
    Object.values(value).every(isJson)
  );
}

/** What a value is, short enough for a message. */
export function shown(value: unknown): string {
  if (value === undefined || value === null) return 'nothing';
  if (value instanceof Uint8Array) return `${value.length} bytes`;
  const text = JSON.stringify(value);
  return text.length > 120 ? `${text.slice(0, 117)}…` : text;
}
