/** A file's examples that the mixture may take, by their numbers in the store. */
export interface Candidates {
  readonly records: Uint32Array;
  readonly maxSize?: number | undefined;
  readonly shuffle?: boolean | undefined;
  readonly seed?: number | undefined;
}

export interface Mixture {
  /** Numbers in the store, subset after subset. */
  readonly order: Uint32Array;
  /** Entries of each subset. */
  readonly entries: readonly number[];
}

const DEFAULT_SEED = 42;

/**
 * Which examples are trained on, from the sizes and seeds alone. `max_size` cuts a subset after shuffling. With balancing, subset i of n_i examples gets
 * total × min(1.1·√nᵢ / Σ√n, 1) entries, rounded down but at least one, and wraps modulo nᵢ (mantis/train/data.py). A subset of which everything is
 * taken once keeps its file's order: the trainer shuffles anyway.
 */
export function mix(subsets: readonly Candidates[], balancing: boolean): Mixture {
  const sizes = subsets.map(({ records, maxSize }) => Math.min(records.length, maxSize ?? records.length));
  const total = sizes.reduce((sum, n) => sum + n, 0);
  const roots = sizes.reduce((sum, n) => sum + Math.sqrt(n), 0);
  const entries = sizes.map((n) => {
    if (!balancing || n === 0) return n;
    return Math.max(1, Math.floor(total * Math.min((1.1 * Math.sqrt(n)) / roots, 1)));
  });
  const order = new Uint32Array(entries.reduce((sum, n) => sum + n, 0));
  let at = 0;
  for (const [i, { records, shuffle, seed }] of subsets.entries()) {
    const size = sizes[i] ?? 0;
    const count = entries[i] ?? 0;
    const isCut = size < records.length || count !== size;
    const own = isCut && shuffle !== false ? shuffled(records, seed ?? DEFAULT_SEED) : records;
    for (let k = 0; k < count; k++) order[at++] = own[k % size] ?? 0;
  }
  return { order, entries };
}

/** Fisher–Yates by a generator of 32 bits (mulberry32): the same on every machine. */
export function shuffled(records: Uint32Array, seed: number): Uint32Array {
  const out = records.slice();
  let state = seed >>> 0;
  for (let i = out.length - 1; i > 0; i--) {
    state = (state + 0x6d2b79f5) >>> 0;
    let t = Math.imul(state ^ (state >>> 15), state | 1);
    t ^= t + Math.imul(t ^ (t >>> 7), t | 61);
    const random = ((t ^ (t >>> 14)) >>> 0) / 2 ** 32;
    const j = Math.floor(random * (i + 1));
    const held = out[i] ?? 0;
    out[i] = out[j] ?? 0;
    out[j] = held;
  }
  return out;
}
