/** Automata over characters, for what only an intersection can say: a pattern *and* a length, a range *and* a multiple. */
import { type Automaton, type CodeRange, type Expr, GrammarError, intersectRanges, normalise } from './expr.ts';

export interface CharNfa {
  /** By state; start 0. */
  readonly accepts: readonly boolean[];
  readonly edges: readonly (readonly { readonly ranges: readonly CodeRange[]; readonly to: number }[])[];
}

interface Fragment {
  readonly epsilon: number[][];
  readonly edges: { ranges: readonly CodeRange[]; to: number }[][];
}

/**
 * An epsilon-free automaton of an expression without rules.
 * @throws GrammarError above `maxStates`
 */
export function charNfa(expr: Expr, path: string, maxStates: number): CharNfa {
  const fragment: Fragment = { epsilon: [], edges: [] };
  const fresh = (): number => {
    if (fragment.edges.length >= maxStates) throw tooComplex(path);
    fragment.epsilon.push([]);
    return fragment.edges.push([]) - 1;
  };
  const link = (from: number, to: number) => void fragment.epsilon[from]!.push(to);
  const build = (node: Expr, from: number, to: number): void => {
    switch (node.kind) {
      case 'text': {
        let at = from;
        for (const character of node.text) {
          const code = character.codePointAt(0)!;
          const next = fresh();
          fragment.edges[at]!.push({ ranges: [[code, code]], to: next });
          at = next;
        }
        link(at, to);
        return;
      }
      case 'chars':
        fragment.edges[from]!.push({ ranges: node.ranges, to });
        return;
      case 'seq': {
        let at = from;
        for (const item of node.items) {
          const next = fresh();
          build(item, at, next);
          at = next;
        }
        link(at, to);
        return;
      }
      case 'alt':
        for (const item of node.items) {
          const start = fresh();
          link(from, start);
          build(item, start, to);
        }
        return;
      case 'repeat': {
        let at = from;
        for (let n = 0; n < node.min; n++) {
          const next = fresh();
          build(node.item, at, next);
          at = next;
        }
        if (node.max === null) {
          const loop = fresh();
          const end = fresh();
          link(at, loop);
          build(node.item, loop, end);
          link(end, loop);
          link(loop, to);
          return;
        }
        for (let n = node.min; n < node.max; n++) {
          const next = fresh();
          link(at, to);
          build(node.item, at, next);
          at = next;
        }
        link(at, to);
        return;
      }
      case 'rule':
      case 'automaton':
        throw new Error(`internal: ${node.kind} in an automaton over characters`);
      default:
        node satisfies never;
    }
  };
  const start = fresh();
  const accept = fresh();
  build(expr, start, accept);
  const closure = (state: number): number[] => {
    const seen = new Set([state]);
    for (const one of seen) for (const next of fragment.epsilon[one]!) seen.add(next);
    return [...seen];
  };
  // Only states that are entered by a character (or start) remain; numbered as they are found.
  const numberOf = new Map([[start, 0]]);
  const found = [start];
  const accepts: boolean[] = [];
  const edges: { ranges: readonly CodeRange[]; to: number }[][] = [];
  let work = 0;
  for (const state of found) {
    const states = closure(state);
    work += states.length;
    if (work > 20 * maxStates) throw tooComplex(path);
    accepts.push(states.includes(accept));
    const out = states.flatMap((one) => fragment.edges[one]!);
    edges.push(
      out.map(({ ranges, to }) => {
        let number = numberOf.get(to);
        if (number === undefined) {
          number = found.push(to) - 1;
          numberOf.set(to, number);
        }
        return { ranges, to: number };
      }),
    );
  }
  return { accepts, edges };
}

