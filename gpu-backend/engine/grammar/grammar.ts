/**
 * Rules → one automaton over bytes with a stack: states with byte edges, and calls of rules that return. Plain numbers in shared
 * memory, so that it crosses to the engine thread without being copied.
 */
import { type Expr, GrammarError } from './expr.ts';
import { Budget, type RuleDfa, ruleDfa } from './rule-nfa.ts';

export interface Grammar {
  /** Where an answer starts. */
  readonly root: number;
  /** Edges of state s are those from edgeStart[s] to edgeStart[s+1]-1, disjoint, ascending. */
  readonly edgeStart: Int32Array;
  readonly edgeLow: Uint8Array;
  readonly edgeHigh: Uint8Array;
  readonly edgeTo: Int32Array;
  /** Calls of state s: callStart[s] … ; callRule is the called rule's first state, callReturn where it goes on afterwards. */
  readonly callStart: Int32Array;
  readonly callRule: Int32Array;
  readonly callReturn: Int32Array;
  /** 1 where the state's rule may end. */
  readonly accepts: Uint8Array;
  /** Least number of one-byte tokens to an end of the state's own rule; -1 = there is no way. */
  readonly distance: Int32Array;
  /** Byte → its class: bytes of one class behave alike in every state. */
  readonly classOf: Uint8Array;
  readonly classes: number;
}

/**
 * @param hasByte which bytes the model can write by themselves (256 entries)
 * @param path names the constraint in messages
 * @throws GrammarError when it is too complex, or when nothing the model can write fits
 */
export function buildGrammar(
  rules: ReadonlyMap<string, Expr>,
  root: string,
  hasByte: readonly boolean[],
  path: string,
): Grammar {
  const budget = new Budget(path);
  const dfas = new Map<string, RuleDfa>();
  const needed = [root];
  for (const name of needed) {
    if (dfas.has(name)) continue;
    const expr = rules.get(name);
    if (expr === undefined) throw new Error(`internal: no rule ${name}`);
    const dfa = ruleDfa(expr, budget);
    dfas.set(name, dfa);
    for (const calls of dfa.calls) for (const { rule } of calls) needed.push(rule);
  }
  const first = new Map<string, number>();
  let states = 0;
  for (const [name, dfa] of dfas) {
    first.set(name, states);
    states += dfa.accepts.length;
  }
  const all = [...dfas.values()];
  const edgeCount = all.reduce((sum, { edges }) => sum + edges.reduce((n, out) => n + out.length, 0), 0);
  const callCount = all.reduce((sum, { calls }) => sum + calls.reduce((n, out) => n + out.length, 0), 0);
  const grammar = {
    root: first.get(root)!,
    edgeStart: sharedInts(states + 1),
    edgeLow: sharedBytes(edgeCount),
    edgeHigh: sharedBytes(edgeCount),
    edgeTo: sharedInts(edgeCount),
    callStart: sharedInts(states + 1),
    callRule: sharedInts(callCount),
    callReturn: sharedInts(callCount),
    accepts: sharedBytes(states),
    distance: sharedInts(states),
  };
  let [edge, call, state] = [0, 0, 0];
  const borders = new Set<number>([0, 0x20, 0x21]); // the space is a class of its own: see the matcher's start
  for (const [name, dfa] of dfas) {
    const base = first.get(name)!;
    for (const [own, accepts] of dfa.accepts.entries()) {
      grammar.accepts[state] = accepts ? 1 : 0;
      for (const { low, high, to } of dfa.edges[own]!) {
        grammar.edgeLow[edge] = low;
        grammar.edgeHigh[edge] = high;
        grammar.edgeTo[edge++] = base + to;
        borders.add(low).add(high + 1);
      }
      for (const { rule, to } of dfa.calls[own]!) {
        grammar.callRule[call] = first.get(rule)!;
        grammar.callReturn[call++] = base + to;
      }
      state++;
      grammar.edgeStart[state] = edge;
      grammar.callStart[state] = call;
    }
  }
  const classOf = sharedBytes(256);
  let classes = -1;
  for (let byte = 0; byte < 256; byte++) {
    if (borders.has(byte)) classes++;
    classOf[byte] = classes;
  }
  const built = { ...grammar, classOf, classes: classes + 1 };
  measure(built, states, hasByte);
  if (built.distance[built.root]! < 0)
    throw new GrammarError('invalid', path, 'no finite text that this model can write fits it');
  return built;
}

function sharedInts(length: number): Int32Array {
  return new Int32Array(new SharedArrayBuffer(4 * length));
}

function sharedBytes(length: number): Uint8Array {
  return new Uint8Array(new SharedArrayBuffer(length));
}

/** Fills `distance`: shortest ways to the end, through rules whose own shortest way is found on the go (Knuth's generalisation of Dijkstra). */
function measure(
  grammar: Omit<Grammar, 'distance'> & { distance: Int32Array },
  states: number,
  hasByte: readonly boolean[],
): void {
  const { edgeStart, edgeLow, edgeHigh, edgeTo, callStart, callRule, callReturn, accepts, distance } = grammar;
  const writable = Array.from({ length: 257 }, () => 0);
  for (let byte = 0; byte < 256; byte++) writable[byte + 1] = writable[byte]! + (hasByte[byte] ? 1 : 0);
  // Who may get nearer when a state does: sources of its edges, calls that return to it, calls of the rule that it starts.
  const waiting: number[][] = Array.from({ length: states }, () => []);
  for (let state = 0; state < states; state++) {
    for (let e = edgeStart[state]!; e < edgeStart[state + 1]!; e++)
      if (writable[edgeHigh[e]! + 1]! > writable[edgeLow[e]!]!) waiting[edgeTo[e]!]!.push(state);
    for (let c = callStart[state]!; c < callStart[state + 1]!; c++) {
      waiting[callReturn[c]!]!.push(state);
      waiting[callRule[c]!]!.push(state);
    }
  }
  distance.fill(-1);
  const buckets: number[][] = [[]];
  for (let state = 0; state < states; state++) if (accepts[state] === 1) buckets[0]!.push(state);
  const settled = new Uint8Array(states);
  const offer = (state: number, value: number) => {
    if (settled[state] === 1) return;
    while (buckets.length <= value) buckets.push([]);
    buckets[value]!.push(state);
  };
  for (let value = 0; value < buckets.length; value++) {
    const bucket = buckets[value]!;
    for (const state of bucket) {
      if (settled[state] === 1) continue;
      settled[state] = 1;
      distance[state] = value;
      for (const source of waiting[state]!) {
        if (settled[source] === 1) continue;
        for (let e = edgeStart[source]!; e < edgeStart[source + 1]!; e++)
          if (edgeTo[e] === state && writable[edgeHigh[e]! + 1]! > writable[edgeLow[e]!]!) offer(source, value + 1);
        for (let c = callStart[source]!; c < callStart[source + 1]!; c++) {
          const inner = callRule[c]!;
          const after = callReturn[c]!;
          if (settled[inner] === 1 && settled[after] === 1) offer(source, distance[inner]! + distance[after]!);
        }
      }
    }
  }
}
