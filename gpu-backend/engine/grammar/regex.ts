/**
 * Regular expressions of JavaScript's syntax (with the `u` flag) that are regular in fact: what needs memory or looks around
 * (back references, look-ahead, word boundaries) is refused by name. Lazy quantifiers mean the same set of texts.
 */
import {
  ANY_RANGES,
  alt,
  type CodeRange,
  chars,
  type Expr,
  GrammarError,
  invert,
  NOTHING,
  normalise,
  repeat,
  seq,
} from './expr.ts';

/** Longest regex taken, in UTF-16 units. */
const MAX_CHARS = 4096;
const MAX_DEPTH = 50;
const MAX_REPEAT = 4096;

const ANY: Expr = { kind: 'chars', ranges: ANY_RANGES };
const DIGITS: readonly CodeRange[] = [[0x30, 0x39]];
const WORD: readonly CodeRange[] = normalise([
  [0x30, 0x39],
  [0x41, 0x5a],
  [0x5f, 0x5f],
  [0x61, 0x7a],
]);
const SPACE: readonly CodeRange[] = normalise(
  [9, 10, 11, 12, 13, 32, 0xa0, 0x1680, 0x2028, 0x2029, 0x202f, 0x205f, 0x3000, 0xfeff]
    .map((code): CodeRange => [code, code])
    .concat([[0x2000, 0x200a]]),
);
const LINE_ENDS: readonly CodeRange[] = normalise([
  [10, 10],
  [13, 13],
  [0x2028, 0x2029],
]);
const CONTROL: Readonly<Record<string, number>> = { t: 9, n: 10, v: 11, f: 12, r: 13, '0': 0 };

/**
 * @param path names the regex in messages
 * @param whole true: it describes the whole text. false: a text fits that contains a match, as in JSON schema's `pattern`
 * @throws GrammarError
 */
export function parseRegex(source: string, path: string, whole: boolean): Expr {
  if (source.length > MAX_CHARS)
    throw new GrammarError(
      'invalid',
      path,
      `expected a regex of at most ${MAX_CHARS} characters, got ${source.length}`,
    );
  try {
    new RegExp(source, 'u');
  } catch (error) {
    const why = error instanceof Error ? error.message.replace(/^Invalid regular expression: /, '') : String(error);
    throw new GrammarError('invalid', path, `expected a regular expression (flag u): ${why.slice(0, 200)}`);
  }
  return new RegexParser(source, path).parse(whole);
}

class RegexParser {
  readonly #source: string;
  readonly #path: string;
  #at = 0;
  #depth = 0;

  constructor(source: string, path: string) {
    this.#source = source;
    this.#path = path;
  }

