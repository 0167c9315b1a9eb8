/** JSON text that breaks a rule which JSON.parse does not enforce. */
export class StrictJsonError extends Error {
  override readonly name = 'StrictJsonError';
}

/** Bounds on the structure, checked before anything is built from the text. */
export interface JsonLimits {
  /** Objects and arrays within one another. */
  readonly maxDepth: number;
  /** Objects and arrays together: an empty one takes two bytes of text and dozens of memory. */
  readonly maxContainers: number;
}

/**
 * Parses UTF-8 JSON and refuses what JSON.parse lets pass: malformed UTF-8, and an object that names one key twice (two
 * readers may then see two different files).
 *
 * @throws StrictJsonError naming what is wrong and where
 */
export function parseStrictJson(bytes: Uint8Array, limits: JsonLimits): unknown {
  refuseDeepOrMany(bytes, limits);
  let text: string;
  try {
    text = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true }).decode(bytes);
  } catch {
    throw new StrictJsonError('expected UTF-8 text, found bytes that are not UTF-8');
  }
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch (error) {
    throw new StrictJsonError(
      `expected JSON: ${error instanceof Error ? error.message.slice(0, 200) : 'not parseable'}`,
    );
  }
  refuseDuplicateKeys(text);
  return value;
}

const QUOTE = 0x22;
const BACKSLASH = 0x5c;

/** Walks bytes that may not be JSON; all that matters is that nothing within the limits is counted short. */
function refuseDeepOrMany(bytes: Uint8Array, { maxDepth, maxContainers }: JsonLimits): void {
  let depth = 0;
  let containers = 0;
  for (let i = 0; i < bytes.length; i++) {
    const byte = bytes[i];
    if (byte === QUOTE) {
      for (i++; i < bytes.length && bytes[i] !== QUOTE; i++) if (bytes[i] === BACKSLASH) i++;
    } else if (byte === 0x7b || byte === 0x5b) {
      containers++;
      if (++depth > maxDepth)
        throw new StrictJsonError(`expected objects and lists at most ${maxDepth} deep, byte ${i} goes deeper`);
      if (containers > maxContainers)
        throw new StrictJsonError(`expected at most ${maxContainers} objects and lists, byte ${i} begins another`);
    } else if (byte === 0x7d || byte === 0x5d) depth--;
  }
}

/** Walks text already known to be JSON; only strings and the nesting of braces and brackets need attention. */
function refuseDuplicateKeys(text: string): void {
  const open: (Set<string> | null)[] = [];
  for (let i = 0; i < text.length; i++) {
    const character = text[i];
    if (character === '{') open.push(new Set());
    else if (character === '[') open.push(null);
    else if (character === '}' || character === ']') open.pop();
    if (character !== '"') continue;
    const start = i++;
    while (text[i] !== '"') i += text[i] === '\\' ? 2 : 1;
    const keys = open.at(-1);
    if (!keys || !isFollowedByColon(text, i + 1)) continue;
    const token = text.slice(start, i + 1);
    const key = JSON.parse(token) as string;
    if (keys.has(key)) throw new StrictJsonError(`key ${token.slice(0, 120)} appears twice in one object`);
    keys.add(key);
  }
}

/** A string is a key exactly when a colon follows it. */
function isFollowedByColon(text: string, from: number): boolean {
  let i = from;
  while (text[i] === ' ' || text[i] === '\n' || text[i] === '\r' || text[i] === '\t') i++;
  return text[i] === ':';
}
