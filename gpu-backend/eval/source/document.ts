import { open, readFile, stat } from 'node:fs/promises';
import { Row, shown } from './row.ts';

/** Documents are read whole; VQAv2's annotations, the longest of the published ones, have 63 MB (validation) and 136 MB (training). */
const MAX_DOCUMENT_BYTES = 400 << 20;

/** Whether a file is one JSON object, as against rows: its first character that is no white space is `{` and its name ends with `.json`. */
export async function isDocument(path: string): Promise<boolean> {
  if (!path.toLowerCase().endsWith('.json')) return false;
  const file = await open(path, 'r');
  try {
    const head = Buffer.alloc(256);
    const { bytesRead } = await file.read(head, 0, head.length, 0);
    return /^\ufeff?\s*\{/.test(head.toString('utf8', 0, bytesRead));
  } finally {
    await file.close();
  }
}

/**
 * A JSON object read whole.
 * @param label for messages
 * @throws Error where it is too long, no JSON or no object
 */
export async function readDocument(path: string, label: string): Promise<Readonly<Record<string, unknown>>> {
  const { size } = await stat(path);
  if (size > MAX_DOCUMENT_BYTES)
    throw new Error(`${label}: expected a JSON document of at most ${MAX_DOCUMENT_BYTES} bytes, received ${size}`);
  let value: unknown;
  try {
    value = JSON.parse((await readFile(path, 'utf8')).replace(/^\ufeff/, ''));
  } catch (error) {
    const reason = error instanceof Error ? error.message.slice(0, 160) : 'not parseable';
    throw new Error(`${label}: expected a JSON object, received text that is not JSON (${reason})`);
  }
  if (typeof value !== 'object' || value === null || Array.isArray(value))
    throw new Error(`${label}: expected a JSON object, received ${shown(value)}`);
  return value as Readonly<Record<string, unknown>>;
}

/** The objects in a list of a document, as rows; their numbers count from 1. */
export function rowsIn(document: Readonly<Record<string, unknown>>, key: string, label: string): Row[] {
  const list = document[key];
  if (!Array.isArray(list)) throw new Error(`${label}: expected a list \`${key}\`, received ${shown(list)}`);
  return list.map((value: unknown, i) => rowOf(value, `${label} \`${key}\``, i + 1));
}

/** The objects of a document that is a table by id: `{"12": {…}, …}`, in the order in which they stand. Numbers come first, as JSON.parse has it. */
export function rowsById(document: Readonly<Record<string, unknown>>, label: string): (readonly [string, Row])[] {
  return Object.entries(document).map(([id, value], i) => [id, rowOf(value, label, i + 1)] as const);
}

function rowOf(value: unknown, label: string, line: number): Row {
  if (typeof value !== 'object' || value === null || Array.isArray(value))
    throw new Error(`${label}, row ${line}: expected an object, received ${shown(value)}`);
  return new Row(label, line, value as Readonly<Record<string, unknown>>);
}
