import { f32, ints, Session, type Tensor } from '../runtime/session.ts';
import type { VlmConfig } from './config.ts';
import { decodeGraph, hasPastWindow } from './decode.ts';
import { MASKED } from './llama.ts';
import { weightFeeds } from './verify-case.ts';
import { causalBias } from './vlm.ts';

/** New tokens of one sequence; feature rows [F, hidden] stand at `imageRows`, counted from the first of these tokens. */
export interface DecodeStep {
  readonly ids: readonly number[];
  readonly imageRows: readonly number[];
  readonly features: Float32Array;
}

/** One sequence through the cached decode graph, step by step, as the engine runs it but without batching. */
export class CachedDecoder {
  // One masked column stands for the empty past: a graph over zero past positions is not portable.
  private past = 1;
  private cache = new Map<string, Float32Array>();

  private constructor(
    private readonly config: VlmConfig,
    private readonly session: Session,
    private readonly fixed: Record<string, Tensor>,
  ) {
    const { layers, kvHeads, headDim } = config.text;
    for (let i = 0; i < layers; i++)
      for (const kind of ['k', 'v']) this.cache.set(`${kind}_${i}`, new Float32Array(kvHeads * headDim));
  }

  static async create(config: VlmConfig, weights: ReadonlyMap<string, Tensor>): Promise<CachedDecoder> {
    const model = decodeGraph(config, { images: true });
    return new CachedDecoder(config, await Session.create(model.graph), weightFeeds(model.weights, weights));
  }

  /** Logits [ids, vocab] of the new tokens. */
  async step({ ids, imageRows, features }: DecodeStep): Promise<Float32Array> {
    const { kvHeads, headDim, hidden, slidingWindow } = this.config.text;
    const { past } = this;
    const length = ids.length;
    const start = past - 1;
    const pastBias = new Float32Array(past);
    pastBias[0] = MASKED;
    const range = Array.from({ length }, (_, i) => i);
    const feeds: Record<string, Tensor> = {
      ids: ints(ids, [1, length]),
      positions: ints(
        range.map((i) => start + i),
        [1, length],
      ),
      causal_bias: f32(causalBias(length, 1, slidingWindow), [length, length]),
      past_bias: f32(pastBias, [1, 1, 1, past]),
      image_features: f32(features, [imageRows.length, hidden]),
      image_rows: ints(imageRows, [imageRows.length]),
      rows: ints(range, [length]),
    };
    if (hasPastWindow(this.config))
      feeds.past_positions = ints(
        Array.from({ length: past }, (_, i) => Math.max(i - 1, 0)),
        [1, past],
      );
    for (const [key, data] of this.cache) feeds[`past_${key}`] = f32(data, [1, kvHeads, past, headDim]);
    const results = await this.session.run({ ...this.fixed, ...feeds });
    for (const [key, data] of this.cache)
      this.cache.set(key, joinHeads(data, floats(results, `new_${key}`), kvHeads, headDim));
    this.past += length;
    return floats(results, 'logits');
  }

  async release(): Promise<void> {
    await this.session.release();
  }
}

/** [heads, T, D] and [heads, S, D] → [heads, T+S, D]. */
function joinHeads(past: Float32Array, fresh: Float32Array, heads: number, headDim: number): Float32Array {
  const [a, b] = [past.length / heads, fresh.length / heads];
  const joined = new Float32Array(past.length + fresh.length);
  for (let head = 0; head < heads; head++) {
    joined.set(past.subarray(head * a, (head + 1) * a), head * (a + b));
    joined.set(fresh.subarray(head * b, (head + 1) * b), head * (a + b) + a);
  }
  if (joined.length % headDim !== 0) throw new Error(`cache of ${joined.length} values is no multiple of ${headDim}`);
  return joined;
}

export function floats(results: Readonly<Record<string, Tensor>>, name: string): Float32Array {
  const data = results[name]?.data;
  if (!(data instanceof Float32Array)) throw new Error(`the graph gave no f32 output "${name}"`);
  return data;
}