/** The same texts, each by one way only. @throws GrammarError above `maxStates` */
export function deterministic(nfa: CharNfa, path: string, maxStates: number): CharNfa {
  const numbers = new Map<string, number>();
  const sets: (readonly number[])[] = [];
  const numberOf = (states: readonly number[]): number => {
    const key = states.join();
    let number = numbers.get(key);
    if (number === undefined) {
      if (sets.length >= maxStates) throw tooComplex(path);
      number = sets.push(states) - 1;
      numbers.set(key, number);
    }
    return number;
  };
  numberOf([0]);
  const accepts: boolean[] = [];
  const edges: { ranges: readonly CodeRange[]; to: number }[][] = [];
  let work = 0;
  for (const states of sets) {
    accepts.push(states.some((state) => nfa.accepts[state]));
    const out = states.flatMap((state) => nfa.edges[state]!);
    const starts = new Set(out.flatMap(({ ranges }) => ranges.flatMap(([from, to]) => [from, to + 1])));
    const borders = [...starts].sort((a, b) => a - b);
    const rangesTo = new Map<number, CodeRange[]>();
    for (const [i, from] of borders.slice(0, -1).entries()) {
      work += out.length;
      if (work > 50 * maxStates) throw tooComplex(path);
      const targets = out.filter(({ ranges }) => ranges.some(([low, high]) => low <= from && from <= high));
      if (targets.length === 0) continue;
      const to = numberOf([...new Set(targets.map((edge) => edge.to))].sort((a, b) => a - b));
      const ranges = rangesTo.get(to);
      const range: CodeRange = [from, borders[i + 1]! - 1];
      if (ranges === undefined) rangesTo.set(to, [range]);
      else ranges.push(range);
    }
    edges.push([...rangesTo].map(([to, ranges]) => ({ ranges: normalise(ranges), to })));
  }
  return { accepts, edges };
}

/** Texts that both take. @throws GrammarError above `maxStates` */
export function intersect(a: CharNfa, b: CharNfa, path: string, maxStates: number): CharNfa {
  const numberOf = new Map<number, number>([[0, 0]]);
  const pairs: [number, number][] = [[0, 0]];
  const accepts: boolean[] = [];
  const edges: { ranges: readonly CodeRange[]; to: number }[][] = [];
  let work = 0;
  for (const [x, y] of pairs) {
    accepts.push(a.accepts[x]! && b.accepts[y]!);
    const out: { ranges: readonly CodeRange[]; to: number }[] = [];
    for (const left of a.edges[x]!)
      for (const right of b.edges[y]!) {
        if (++work > 50 * maxStates) throw tooComplex(path);
        const ranges = intersectRanges(left.ranges, right.ranges);
        if (ranges.length === 0) continue;
        const key = left.to * b.edges.length + right.to;
        let number = numberOf.get(key);
        if (number === undefined) {
          if (pairs.length >= maxStates) throw tooComplex(path);
          number = pairs.push([left.to, right.to]) - 1;
          numberOf.set(key, number);
        }
        out.push({ ranges, to: number });
      }
    edges.push(out);
  }
  return { accepts, edges };
}

/** Decimal integers (a minus in front allowed) that `divisor` divides: the state is the remainder so far. */
export function multiplesOf(divisor: number): CharNfa {
  const digits = (remainder: number) =>
    Array.from({ length: 10 }, (_, digit) => ({
      ranges: [[0x30 + digit, 0x30 + digit]] as const,
      to: 1 + ((remainder * 10 + digit) % divisor),
    }));
  return {
    accepts: [false, ...Array.from({ length: divisor }, (_, remainder) => remainder === 0)],
    edges: [
      [{ ranges: [[0x2d, 0x2d]], to: 0 }, ...digits(0)],
      ...Array.from({ length: divisor }, (_, remainder) => digits(remainder)),
    ],
  };
}

/** Back to an expression that `grammar.ts` takes. */
export function exprOf({ accepts, edges }: CharNfa): Expr {
  const automaton: Automaton = {
    states: accepts.length,
    accepts: new Set(accepts.flatMap((is, state) => (is ? [state] : []))),
    edges: edges.flatMap((out, from) => out.map(({ ranges, to }) => ({ from, to, label: { kind: 'chars', ranges } }))),
  };
  return { kind: 'automaton', automaton };
}

function tooComplex(path: string): GrammarError {
  return new GrammarError(
    'invalid',
    path,
    'too complex: it needs too many states; use a simpler pattern or a smaller length',
  );
}
