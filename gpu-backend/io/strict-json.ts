/** JSON text that breaks a rule which JSON.parse does not enforce. */
export class StrictJsonError extends Error {
  override readonly name = 'StrictJsonError';
}

/**
 * Parses UTF-8 JSON and refuses what JSON.parse lets pass: malformed UTF-8, and an object that names one key twice (two
 * readers may then see two different files).
 *
 * @throws StrictJsonError naming what is wrong and where
 */
export function parseStrictJson(bytes: Uint8Array): unknown {
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
