/**
 * JSON with pictures in it is a few hundred bytes of structure around megabytes of base64. Every look through the bytes (depth, counts, the parser's own
 * scan for escapes) costs as much as decoding the pictures, so the long plain strings are taken out first and put back into the parsed value.
 */

/** Shorter strings are not worth it. */
const LEAST_BYTES = 4_096;
const [QUOTE, BACKSLASH] = [0x22, 0x5c] as const;
const DATA = [0x64, 0x61, 0x74, 0x61, 0x3a] as const;

export type Hoisted = {
  /** The same JSON with short names in place of the strings taken out. */
  skeleton: Uint8Array;
  /** The names, and the bytes between the quotes that each stands for. */
  strings: ReadonlyMap<string, Uint8Array>;
};

/**
 * Takes out every string that begins with `data:`, is long and has no escapes. Where the text is not JSON, what is left is none either: only what stands
 * between two quotes of one string is taken, and what the strings are made of is seen by whoever decodes them.
 * @param mark unguessable, so that nobody can write a name himself
 * @returns null where there is nothing to take out
 */
export function hoist(bytes: Uint8Array, mark: string): Hoisted | null {
  if (bytes.byteLength < LEAST_BYTES) return null;
  const strings = new Map<string, Uint8Array>();
  const kept: Uint8Array[] = [];
  const encoder = new TextEncoder();
  let keptFrom = 0;
  for (let open = bytes.indexOf(QUOTE); open >= 0; ) {
    const close = stringEnd(bytes, open);
    if (close < 0) return null;
    if (close - open > LEAST_BYTES && isPlainData(bytes, open + 1, close)) {
      const name = `${mark}${strings.size}`;
      strings.set(name, bytes.subarray(open + 1, close));
      kept.push(bytes.subarray(keptFrom, open + 1), encoder.encode(name));
      keptFrom = close;
    }
    open = bytes.indexOf(QUOTE, close + 1);
  }
  if (strings.size === 0) return null;
  kept.push(bytes.subarray(keptFrom));
  return { skeleton: joined(kept), strings };
}

/** Puts the strings back, in place, and returns the value. @throws TypeError where one of them is not UTF-8 */
export function restore(value: unknown, strings: Hoisted['strings']): unknown {
  const decoder = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true });
  const textOf = (name: string): string => {
    const bytes = strings.get(name);
    return bytes === undefined ? name : decoder.decode(bytes);
  };
  // A stack of our own: how deep the value is has been checked, but not how deep ours may be.
  const stack: unknown[] = [value];
  for (let node = stack.pop(); node !== undefined; node = stack.pop()) {
    if (Array.isArray(node)) {
      for (let i = 0; i < node.length; i++)
        if (typeof node[i] === 'string') node[i] = textOf(node[i]);
        else stack.push(node[i] ?? null);
    } else if (typeof node === 'object' && node !== null) {
      const fields = node as Record<string, unknown>;
      for (const key of Object.keys(fields)) {
        const field = fields[key];
        const name = textOf(key);
        if (name !== key) {
          delete fields[key];
          fields[name] = field;
        }
        if (typeof field !== 'string') stack.push(field ?? null);
        else if (strings.has(field)) fields[name] = textOf(field);
      }
    }
  }
  return typeof value === 'string' ? textOf(value) : value;
}

function isPlainData(bytes: Uint8Array, from: number, to: number): boolean {
  for (let i = 0; i < DATA.length; i++) if (bytes[from + i] !== DATA[i]) return false;
  return bytes.subarray(from, to).indexOf(BACKSLASH) < 0;
}

/** Where the string that begins at `from` ends, at a quote with an even number of backslashes before it; -1 if it does not. */
export function stringEnd(bytes: Uint8Array, from: number): number {
  for (let at = bytes.indexOf(QUOTE, from + 1); at >= 0; at = bytes.indexOf(QUOTE, at + 1)) {
    let escapes = 0;
    while (bytes[at - 1 - escapes] === BACKSLASH) escapes++;
    if (escapes % 2 === 0) return at;
  }
  return -1;
}

function joined(parts: readonly Uint8Array[]): Uint8Array {
  const all = new Uint8Array(parts.reduce((sum, part) => sum + part.byteLength, 0));
  let at = 0;
  for (const part of parts) {
    all.set(part, at);
    at += part.byteLength;
  }
  return all;
}
