/**
 * What Python's `str`, `int`, `float` and `round` do where JavaScript's namesakes differ. The published scorers are Python programs, and an answer counts or does
 * not by these differences: `str(2.0)` is `2.0`, `round(0.125, 2)` is `0.12`, `float(' 1_000 ')` is a thousand.
 */

/** White space as `str.split()` and `str.strip()` see it: the ASCII separators and NEL belong to it, the byte order mark does not. */
const SPACE = String.raw`[\t-\r\x1c-\x20\x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000]`;
const EDGES = new RegExp(`^${SPACE}+|${SPACE}+$`, 'gu');
const RUN = new RegExp(`${SPACE}+`, 'u');

/** `text.strip()`. */
export function strip(text: string): string {
  return text.replace(EDGES, '');
}

/** `text.strip(characters)`: any of the characters, from both ends. */
export function stripOf(text: string, characters: string): string {
  let [from, to] = [0, text.length];
  while (from < to && characters.includes(text.charAt(from))) from++;
  while (to > from && characters.includes(text.charAt(to - 1))) to--;
  return text.slice(from, to);
}

/** `text.split()`. */
export function words(text: string): string[] {
  const stripped = strip(text);
  return stripped === '' ? [] : stripped.split(RUN);
}

/** `text.capitalize()`: the first letter upper, all others lower. */
export function capitalize(text: string): string {
  const [first = ''] = text;
  return first.toUpperCase() + text.slice(first.length).toLowerCase();
}

const INTEGER = /^[+-]?\d+(?:_\d+)*$/;
const FLOAT = /^[+-]?(?:\d+(?:_\d+)*\.?(?:\d+(?:_\d+)*)?|\.\d+(?:_\d+)*)(?:e[+-]?\d+(?:_\d+)*)?$/i;
const NOT_FINITE = /^([+-]?)(?:(inf|infinity)|nan)$/i;

/** `str(int(text))`, of any length; null where Python raises. */
export function parseInteger(text: string): string | null {
  const stripped = strip(text);
  if (!INTEGER.test(stripped)) return null;
  return BigInt(stripped.replace(/_|^\+/g, '')).toString();
}

/** `float(text)`; null where Python raises. */
export function parseFloatOf(text: string): number | null {
  const stripped = strip(text);
  if (FLOAT.test(stripped)) return Number(stripped.replaceAll('_', ''));
  const named = NOT_FINITE.exec(stripped);
  if (named === null) return null;
  if (named[2] === undefined) return Number.NaN;
  return named[1] === '-' ? Number.NEGATIVE_INFINITY : Number.POSITIVE_INFINITY;
}

/** `round(value, digits)` for digits ≥ 0: to the nearest of the exact binary value, a tie to the even digit. */
export function roundHalfEven(value: number, digits: number): number {
  if (!Number.isFinite(value) || Math.abs(value) >= 1e21 || digits > 22) return value;
  // 100 digits hold every double from 2^-20 up exactly, and no tie of 22 digits lies below that.
  const exact = Math.abs(value).toFixed(100);
  const point = exact.indexOf('.');
  const tail = exact.slice(point + 1 + digits);
  const kept = BigInt(exact.slice(0, point) + exact.slice(point + 1, point + 1 + digits));
  const isTie = /^50*$/.test(tail);
  const up = isTie ? kept % 2n === 1n : tail >= '5';
  const rounded = Number(`${(kept + (up ? 1n : 0n)).toString()}e-${digits}`);
  return value < 0 || Object.is(value, -0) ? -rounded : rounded;
}

/** `repr(value)` of a float: `2.0`, `1e-05`, `1e+16`. */
export function floatRepr(value: number): string {
  if (Number.isNaN(value)) return 'nan';
  if (!Number.isFinite(value)) return value < 0 ? '-inf' : 'inf';
  if (value === 0) return Object.is(value, -0) ? '-0.0' : '0.0';
  const [mantissa = '', power = ''] = value.toExponential().split('e');
  const exponent = Number(power);
  if (exponent < -4 || exponent >= 16) {
    const size = String(Math.abs(exponent)).padStart(2, '0');
    return `${mantissa}e${exponent < 0 ? '-' : '+'}${size}`;
  }
  const digits = mantissa.replace(/[-.]/g, '');
  const sign = value < 0 ? '-' : '';
  if (exponent < 0) return `${sign}0.${'0'.repeat(-exponent - 1)}${digits}`;
  if (digits.length <= exponent + 1) return `${sign}${digits.padEnd(exponent + 1, '0')}.0`;
  return `${sign}${digits.slice(0, exponent + 1)}.${digits.slice(exponent + 1)}`;
}

/** `str(int(value))` of a float: towards zero, exact at any size; null where Python raises. */
export function truncated(value: number): string | null {
  return Number.isFinite(value) ? BigInt(Math.trunc(value)).toString() : null;
}

/**
 * `ast.literal_eval` of a list of strings, the form in which MMMU keeps its options: `['a', "b's"]`.
 * @returns null where the text is no such list
 */
export function parseStringList(text: string): string[] | null {
  const source = strip(text);
  if (!source.startsWith('[') || !source.endsWith(']')) return null;
  const items: string[] = [];
  let at = 1;
  const skip = (): void => {
    while (/[\s]/.test(source.charAt(at))) at++;
  };
  for (;;) {
    skip();
    if (source[at] === ']') return at === source.length - 1 ? items : null;
    const item = stringAt(source, at);
    if (item === null) return null;
    items.push(item.value);
    at = item.end;
    skip();
    if (source[at] === ',') at++;
    else if (source[at] !== ']') return null;
  }
}

const ESCAPES: { readonly [letter: string]: string } = {
  n: '\n',
  t: '\t',
  r: '\r',
  a: '\x07',
  b: '\b',
  f: '\f',
  v: '\v',
  '\\': '\\',
  "'": "'",
  '"': '"',
  '\n': '',
};

/** A Python string literal; unknown escapes stand for themselves with their backslash, as in Python. */
function stringAt(source: string, start: number): { readonly value: string; readonly end: number } | null {
  const quote = source[start];
  if (quote !== "'" && quote !== '"') return null;
  let value = '';
  for (let at = start + 1; at < source.length; at++) {
    const char = source.charAt(at);
    if (char === quote) return { value, end: at + 1 };
    if (char !== '\\') {
      value += char;
      continue;
    }
    const code = /^\\(?:x([0-9a-fA-F]{2})|u([0-9a-fA-F]{4})|U([0-9a-fA-F]{8}))/.exec(source.slice(at, at + 10));
    const hex = code?.[1] ?? code?.[2] ?? code?.[3];
    if (code !== null && hex !== undefined && Number.parseInt(hex, 16) <= 0x10ffff) {
      value += String.fromCodePoint(Number.parseInt(hex, 16));
      at += code[0].length - 1;
      continue;
    }
    const next = source.charAt(++at);
    value += ESCAPES[next] ?? `\\${next}`;
  }
  return null;
}
