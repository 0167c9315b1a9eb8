/**
 * Runs a grammar over tokens. A place in the grammar is a set of configurations, each a state and the stack of places to return
 * to; places and their transitions are made when first met and kept (a lazily determinised pushdown automaton), so a place met
 * again costs nothing.
 *
 * Token masks are put together from two parts. What a token does inside the rule on top of the stack is the same whatever lies
 * below: it is computed once per state, for the whole vocabulary. Only tokens that leave that rule (the trie nodes where they do
 * are listed) are followed further with the real stack.
 */
import type { Grammar } from './grammar.ts';
import { type Configuration, Frame, Place } from './place.ts';
import { maskOf, maskOfIds, type TokenMask } from './token-mask.ts';
import type { TokenTrie } from './token-trie.ts';

/** Tokens that stay within one rule, and the trie nodes at which tokens leave it. */
interface LocalTokens {
  readonly bits: Uint32Array;
  readonly exits: readonly number[];
}

const MAX_PLACES = 4096;
/** What is tried to list the tokens of a place: first bytes, and trie nodes below them. */
const MAX_FIRST_BYTES = 24;
const MAX_NODES = 1024;
/** Of masks kept with places, and again of those kept by state. */
const MAX_MASK_BYTES = 4 * 2 ** 20;
/**
 * Configurations of one place. More come only from schemas that are ambiguous on purpose; the ones nearest to an end are kept then:
 * what they allow still fits.
 */
const MAX_CONFIGURATIONS = 48;
/** Configurations met on the way to a place's own; a bound that only a defect can reach. */
const MAX_REACHED = 50_000;

export class GrammarMatcher {
  readonly #grammar: Grammar;
  readonly #trie: TokenTrie;
  readonly #places = new Map<string, Place>();
  /** Places of one configuration with nothing behind it, by `#keyOf`. */
  readonly #single = new Map<number, Place>();
  readonly #local = new Map<number, LocalTokens>();
  readonly #path: (Place | null)[];
  #frames = 0;
  #maskBytes = 0;
  #bottom!: Frame;
  #exit!: Frame;
  readonly #skipsFirstSpace: boolean;
  #start!: Place;

  /** @param skipsFirstSpace the tokenizer takes one space off the front of a text, so one may come before the answer */
  constructor(grammar: Grammar, trie: TokenTrie, skipsFirstSpace: boolean) {
    this.#grammar = grammar;
    this.#trie = trie;
    this.#path = Array.from({ length: trie.maxDepth + 1 }, () => null);
    this.#skipsFirstSpace = skipsFirstSpace;
    this.#forget();
  }

  /** Where answers start. */
  get start(): Place {
    return this.#start;
  }

  /** Tokens that may follow, without the ones that end the answer. Kept with the place: read only. */
  mask(place: Place): TokenMask {
    place.mask ??= this.#computeMask(place);
    return place.mask;
  }

  /** The same where few tokens fit and they are soon found, as within a literal; else `null`. */
  quickMask(place: Place): TokenMask | null {
    if (place.mask === null && !place.hasMany) {
      this.#bound();
      place.mask = this.#listed(place);
      place.hasMany = place.mask === null;
    }
    return place.mask;
  }

  /** Those tokens only after which the answer is complete, or an end is at most `budget` one-byte tokens away. */
  maskWithin(place: Place, budget: number): TokenMask {
    const bits = this.#emptyBits();
    this.#walk(place, 0, bits, (next) => next.isComplete || next.distance <= budget);
    return maskOf(bits);
  }

  /** The place after a token; `null` when the token does not fit, or no end can be reached from there. */
  after(place: Place, bytes: Uint8Array): Place | null {
    this.#bound();
    let at: Place | null = place;
    for (const byte of bytes) {
      at = this.#step(at, byte);
      if (at === null) return null;
    }
    return isAlive(at) ? at : null;
  }

