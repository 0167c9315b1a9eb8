import type { Message, Part } from '../text/layout.ts';

/** One example of an OpenAI-style chat file: messages, and the pictures they refer to (data URL or file id). */
export interface ChatExample {
  /** Line in the file, from 1. */
  readonly line: number;
  readonly messages: readonly Message[];
  /** `Part.image` of the messages is an index into this list. */
  readonly images: readonly string[];
}

/** A line that cannot be used; the message names the field. */
export class DatasetError extends Error {
  override readonly name = 'DatasetError';
  constructor(
    readonly line: number,
    readonly path: string,
    message: string,
  ) {
    super(`line ${line}: ${path}: ${message}`);
  }
}

type Json = Readonly<Record<string, unknown>>;
const isObject = (value: unknown): value is Json =>
  typeof value === 'object' && value !== null && !Array.isArray(value);

/** Reads a chat JSONL file's text; empty lines are passed over. @throws DatasetError at the first bad line */
export function parseChatDataset(text: string): ChatExample[] {
  return text.split('\n').flatMap((row, i) => (row.trim() === '' ? [] : [parseChatLine(row, i + 1)]));
}

/** @throws DatasetError */
export function parseChatLine(row: string, line: number): ChatExample {
  let json: unknown;
  try {
    json = JSON.parse(row);
  } catch {
    throw new DatasetError(line, '(line)', 'expected one JSON object a line');
  }
  if (!isObject(json) || !Array.isArray(json.messages))
    throw new DatasetError(line, 'messages', 'expected {"messages": [...]}');
  const images: string[] = [];
  const messages = json.messages.map((value: unknown, i): Message => {
    const path = `messages[${i}]`;
    if (!isObject(value)) throw new DatasetError(line, path, 'expected an object');
    const { role, content, weight } = value;
    const known = role === 'developer' ? 'system' : role;
    if (known !== 'system' && known !== 'user' && known !== 'assistant')
      throw new DatasetError(line, `${path}.role`, `expected system, user or assistant, got ${JSON.stringify(role)}`);
    if (weight !== undefined && (typeof weight !== 'number' || !(weight >= 0)))
      throw new DatasetError(line, `${path}.weight`, `expected a number of 0 or more, got ${JSON.stringify(weight)}`);
    const parts = parseContent(content, images, line, `${path}.content`);
    return { role: known, parts, ...(weight === undefined ? {} : { weight }) };
  });
  if (!messages.some((m) => m.role === 'assistant' && m.weight !== 0))
    throw new DatasetError(line, 'messages', 'expected at least one assistant message to learn from');
  return { line, messages, images };
}

function parseContent(content: unknown, images: string[], line: number, path: string): Part[] {
  if (typeof content === 'string') return [{ type: 'text', text: content }];
  if (!Array.isArray(content)) throw new DatasetError(line, path, 'expected a string or a list of parts');
  return content.map((part: unknown, i): Part => {
    const where = `${path}[${i}]`;
    if (!isObject(part)) throw new DatasetError(line, where, 'expected an object');
    if (part.type === 'text' && typeof part.text === 'string') return { type: 'text', text: part.text };
    const url =
      part.type === 'image_url' && isObject(part.image_url)
        ? part.image_url.url
        : part.type === 'image_file' && isObject(part.image_file)
          ? part.image_file.file_id
          : undefined;
    if (typeof url !== 'string')
      throw new DatasetError(
        line,
        where,
        `expected a text, image_url or image_file part, got type ${String(part.type)}`,
      );
    return { type: 'image', image: images.push(url) - 1 };
  });
}

/** Bytes of a base64 data URL; undefined when it is none. */
export function dataUrlBytes(url: string): Uint8Array | undefined {
  const match = /^data:[^,]*;base64,/.exec(url);
  return match === null ? undefined : new Uint8Array(Buffer.from(url.slice(match[0].length), 'base64'));
}
