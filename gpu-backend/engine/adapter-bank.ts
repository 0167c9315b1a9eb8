import type { Adapter } from '../models/adapter.ts';
import { f32, type Tensor } from '../runtime/session.ts';

/** The adapters of one batch, side by side: what a decoder graph with `adapterTargets` is fed. */
export interface BatchAdapters {
  /** Last parts of the names of the modules that any of them adapts. */
  readonly targets: readonly string[];
  /** Sum of their ranks. */
  readonly ranks: number;
  /** A [ranks, in] and B [out, ranks] of every adapted module; zeros where an adapter leaves a module alone. */
  readonly weights: ReadonlyMap<string, Tensor>;
  /** Ranks `first` … `first + count - 1` are an adapter's own; `scale` = alpha / r. */
  readonly places: ReadonlyMap<string, { readonly first: number; readonly count: number; readonly scale: number }>;
}

/** Combinations kept; each holds a copy of its adapters' tensors. */
const MAX_COMBINATIONS = 8;

/** The adapters that are loaded on one base model. */
export class AdapterBank {
  readonly #adapters = new Map<string, Adapter>();
  readonly #combinations = new Map<string, BatchAdapters>();

  /** @throws Error for DoRA adapters: their rows are scaled as a whole, so they are folded into a copy of the weights */
  add(id: string, adapter: Adapter): void {
    if (adapter.lora.dora === true) throw new Error('internal: a DoRA adapter cannot share a batch');
    this.#adapters.set(id, adapter);
  }

  has(id: string): boolean {
    return this.#adapters.has(id);
  }

  remove(id: string): void {
    this.#adapters.delete(id);
    for (const [key, { places }] of this.#combinations) if (places.has(id)) this.#combinations.delete(key);
  }

  /**
   * What the rows of a batch need; `null` where all of them are the base model's.
   * @throws Error naming an adapter that is not loaded
   */
  forRows(rows: readonly (string | null)[]): BatchAdapters | null {
    const ids = [...new Set(rows.filter((id) => id !== null))].sort();
    if (ids.length === 0) return null;
    const key = JSON.stringify(ids);
    const known = this.#combinations.get(key);
    if (known !== undefined) return known;
    const made = combine(
      ids.map((id) => {
        const adapter = this.#adapters.get(id);
        if (adapter === undefined) throw new Error(`the adapter ${id} is not loaded`);
        return { id, adapter };
      }),
    );
    const oldest = this.#combinations.keys().next();
    if (this.#combinations.size >= MAX_COMBINATIONS && oldest.done !== true) this.#combinations.delete(oldest.value);
    this.#combinations.set(key, made);
    return made;
  }
}

const A_SUFFIX = '.lora_A.weight';
const B_SUFFIX = '.lora_B.weight';

function combine(adapters: readonly { readonly id: string; readonly adapter: Adapter }[]): BatchAdapters {
  const targets = [...new Set(adapters.flatMap(({ adapter }) => adapter.lora.targets))].sort();
  const places = new Map<string, { first: number; count: number; scale: number }>();
  let ranks = 0;
  for (const { id, adapter } of adapters) {
    const { r, alpha } = adapter.lora;
    places.set(id, { first: ranks, count: r, scale: alpha / r });
    ranks += r;
  }
  const weights = new Map<string, Tensor>();
  const room = (name: string, shape: readonly [number, number]): Float32Array => {
    const known = weights.get(name);
    if (known !== undefined) return known.data as Float32Array;
    const data = new Float32Array(shape[0] * shape[1]);
    weights.set(name, f32(data, shape));
    return data;
  };
  for (const { id, adapter } of adapters) {
    const { first, count } = places.get(id)!;
    for (const [name, { data, shape }] of adapter.weights) {
      // The projector's own adapters belong to the vision graph.
      if (!name.startsWith('language_model.')) continue;
      const values = data as Float32Array;
      if (name.endsWith(A_SUFFIX)) {
        const width = shape[1]!;
        room(name, [ranks, width]).set(values, first * width);
      } else if (name.endsWith(B_SUFFIX)) {
        const out = shape[0]!;
        const target = room(name, [out, ranks]);
        for (let o = 0; o < out; o++) target.set(values.subarray(o * count, (o + 1) * count), o * ranks + first);
      }
    }
  }
  return { targets, ranks, weights, places };
}
