/** The parts of JSON texts as expressions: strings by content, white space, and the rules of JSON itself. */
import { charNfa, deterministic, exprOf, intersect } from './char-nfa.ts';
import {
  ANY_RANGES,
  alt,
  type CodeRange,
  chars,
  type Expr,
  intersectRanges,
  invert,
  mapText,
  NOTHING,
  normalise,
  repeat,
  rule,
  seq,
  text,
} from './expr.ts';
import { INTEGER, NUMBER } from './number-range.ts';

/** States that a string's own automaton may take. */
export const MAX_STRING_STATES = 20_000;

/**
 * Between the parts: nothing, one space, or a line end with an indent. Bounded, so that a weak model cannot fill its answer with
 * blanks.
 */
export const SPACE: Expr = alt(NOTHING, text(' '), seq(text('\n'), repeat(text(' '), 0, 16)));
/** After a colon. */
export const GAP: Expr = repeat(text(' '), 0, 1);

/** Characters with an escape of two characters, and its second one. */
const SHORT_ESCAPES: readonly (readonly [code: number, letter: string])[] = [
  [0x08, 'b'],
  [0x09, 't'],
  [0x0a, 'n'],
  [0x0c, 'f'],
  [0x0d, 'r'],
  [0x22, '"'],
  [0x5c, '\\'],
];
const MUST_ESCAPE = normalise([
  [0, 0x1f],
  [0x22, 0x22],
  [0x5c, 0x5c],
]);
const RAW: readonly CodeRange[] = invert(MUST_ESCAPE);

/** One of these characters inside a JSON string, in its one canonical form. */
export function jsonCharacter(ranges: readonly CodeRange[]): Expr {
  const raw: Expr = { kind: 'chars', ranges: intersectRanges(ranges, RAW) };
  const escaped = new Set(
    intersectRanges(ranges, MUST_ESCAPE).flatMap(([from, to]) =>
      Array.from({ length: to - from + 1 }, (_, i) => from + i),
    ),
  );
  if (escaped.size === 0) return raw;
  const one = (character: string): CodeRange => [character.charCodeAt(0), character.charCodeAt(0)];
  const letters: CodeRange[] = [];
  for (const [code, letter] of SHORT_ESCAPES) if (escaped.delete(code)) letters.push(one(letter));
  // The other control characters: \u000X and \u001X.
  const long = [0, 1].flatMap((high) => {
    const digits = [...escaped].filter((code) => code >>> 4 === high).map((code) => one((code & 15).toString(16)));
    return digits.length === 0 ? [] : [seq(text(`${high}`), chars(...digits))];
  });
  const forms = [chars(...letters), ...(long.length === 0 ? [] : [seq(text('u00'), alt(...long))])];
  return alt(raw, seq(text('\\'), alt(...forms)));
}

const HEX = chars([0x30, 0x39], [0x41, 0x46], [0x61, 0x66]);
/** \uXXXX of anything but half a surrogate pair. */
const UNICODE_ESCAPE = seq(
  text('\\u'),
  alt(
    seq(chars([0x30, 0x39], [0x41, 0x43], [0x45, 0x46], [0x61, 0x63], [0x65, 0x66]), repeat(HEX, 3, 3)),
    seq(chars([0x44, 0x44], [0x64, 0x64]), chars([0x30, 0x37]), repeat(HEX, 2, 2)),
  ),
);
/** One character of a string that nothing else constrains: raw, or in any of JSON's escapes. */
const FREE_CHARACTER: Expr = alt(
  { kind: 'chars', ranges: RAW },
  seq(text('\\'), chars(...[...'"\\/bfnrt'].map((c): CodeRange => [c.charCodeAt(0), c.charCodeAt(0)]))),
  UNICODE_ESCAPE,
);

/** Name of the rule that takes any JSON string; one for all, so that its token masks are computed once. */
export const STRING = 'string';
/** Any JSON value, object or array. */
export const VALUE = 'value';
export const OBJECT = 'object';
export const ANY_INTEGER = 'integer';
export const ANY_NUMBER = 'number';
export const ARRAY = 'array';

/** A JSON string with `min` … `max` characters (code points, as JSON schema counts). */
export function stringOfLength(min: number, max: number | null): Expr {
  if (min === 0 && max === null) return rule(STRING);
  return seq(text('"'), repeat(FREE_CHARACTER, min, max), text('"'));
}

/** A JSON string whose content fits all of these expressions over plain text. */
export function stringOfContent(contents: readonly Expr[], min: number, max: number | null, path: string): Expr {
  const [first, ...others] = contents;
  if (first === undefined) return stringOfLength(min, max);
  if (min > 0 || max !== null) others.push(repeat({ kind: 'chars', ranges: ANY_RANGES }, min, max));
  // Deterministic before it is multiplied and spelled out in bytes: that keeps both small.
  let content = deterministic(charNfa(first, path, MAX_STRING_STATES), path, MAX_STRING_STATES);
  for (const other of others) {
    const next = deterministic(charNfa(other, path, MAX_STRING_STATES), path, MAX_STRING_STATES);
    content = intersect(content, next, path, MAX_STRING_STATES);
  }
  return seq(text('"'), mapText(exprOf(content), jsonCharacter), text('"'));
}

