/** One rule's expression as a non-deterministic automaton over bytes (Thompson's construction), then made deterministic. */
import { type Expr, GrammarError } from './expr.ts';
import { type ByteRange, utf8Sequences } from './utf8.ts';

interface ByteEdge {
  readonly low: number;
  readonly high: number;
  readonly to: number;
}

/** A rule as a deterministic automaton: per state disjoint byte edges, and rules that may be called, each with one return. */
export interface RuleDfa {
  readonly accepts: readonly boolean[];
  readonly edges: readonly (readonly ByteEdge[])[];
  readonly calls: readonly (readonly { readonly rule: string; readonly to: number }[])[];
}

/** Work that building one grammar may take, over all its rules. */
export class Budget {
  #states: number;
  #work: number;

  constructor(
    readonly path: string,
    states = 120_000,
    work = 1_500_000,
  ) {
    this.#states = states;
    this.#work = work;
  }

  state(): void {
    if (--this.#states < 0) throw this.#exhausted('states');
  }

  spend(work: number): void {
    this.#work -= work;
    if (this.#work < 0) throw this.#exhausted('steps');
  }

  #exhausted(what: string): GrammarError {
    return new GrammarError(
      'invalid',
      this.path,
      `too complex: building its automaton takes too many ${what}; use fewer alternatives, smaller counts or a simpler regex`,
    );
  }
}

class Nfa {
  readonly epsilon: number[][] = [];
  readonly bytes: ByteEdge[][] = [];
  readonly calls: { rule: string; to: number }[][] = [];
  readonly #budget: Budget;

  constructor(budget: Budget) {
    this.#budget = budget;
  }

  state(): number {
    this.#budget.state();
    this.epsilon.push([]);
    this.calls.push([]);
    return this.bytes.push([]) - 1;
  }

  /** Adds everything that leads from `from` to `to` by the expression. */
  build(expr: Expr, from: number, to: number): void {
    switch (expr.kind) {
      case 'text': {
        let at = from;
        for (const byte of new TextEncoder().encode(expr.text)) {
          const next = this.state();
          this.bytes[at]!.push({ low: byte, high: byte, to: next });
          at = next;
        }
        this.epsilon[at]!.push(to);
        return;
      }
      case 'chars':
        this.#characters(utf8Sequences(expr.ranges), from, to);
        return;
      case 'seq': {
        let at = from;
        for (const [i, item] of expr.items.entries()) {
          const next = i === expr.items.length - 1 ? to : this.state();
          this.build(item, at, next);
          at = next;
        }
        if (expr.items.length === 0) this.epsilon[from]!.push(to);
        return;
      }
      case 'alt':
        for (const item of expr.items) this.#apart(item, from, to);
        return;
      case 'repeat':
        this.#repeat(expr.item, expr.min, expr.max, from, to);
        return;
      case 'rule':
        this.calls[from]!.push({ rule: expr.rule, to });
        return;
      case 'automaton': {
        const { states, accepts, edges } = expr.automaton;
        const own = Array.from({ length: states }, () => this.state());
        this.epsilon[from]!.push(own[0]!);
        for (const edge of edges) this.#apart(edge.label, own[edge.from]!, own[edge.to]!);
        for (const accept of accepts) this.epsilon[own[accept]!]!.push(to);
        return;
      }
      default:
        expr satisfies never;
    }
  }

  /** Between states of its own, so that loops inside cannot leak into the neighbours. */
  #apart(expr: Expr, from: number, to: number): void {
    if (expr.kind === 'chars' || expr.kind === 'rule') {
      this.build(expr, from, to);
      return;
    }
    const start = this.state();
    const end = this.state();
    this.epsilon[from]!.push(start);
    this.build(expr, start, end);
    this.epsilon[end]!.push(to);
  }

  #repeat(item: Expr, min: number, max: number | null, from: number, to: number): void {
    let at = from;
    const once = () => {
      const next = this.state();
      this.#apart(item, at, next);
      at = next;
    };
    for (let n = 0; n < min; n++) once();
    if (max === null) {
      const loop = this.state();
      this.epsilon[at]!.push(loop);
      this.#apart(item, loop, loop);
      this.epsilon[loop]!.push(to);
      return;
    }
    for (let n = min; n < max; n++) {
      this.epsilon[at]!.push(to);
      once();
    }
    this.epsilon[at]!.push(to);
  }

  /** Ends that several sequences share (the continuation bytes) are built once. */
  #characters(sequences: readonly (readonly ByteRange[])[], from: number, to: number): void {
    const tails = new Map<string, number>();
    const tail = (rest: readonly ByteRange[]): number => {
      if (rest.length === 0) return to;
      const key = rest.join(' ');
      let state = tails.get(key);
      if (state === undefined) {
        state = this.state();
        tails.set(key, state);
        this.bytes[state]!.push({ low: rest[0]![0], high: rest[0]![1], to: tail(rest.slice(1)) });
      }
      return state;
    };
    for (const [first, ...rest] of sequences)
      this.bytes[from]!.push({ low: first![0], high: first![1], to: tail(rest) });
  }
}

