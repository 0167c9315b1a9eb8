/**
 * JSON with pictures in it is a few hundred bytes of structure around megabytes of base64. Every look through the whole (depth, counts, the parser's own
 * scan for escapes) costs as much as decoding the pictures, so the long plain strings are taken out first and put back into the parsed value.
 */

/** Shorter strings are not worth it. */
const LEAST_CHARS = 4_096;
/** A body of more strings than this is not mostly pictures: looking at each would cost more than it saves. */
const MOST_STRINGS = 10_000;
/** A mark and a number. */
const LONGEST_NAME = 64;
const BACKSLASH = 0x5c;

export type Hoisted = {
  /** The same JSON with short names in place of the strings taken out. */
  skeleton: string;
  /** The names, and what each stands for. */
  strings: ReadonlyMap<string, string>;
};

/**
 * Takes out every string that begins with `data:`, is long and has no escapes. Where the text is not JSON, what is left is none either: only what stands
 * between two quotes of one string is taken, and what the strings are made of is seen by whoever decodes them.
 * @param mark unguessable, so that nobody can write a name himself
 * @returns null where there is nothing to take out
 */
export function hoist(text: string, mark: string): Hoisted | null {
  if (text.length < LEAST_CHARS) return null;
  const strings = new Map<string, string>();
  let skeleton = '';
  let keptFrom = 0;
  let seen = 0;
  for (let open = text.indexOf('"'); open >= 0; ) {
    const close = stringEnd(text, open);
    if (close < 0 || ++seen > MOST_STRINGS) return null;
    if (close - open > LEAST_CHARS && text.startsWith('data:', open + 1)) {
      const content = text.slice(open + 1, close);
      if (!content.includes('\\')) {
        const name = `${mark}${strings.size}`;
        strings.set(name, content);
        skeleton += text.slice(keptFrom, open + 1) + name;
        keptFrom = close;
      }
    }
    open = text.indexOf('"', close + 1);
  }
  return strings.size === 0 ? null : { skeleton: skeleton + text.slice(keptFrom), strings };
}

/** Puts the strings back, in place, and returns the value. */
export function restore(value: unknown, strings: Hoisted['strings']): unknown {
  // A stack of our own: how deep the value is has been checked, but not how deep ours may be.
  const stack: unknown[] = [value];
  for (let node = stack.pop(); node !== undefined; node = stack.pop()) {
    if (Array.isArray(node)) {
      for (let i = 0; i < node.length; i++)
        if (typeof node[i] !== 'string') stack.push(node[i] ?? null);
        else node[i] = contentOf(node[i], strings) ?? node[i];
    } else if (typeof node === 'object' && node !== null)
      restoreFields(node as Record<string, unknown>, strings, stack);
  }
  return typeof value === 'string' ? (contentOf(value, strings) ?? value) : value;
}

function restoreFields(fields: Record<string, unknown>, strings: Hoisted['strings'], stack: unknown[]): void {
  for (const key of Object.keys(fields)) {
    const field = fields[key];
    const name = contentOf(key, strings);
    if (name !== undefined) {
      delete fields[key];
      fields[name] = field;
    }
    if (typeof field !== 'string') stack.push(field ?? null);
    else {
      const content = contentOf(field, strings);
      if (content !== undefined) fields[name ?? key] = content;
    }
  }
}

/** What a name stands for. A long string is none; to look it up, the engine would copy it. */
function contentOf(text: string, strings: Hoisted['strings']): string | undefined {
  return text.length > LONGEST_NAME ? undefined : strings.get(text);
}

/** Where the string that begins at `from` ends, at a quote with an even number of backslashes before it; -1 if it does not. */
function stringEnd(text: string, from: number): number {
  for (let at = text.indexOf('"', from + 1); at >= 0; at = text.indexOf('"', at + 1)) {
    let escapes = 0;
    while (text.charCodeAt(at - 1 - escapes) === BACKSLASH) escapes++;
    if (escapes % 2 === 0) return at;
  }
  return -1;
}
