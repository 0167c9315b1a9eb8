import type { VlmConfig } from '../models/config.ts';
import type { BoundRun } from '../runtime/bound-run.ts';
import { f32, ints, type Session, type Tensor } from '../runtime/session.ts';
import type { KvLayerView } from './kv/arena.ts';
import type { ForwardBatch, ForwardResult } from './runner.ts';

/**
 * Single tokens over an f32 cache that the run itself extends (models/decode-in-place.ts): outputs are bound to the memory of the
 * inputs, so nothing is copied and nothing needs to be appended.
 */
export class InPlaceDecoder {
  readonly #session: Session;
  readonly #config: VlmConfig;
  readonly #run: BoundRun;
  #past: readonly KvLayerView[] | null = null;
  #logits: Tensor | null = null;

  /** @param session of an inPlaceGraph, with the native binding: only that one writes where it is told to */
  constructor(session: Session, config: VlmConfig) {
    this.#session = session;
    this.#config = config;
    this.#run = session.bind();
  }

  async forward({ rows: B, pastTokens: T, ids_BS, positions_BS, past }: ForwardBatch): Promise<ForwardResult> {
    const { kvHeads, headDim, vocab } = this.#config.text;
    this.#run.input('ids', ints(ids_BS, [B, 1]));
    // Rows have no holes: the position of the new token is the number of those before it.
    this.#run.input('lengths', ints(positions_BS, [B]));
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
    if (this.#logits?.shape[0] !== B) {
      this.#logits = f32(new Float32Array(B * vocab), [B, vocab]);
      this.#run.output('logits', this.#logits);
    }
    await this.#run.run();
    return { logits_RV: this.#logits.data as Float32Array, fresh: null };
  }

  async release(): Promise<void> {
    this.#run.release();
    await this.#session.release();
  }
}