/** Automata of expressions that outlive a grammar: those of JSON itself, which every schema uses. */
const built = new WeakMap<Expr, RuleDfa>();

/** @throws GrammarError when the budget is spent */
export function ruleDfa(expr: Expr, budget: Budget): RuleDfa {
  let dfa = built.get(expr);
  if (dfa === undefined) {
    dfa = determinise(expr, budget);
    built.set(expr, dfa);
  }
  return dfa;
}

function determinise(expr: Expr, budget: Budget): RuleDfa {
  const nfa = new Nfa(budget);
  const start = nfa.state();
  const accept = nfa.state();
  nfa.build(expr, start, accept);

  const numbers = new Map<string, number>();
  const sets: (readonly number[])[] = [];
  /** Number of the state that stands for these and what they reach without a byte. */
  const numberOf = (states: readonly number[]): number => {
    const [only] = states;
    if (states.length === 1) {
      alone[only!] ??= numberOfSet(states);
      return alone[only!]!;
    }
    return numberOfSet(states);
  };
  const alone: (number | undefined)[] = [];
  const numberOfSet = (states: readonly number[]): number => {
    const seen = new Set(states);
    for (const one of seen) for (const next of nfa.epsilon[one]!) seen.add(next);
    budget.spend(seen.size);
    // Only states that do something tell sets apart.
    const kept = [...seen]
      .filter((one) => one === accept || nfa.bytes[one]!.length > 0 || nfa.calls[one]!.length > 0)
      .sort((a, b) => a - b);
    const key = kept.join();
    let number = numbers.get(key);
    if (number === undefined) {
      budget.state();
      number = sets.push(kept) - 1;
      numbers.set(key, number);
    }
    return number;
  };
  numberOf([start]);
  const accepts: boolean[] = [];
  const edges: ByteEdge[][] = [];
  const calls: { rule: string; to: number }[][] = [];
  for (const states of sets) {
    accepts.push(states.includes(accept));
    const out = states.flatMap((one) => nfa.bytes[one]!);
    budget.spend(out.length);
    edges.push(byteEdges(out, numberOf, budget));
    const returns = new Map<string, Set<number>>();
    for (const one of states)
      for (const { rule, to } of nfa.calls[one]!) {
        const tos = returns.get(rule);
        if (tos === undefined) returns.set(rule, new Set([to]));
        else tos.add(to);
      }
    calls.push([...returns].map(([rule, tos]) => ({ rule, to: numberOf([...tos]) })));
  }
  return { accepts, edges, calls };
}

/** Overlapping edges cut into disjoint ones, neighbours to the same state joined. */
function byteEdges(
  out: readonly ByteEdge[],
  numberOf: (states: readonly number[]) => number,
  budget: Budget,
): ByteEdge[] {
  if (out.length === 1) {
    const [{ low, high, to }] = out as [ByteEdge];
    return [{ low, high, to: numberOf([to]) }];
  }
  const borders = [...new Set(out.flatMap(({ low, high }) => [low, high + 1]))].sort((a, b) => a - b);
  if (borders.length === 0) return [];
  const sorted = [...out].sort((a, b) => a.low - b.low);
  const edges: ByteEdge[] = [];
  let active: ByteEdge[] = [];
  let next = 0;
  for (const [i, low] of borders.slice(0, -1).entries()) {
    active = active.filter(({ high }) => high >= low);
    for (; next < sorted.length && sorted[next]!.low <= low; next++) active.push(sorted[next]!);
    if (active.length === 0) continue;
    budget.spend(active.length);
    const [first] = active;
    const to = numberOf(active.length === 1 ? [first!.to] : [...new Set(active.map((edge) => edge.to))]);
    const high = borders[i + 1]! - 1;
    const last = edges.at(-1);
    if (last !== undefined && last.to === to && last.high + 1 === low) edges[edges.length - 1] = { ...last, high };
    else edges.push({ low, high, to });
  }
  return edges;
}