  parse(whole: boolean): Expr {
    const branches: Expr[] = [];
    for (;;) {
      const fromStart = this.#take('^');
      const body = this.#sequence(true);
      const toEnd = this.#take('$');
      const open = (isAnchored: boolean) => (whole || isAnchored ? NOTHING : repeat(ANY, 0, null));
      branches.push(seq(open(fromStart), body, open(toEnd)));
      if (this.#at === this.#source.length) return alt(...branches);
      if (!this.#take('|')) this.#refuse(`${this.#source[this.#at]} at this place`);
    }
  }

  #alternatives(): Expr {
    if (++this.#depth > MAX_DEPTH) throw this.#error(`expected at most ${MAX_DEPTH} nested groups`);
    const branches = [this.#sequence(false)];
    while (this.#take('|')) branches.push(this.#sequence(false));
    this.#depth--;
    return branches.length === 1 ? branches[0]! : alt(...branches);
  }

  #sequence(isTop: boolean): Expr {
    const items: Expr[] = [];
    while (this.#at < this.#source.length) {
      const next = this.#source[this.#at]!;
      if (next === '|' || next === ')') break;
      if (next === '$' && isTop && this.#atBranchEnd()) break;
      items.push(this.#quantified(this.#atom()));
    }
    return items.length === 1 ? items[0]! : seq(...items);
  }

  #atBranchEnd(): boolean {
    return this.#at + 1 === this.#source.length || this.#source[this.#at + 1] === '|';
  }

  #quantified(item: Expr): Expr {
    const bounds = this.#bounds();
    if (bounds === null) return item;
    this.#take('?'); // lazy: the same texts
    const [min, max] = bounds;
    if (min > MAX_REPEAT || (max ?? 0) > MAX_REPEAT)
      throw this.#error(`expected at most ${MAX_REPEAT} repetitions, got {${min},${max ?? ''}}`);
    return repeat(item, min, max);
  }

  #bounds(): readonly [number, number | null] | null {
    if (this.#take('*')) return [0, null];
    if (this.#take('+')) return [1, null];
    if (this.#take('?')) return [0, 1];
    const braces = /^\{(\d+)(,(\d*))?\}/.exec(this.#source.slice(this.#at));
    if (braces === null) return null;
    this.#at += braces[0].length;
    const min = Number(braces[1]);
    return [min, braces[2] === undefined ? min : braces[3] === '' ? null : Number(braces[3])];
  }

  #atom(): Expr {
    const character = this.#character();
    switch (character) {
      case '.':
        return { kind: 'chars', ranges: invert(LINE_ENDS) };
      case '[':
        return { kind: 'chars', ranges: this.#class() };
      case '(':
        return this.#group();
      case '\\':
        return { kind: 'chars', ranges: this.#escape() };
      case '^':
      case '$':
        return this.#refuse(`the anchor ${character} inside the expression`);
      default:
        return chars([character.codePointAt(0)!, character.codePointAt(0)!]);
    }
  }

  #group(): Expr {
    if (this.#take('?')) {
      const name = /^<[^>=!]+>/.exec(this.#source.slice(this.#at))?.[0];
      if (name !== undefined) this.#at += name.length;
      else if (!this.#take(':'))
        this.#refuse(`(?${this.#source.slice(this.#at, this.#at + 2)}…), look-around or flags`);
    }
    const inner = this.#alternatives();
    if (!this.#take(')')) throw this.#error('expected ) at the end of a group');
    return inner;
  }

  #class(): readonly CodeRange[] {
    const isNegated = this.#take('^');
    const ranges: CodeRange[] = [];
    while (!this.#take(']')) {
      const from = this.#member();
      if (from.length !== 1 || from[0]![0] !== from[0]![1] || !this.#rangeFollows()) {
        ranges.push(...from);
        continue;
      }
      this.#at++;
      const to = this.#member();
      if (to.length !== 1) throw this.#error('expected a character at the end of a range in […]');
      ranges.push([from[0]![0], to[0]![1]]);
    }
    const all = normalise(ranges);
    return isNegated ? invert(all) : all;
  }

  #rangeFollows(): boolean {
    return this.#source[this.#at] === '-' && this.#source[this.#at + 1] !== ']';
  }

  #member(): readonly CodeRange[] {
    const character = this.#character();
    if (character !== '\\') return [[character.codePointAt(0)!, character.codePointAt(0)!]];
    if (this.#take('b')) return [[8, 8]];
    return this.#escape();
  }

  /** What follows a backslash. */
  #escape(): readonly CodeRange[] {
    const rest = this.#source.slice(this.#at);
    const hex = /^(?:x([0-9a-fA-F]{2})|u\{([0-9a-fA-F]+)\}|u([0-9a-fA-F]{4}))/.exec(rest);
    if (hex !== null) {
      this.#at += hex[0].length;
      const code = Number.parseInt((hex[1] ?? hex[2] ?? hex[3])!, 16);
      if (code >= 0xd800 && code <= 0xdfff) this.#refuse(`half a surrogate pair, \\${hex[0]}; write \\u{…}`);
      return [[code, code]];
    }
    const character = this.#character();
    if (character === 'd') return DIGITS;
    if (character === 'D') return invert(DIGITS);
    if (character === 'w') return WORD;
    if (character === 'W') return invert(WORD);
    if (character === 's') return SPACE;
    if (character === 'S') return invert(SPACE);
    const control = CONTROL[character];
    if (control !== undefined) return [[control, control]];
    if (/[A-Za-z1-9]/.test(character)) this.#refuse(`\\${character}`);
    return [[character.codePointAt(0)!, character.codePointAt(0)!]];
  }

  #character(): string {
    const code = this.#source.codePointAt(this.#at);
    if (code === undefined) throw this.#error('expected more after its end');
    const character = String.fromCodePoint(code);
    this.#at += character.length;
    return character;
  }

  #take(character: string): boolean {
    if (this.#source[this.#at] !== character) return false;
    this.#at++;
    return true;
  }

  #refuse(what: string): never {
    const message = `${what} (at character ${this.#at}) is not supported in regular expressions here`;
    throw new GrammarError('unsupported', this.#path, message);
  }

  #error(message: string): GrammarError {
    return new GrammarError('invalid', this.#path, message);
  }
}
