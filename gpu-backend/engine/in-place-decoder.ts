import type { VlmConfig } from '../models/config.ts';
import type { BoundRun } from '../runtime/bound-run.ts';
import { f32, i64, type Session } from '../runtime/session.ts';
import type { KvLayerView } from './kv/arena.ts';
import type { ForwardBatch, ForwardResult } from './runner.ts';

interface BoundRows {
  readonly ids: BigInt64Array;
  readonly lengths: BigInt64Array;
  readonly logits: Float32Array;
}

/**
 * Single tokens over an f32 cache that the run itself extends (models/decode-in-place.ts): outputs are bound to the memory of the
 * inputs, so nothing is copied and nothing needs to be appended.
 */
export class InPlaceDecoder {
  readonly #session: Session;
  readonly #config: VlmConfig;
  readonly #run: BoundRun;
  #past: readonly KvLayerView[] | null = null;
  /** Of the last number of rows; new values are written into their memory. */
  #bound: BoundRows | null = null;

  /** @param session of an inPlaceGraph, with the native binding: only that one writes where it is told to */
  constructor(session: Session, config: VlmConfig) {
    this.#session = session;
    this.#config = config;
    this.#run = session.bind();
  }

  async forward({ rows: B, pastTokens: T, ids_BS, positions_BS, past }: ForwardBatch): Promise<ForwardResult> {
    const { kvHeads, headDim } = this.#config.text;
    const bound = this.#bound?.ids.length === B ? this.#bound : this.#bindRows(B);
    for (let row = 0; row < B; row++) {
      bound.ids[row] = BigInt(ids_BS[row]!);
      // Rows have no holes: the position of the new token is the number of those before it.
      bound.lengths[row] = BigInt(positions_BS[row]!);
    }
    if (this.#past !== past) {
      const shape = [B, kvHeads, T, headDim];
      for (const [layer, { k, v }] of past.entries())
        for (const [kind, data] of Object.entries({ k, v })) {
          const cache = f32(data as Float32Array, shape);
          this.#run.input(`cache_${kind}_${layer}`, cache);
          this.#run.output(`next_${kind}_${layer}`, cache);
        }
      this.#past = past;
    }
    await this.#run.run();
    return { logits_RV: bound.logits, fresh: null };
  }

  #bindRows(B: number): BoundRows {
    const { vocab } = this.#config.text;
    const numbers = () => new BigInt64Array(new ArrayBuffer(Math.max(128, 8 * B)), 0, B);
    const bound = { ids: numbers(), lengths: numbers(), logits: new Float32Array(B * vocab) };
    this.#run.input('ids', i64(bound.ids, [B, 1]));
    this.#run.input('lengths', i64(bound.lengths, [B]));
    this.#run.output('logits', f32(bound.logits, [B, vocab]));
    this.#bound = bound;
    return bound;
  }

  async release(): Promise<void> {
    this.#run.release();
    await this.#session.release();
  }
}