/** A key that is none of `names`, written without escapes (an escaped one could be a name in disguise). */
export function otherKey(names: readonly string[]): Expr {
  interface Node {
    readonly next: Map<number, Node>;
    isName: boolean;
  }
  const root: Node = { next: new Map(), isName: false };
  for (const name of names) {
    let node = root;
    for (const character of name) {
      const code = character.codePointAt(0)!;
      let next = node.next.get(code);
      if (next === undefined) {
        next = { next: new Map(), isName: false };
        node.next.set(code, next);
      }
      node = next;
    }
    node.isName = true;
  }
  const nodes: Node[] = [root];
  for (const node of nodes) nodes.push(...node.next.values());
  const numberOf = new Map(nodes.map((node, index) => [node, index]));
  const free = nodes.length;
  const one = (code: number): CodeRange => [code, code];
  const edges = nodes.flatMap((node, from) => [
    ...[...node.next]
      .filter(([code]) => intersectRanges([one(code)], RAW).length > 0)
      .map(([code, next]) => ({ from, to: numberOf.get(next)!, label: chars(one(code)) })),
    {
      from,
      to: free,
      label: {
        kind: 'chars' as const,
        ranges: intersectRanges(RAW, invert(normalise([...node.next.keys()].map(one)))),
      },
    },
  ]);
  edges.push({ from: free, to: free, label: { kind: 'chars', ranges: RAW } });
  const accepts = new Set([free, ...nodes.flatMap((node, index) => (node.isName ? [] : [index]))]);
  return seq(text('"'), { kind: 'automaton', automaton: { states: nodes.length + 1, accepts, edges } }, text('"'));
}

/** `first` , `more` … between brackets; the first item and later ones may differ. */
export function listed(open: string, items: Expr, close: string): Expr {
  return seq(text(open), SPACE, items, SPACE, text(close));
}

export const COMMA: Expr = seq(text(','), SPACE);

function anyNumberOf(item: Expr): Expr {
  return alt(NOTHING, seq(item, repeat(seq(COMMA, item), 0, null)));
}

const MEMBER = seq(rule(STRING), text(':'), GAP, rule(VALUE));
const JSON_RULES: ReadonlyMap<string, Expr> = new Map<string, Expr>([
  [STRING, seq(text('"'), repeat(FREE_CHARACTER, 0, null), text('"'))],
  [ANY_INTEGER, INTEGER],
  [ANY_NUMBER, NUMBER],
  [OBJECT, listed('{', anyNumberOf(MEMBER), '}')],
  [ARRAY, listed('[', anyNumberOf(rule(VALUE)), ']')],
  [VALUE, alt(rule(STRING), rule(ANY_NUMBER), text('true'), text('false'), text('null'), rule(OBJECT), rule(ARRAY))],
]);

/** JSON itself. The expressions are the same objects each time: their automata are built once. */
export function jsonRules(): Map<string, Expr> {
  return new Map(JSON_RULES);
}

const DATE_PATTERN =
  '\\d{3}[1-9]-(?:(?:0[13578]|1[02])-(?:0[1-9]|[12]\\d|3[01])|(?:0[469]|11)-(?:0[1-9]|[12]\\d|30)|02-(?:0[1-9]|1\\d|2[0-8]))';
const TIME_PATTERN = '(?:[01]\\d|2[0-3]):[0-5]\\d:[0-5]\\d(?:\\.\\d{1,6})?(?:Z|[+-](?:[01]\\d|2[0-3]):[0-5]\\d)';
const LABEL = '[a-z0-9](?:[a-z0-9-]{0,30}[a-z0-9])?';
const BYTE = '(?:25[0-5]|2[0-4]\\d|1\\d\\d|[1-9]?\\d)';

/** Formats by regex. Each describes a part of its format that every validator takes (29 February is left out, for one). */
export const FORMATS: Readonly<Record<string, string>> = {
  date: DATE_PATTERN,
  time: TIME_PATTERN,
  'date-time': `${DATE_PATTERN}T${TIME_PATTERN}`,
  duration: 'P(?:\\d{1,4}D(?:T\\d{1,2}H(?:\\d{1,2}M(?:\\d{1,2}S)?)?)?|T\\d{1,4}[HMS]|\\d{1,4}[WMY])',
  email: `[a-z0-9_+-]{1,32}(?:\\.[a-z0-9_+-]{1,32}){0,3}@${LABEL}(?:\\.${LABEL}){1,3}`,
  hostname: `${LABEL}(?:\\.${LABEL}){0,3}`,
  ipv4: `${BYTE}(?:\\.${BYTE}){3}`,
  ipv6: '[0-9a-f]{1,4}(?::[0-9a-f]{1,4}){7}',
  uuid: '[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}',
  uri: `https?://${LABEL}(?:\\.${LABEL}){0,3}(?::[1-9]\\d{0,3})?(?:/[A-Za-z0-9_.~-]{0,64}){0,8}(?:\\?[A-Za-z0-9_.~=&-]{0,128})?`,
};