  #computeMask(place: Place): TokenMask {
    this.#bound();
    const bits = this.#emptyBits();
    this.#maskBytes += bits.byteLength;
    // The start of a tokenizer that skips a space has a transition of its own, which configurations do not show.
    if (place.skipsSpace) this.#walk(place, 0, bits, isAlive);
    else
      for (const { state, stack } of place.configurations) {
        const local = this.#localTokens(state);
        for (let word = 0; word < bits.length; word++) bits[word]! |= local.bits[word]!;
        if (local.exits.length === 0) continue;
        const below = stack.below === null ? null : this.#place([{ state: stack.state, stack: stack.below }]);
        for (const node of local.exits) {
          if (stack.below === null || (below !== null && isAlive(below))) this.#allow(node, bits);
          if (below !== null) this.#walk(below, node, bits, isAlive);
        }
      }
    return maskOf(bits);
  }

  /** Goes from the bytes that may come first rather than through the whole vocabulary. */
  #listed(place: Place): TokenMask | null {
    const { edgeStart, edgeLow, edgeHigh } = this.#grammar;
    const { firstByte, byte, depth, end, token, sibling } = this.#trie;
    const bytes: number[] = [];
    for (const { state } of place.configurations)
      for (let e = edgeStart[state]!; e < edgeStart[state + 1]!; e++) {
        if (edgeHigh[e]! - edgeLow[e]! >= MAX_FIRST_BYTES) return null;
        for (let one = edgeLow[e]!; one <= edgeHigh[e]!; one++) if (!bytes.includes(one)) bytes.push(one);
        if (bytes.length > MAX_FIRST_BYTES) return null;
      }
    if (place.skipsSpace && !bytes.includes(0x20)) bytes.push(0x20);
    const path = this.#path;
    path[0] = place;
    const found: number[] = [];
    let nodes = 0;
    for (const one of bytes) {
      const first = firstByte[one]!;
      if (first < 0) continue;
      for (let at = first; at < end[first]!; ) {
        if (++nodes > MAX_NODES) return null;
        const level = depth[at]!;
        const from = path[level - 1]!;
        const to = this.#step(from, byte[at]!);
        if (to === null) {
          at = end[at]!;
          continue;
        }
        if (token[at] !== -1 && isAlive(to)) for (let id = token[at]!; id !== -1; id = sibling[id]!) found.push(id);
        path[level] = to;
        at++;
      }
    }
    this.#maskBytes += 4 * found.length;
    return maskOfIds(found);
  }

  #localTokens(state: number): LocalTokens {
    let local = this.#local.get(state);
    if (local === undefined) {
      const bits = this.#emptyBits();
      if (this.#local.size * bits.byteLength > MAX_MASK_BYTES) this.#local.clear();
      const exits: number[] = [];
      const start = this.#place([{ state, stack: this.#exit }])!;
      this.#walk(start, 0, bits, continues, exits);
      local = { bits, exits };
      this.#local.set(state, local);
    }
    return local;
  }

  /** Follows every token below `node` from `place`, and sets the bits of those after which `fits` holds. */
  #walk(place: Place, node: number, bits: Uint32Array, fits: (place: Place) => boolean, exits?: number[]): void {
    const { byte, depth, end, token } = this.#trie;
    const path = this.#path;
    const last = end[node]!;
    path[depth[node]!] = place;
    for (let at = node + 1; at < last; ) {
      const level = depth[at]!;
      const from = path[level - 1]!;
      const to = this.#step(from, byte[at]!);
      if (to === null) {
        at = end[at]!;
        continue;
      }
      if (exits !== undefined && to.exits) exits.push(at);
      if (token[at] !== -1 && fits(to)) this.#allow(at, bits);
      path[level] = to;
      at++;
    }
  }

  #allow(node: number, bits: Uint32Array): void {
    const { token, sibling } = this.#trie;
    for (let id = token[node]!; id !== -1; id = sibling[id]!) bits[id >>> 5]! |= 1 << (id & 31);
  }

  #emptyBits(): Uint32Array {
    return new Uint32Array((this.#trie.vocabulary + 31) >>> 5);
  }

  #step(from: Place, byte: number): Place | null {
    if (byte < from.low || byte > from.high) return null;
    const index = this.#grammar.classOf[byte]! - from.firstClass;
    const known = from.next[index];
    return known === undefined ? this.#transition(from, index, byte) : known;
  }

  #transition(from: Place, index: number, byte: number): Place | null {
    const { edgeStart, edgeLow, edgeHigh, edgeTo } = this.#grammar;
    const targets: Configuration[] = [];
    for (const { state, stack } of from.configurations) {
      let e = edgeStart[state]!;
      const last = edgeStart[state + 1]!;
      while (e < last && edgeHigh[e]! < byte) e++; // disjoint, ascending
      if (e < last && edgeLow[e]! <= byte) targets.push({ state: edgeTo[e]!, stack });
    }
    const to = targets.length === 0 ? null : this.#place(this.#nearest(targets));
    from.next[index] = to;
    return to;
  }

  /** The place of these configurations and all they reach by calls and returns; `null` when none can take a byte or end. */
  #place(from: readonly Configuration[]): Place | null {
    const { callStart, accepts, edgeStart, distance } = this.#grammar;
    const [only] = from;
    if (from.length === 1 && accepts[only!.state] === 0) {
      const { state, stack } = only!;
      if (callStart[state + 1]! === callStart[state]! && edgeStart[state + 1]! > edgeStart[state]!) {
        // Nothing to look up behind it, as within a literal or a string: most places are like this.
        const key = this.#keyOf(state, stack);
        let place = this.#single.get(key);
        if (place === undefined) {
          const isLive = distance[state]! >= 0;
          const nearest = isLive ? distance[state]! + stack.distance : Number.POSITIVE_INFINITY;
          place = this.#made([only!], false, false, nearest, isLive);
          this.#single.set(key, place);
        }
        return place;
      }
    }
    return this.#closure(from);
  }

  #made(
    configurations: readonly Configuration[],
    canEnd: boolean,
    exits: boolean,
    distance: number,
    continues: boolean,
  ): Place {
    const { edgeStart, edgeLow, edgeHigh, classOf } = this.#grammar;
    let [low, high] = [255, 0];
    for (const { state } of configurations) {
      const [first, end] = [edgeStart[state]!, edgeStart[state + 1]!]; // ascending
      if (edgeLow[first]! < low) low = edgeLow[first]!;
      if (edgeHigh[end - 1]! > high) high = edgeHigh[end - 1]!;
    }
    return new Place(configurations, canEnd, exits, distance, continues, low, high, classOf[low]!);
  }

  #closure(from: readonly Configuration[]): Place | null {
    const { edgeStart, callStart, callRule, callReturn, accepts, distance } = this.#grammar;
    const seen = new Set<number>();
    const reached: Configuration[] = [...from];
    const kept: Configuration[] = [];
    let [canEnd, exits, isOpen, nearest] = [false, false, false, Number.POSITIVE_INFINITY];
    for (let next = 0; next < reached.length; next++) {
      const { state, stack } = reached[next]!;
      const key = this.#keyOf(state, stack);
      if (seen.has(key)) continue;
      seen.add(key);
      if (seen.size > MAX_REACHED) throw new Error('internal: a place of the constraint has too many configurations');
      const isLive = distance[state]! >= 0;
      if (isLive) nearest = Math.min(nearest, distance[state]! + stack.distance);
      if (edgeStart[state + 1]! > edgeStart[state]!) {
        kept.push(reached[next]!);
        isOpen ||= isLive;
      }
      if (accepts[state] === 1) {
        if (stack === this.#exit) exits = true;
        else if (stack.below === null) canEnd = true;
        else reached.push({ state: stack.state, stack: stack.below });
      }
      for (let c = callStart[state]!; c < callStart[state + 1]!; c++) {
        const after = distance[callReturn[c]!]!;
        if (after < 0 || distance[callRule[c]!]! < 0) continue; // no way to an end leads through it
        reached.push({ state: callRule[c]!, stack: stack.push(callReturn[c]!, after, this.#nextFrame) });
      }
    }
    if (kept.length === 0 && !canEnd && !exits) return null;
    const near = this.#nearest(kept);
    const keys = near.map(({ state, stack }) => this.#keyOf(state, stack)).sort((a, b) => a - b);
    const key = `${canEnd ? '.' : ''}${exits ? '^' : ''}${keys.join()}`;
    let place = this.#places.get(key);
    if (place === undefined) {
      place = this.#made(near, canEnd, exits, nearest, isOpen);
      this.#places.set(key, place);
    }
    return place;
  }

  #keyOf(state: number, stack: Frame): number {
    return stack.id * this.#grammar.accepts.length + state;
  }

  #nearest<C extends Configuration>(configurations: C[]): C[] {
    if (configurations.length <= MAX_CONFIGURATIONS) return configurations;
    const { distance } = this.#grammar;
    const length = ({ state, stack }: Configuration) =>
      distance[state]! < 0 ? Number.POSITIVE_INFINITY : distance[state]! + stack.distance;
    return configurations.sort((a, b) => length(a) - length(b) || a.stack.id - b.stack.id).slice(0, MAX_CONFIGURATIONS);
  }

  readonly #nextFrame = (): number => this.#frames++;

  #bound(): void {
    if (this.#places.size + this.#single.size > MAX_PLACES || this.#maskBytes > MAX_MASK_BYTES) this.#forget();
  }

  /** Bounds memory: places in use by running answers stay valid, they are only no longer shared. */
  #forget(): void {
    this.#places.clear();
    this.#single.clear();
    this.#maskBytes = 0;
    this.#bottom = new Frame(-1, null, 0, this.#frames++);
    this.#exit = new Frame(-1, null, 0, this.#frames++);
    const root = this.#place([{ state: this.#grammar.root, stack: this.#bottom }])!;
    this.#start = this.#skipsFirstSpace ? withOptionalSpace(root, this.#grammar) : root;
  }
}

function isAlive(place: Place): boolean {
  return place.distance !== Number.POSITIVE_INFINITY;
}

function continues(place: Place): boolean {
  return place.continues;
}

/** The same place, from which a space also leads to itself without the space. No grammar shares the space's class with other bytes. */
function withOptionalSpace(root: Place, { classOf }: Grammar): Place {
  const { configurations, canEnd, exits, distance, continues } = root;
  const [low, high] = [Math.min(root.low, 0x20), Math.max(root.high, 0x20)];
  const first = classOf[low]!;
  const start = new Place(configurations, canEnd, exits, distance, continues, low, high, first, true);
  start.next[classOf[0x20]! - first] = root;
  return start;
}
