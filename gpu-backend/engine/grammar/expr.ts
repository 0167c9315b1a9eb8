/**
 * What an answer may be, as expressions over Unicode text: regular ones, and references to rules, which make nesting possible.
 * Regexes, JSON schemas and choices all become these; `grammar.ts` turns them into automata over bytes.
 */

/** First and last code point, both included. */
export type CodeRange = readonly [from: number, to: number];

export type Expr =
  | { readonly kind: 'text'; readonly text: string }
  /** One character of these; ranges sorted, disjoint, without surrogates. */
  | { readonly kind: 'chars'; readonly ranges: readonly CodeRange[] }
  | { readonly kind: 'seq'; readonly items: readonly Expr[] }
  | { readonly kind: 'alt'; readonly items: readonly Expr[] }
  /** `max` null = without bound. */
  | { readonly kind: 'repeat'; readonly item: Expr; readonly min: number; readonly max: number | null }
  | { readonly kind: 'rule'; readonly rule: string }
  | { readonly kind: 'automaton'; readonly automaton: Automaton };

/** States 0 … states-1, start 0; a label is what stands between two states. */
export interface Automaton {
  readonly states: number;
  readonly accepts: ReadonlySet<number>;
  readonly edges: readonly { readonly from: number; readonly label: Expr; readonly to: number }[];
}

/** A constraint that cannot be built, in words for the person who wrote it. `path` leads into what they sent. */
export class GrammarError extends Error {
  override readonly name = 'GrammarError';

  constructor(
    /** `unsupported`: valid elsewhere, not built here. `invalid`: wrong or impossible to fulfil. */
    readonly reason: 'unsupported' | 'invalid',
    readonly path: string,
    message: string,
  ) {
    super(message);
  }
}

export const NOTHING: Expr = { kind: 'text', text: '' };
export const text = (value: string): Expr => ({ kind: 'text', text: value });
export const rule = (name: string): Expr => ({ kind: 'rule', rule: name });
export const seq = (...items: readonly Expr[]): Expr => ({ kind: 'seq', items });
export const alt = (...items: readonly Expr[]): Expr => ({ kind: 'alt', items });
export const repeat = (item: Expr, min: number, max: number | null): Expr => ({ kind: 'repeat', item, min, max });
export const optional = (item: Expr): Expr => repeat(item, 0, 1);
export const chars = (...ranges: readonly CodeRange[]): Expr => ({ kind: 'chars', ranges: normalise(ranges) });

export const DIGIT: Expr = chars([0x30, 0x39]);
const LAST = 0x10ffff;
/** Every character there is; surrogates are none. */
export const ANY_RANGES: readonly CodeRange[] = [
  [0, 0xd7ff],
  [0xe000, LAST],
];

/** Sorted, merged, without surrogates. */
export function normalise(ranges: readonly CodeRange[]): readonly CodeRange[] {
  const parts = ranges.flatMap(([from, to]): CodeRange[] => [
    [from, Math.min(to, 0xd7ff)],
    [Math.max(from, 0xe000), to],
  ]);
  const merged: [number, number][] = [];
  for (const [from, to] of parts.filter(([a, b]) => a <= b).sort((a, b) => a[0] - b[0])) {
    const last = merged.at(-1);
    if (last !== undefined && from <= last[1] + 1) last[1] = Math.max(last[1], to);
    else merged.push([from, to]);
  }
  return merged;
}

/** All characters that are not in the (normalised) ranges. */
export function invert(ranges: readonly CodeRange[]): readonly CodeRange[] {
  const rest: CodeRange[] = [];
  let next = 0;
  for (const [from, to] of ranges) {
    if (from > next) rest.push([next, from - 1]);
    next = to + 1;
  }
  if (next <= LAST) rest.push([next, LAST]);
  return normalise(rest);
}

/** Characters in both. */
export function intersectRanges(a: readonly CodeRange[], b: readonly CodeRange[]): readonly CodeRange[] {
  const both: CodeRange[] = [];
  for (let i = 0, j = 0; i < a.length && j < b.length; ) {
    const from = Math.max(a[i]![0], b[j]![0]);
    const to = Math.min(a[i]![1], b[j]![1]);
    if (from <= to) both.push([from, to]);
    if (a[i]![1] < b[j]![1]) i++;
    else j++;
  }
  return both;
}

/** The same expression with each literal and each set of characters rewritten; rules stay. */
export function mapText(expr: Expr, write: (ranges: readonly CodeRange[]) => Expr): Expr {
  switch (expr.kind) {
    case 'text':
      return seq(...[...expr.text].map((character) => write([[character.codePointAt(0)!, character.codePointAt(0)!]])));
    case 'chars':
      return write(expr.ranges);
    case 'seq':
      return seq(...expr.items.map((item) => mapText(item, write)));
    case 'alt':
      return alt(...expr.items.map((item) => mapText(item, write)));
    case 'repeat':
      return repeat(mapText(expr.item, write), expr.min, expr.max);
    case 'rule':
      return expr;
    case 'automaton': {
      const { automaton } = expr;
      const edges = automaton.edges.map((edge) => ({ ...edge, label: mapText(edge.label, write) }));
      return { kind: 'automaton', automaton: { ...automaton, edges } };
    }
    default:
      return expr satisfies never;
  }
}
