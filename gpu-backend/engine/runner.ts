import type { Picture } from '../models/family.ts';
import type { KvLayerView } from './kv/arena.ts';
import type { KvShape } from './kv/span.ts';

/**
 * What the engine needs of a model: two pure computations. Implemented over ONNX Runtime in `onnx-runner.ts`; tests put a
 * runner here whose next token depends on every attended position, so that any mix-up of rows or cache shows.
 *
 * Legend: B rows, S new tokens a row, T past positions, V vocabulary, H hidden size, R requested rows of logits.
 */
export interface ModelRunner {
  readonly kv: KvShape;
  /**
   * Image features as the decoder takes them: [tokens, H] per picture. Pictures are as the recipe made them and may differ in
   * size; a picture's features do not depend on its company.
   * @param adapter whose projector sees them; `null` = the base model's
   */
  encode(pictures: readonly Picture[], adapter: string | null): Promise<Float32Array[]>;
  /** One run of the decoder; nothing is kept in the runner. */
  forward(batch: ForwardBatch): Promise<ForwardResult>;
  dispose(): Promise<void>;
}

export interface ForwardBatch {
  readonly rows: number;
  readonly newTokens: number;
  readonly pastTokens: number;
  /** [B, S]; positions that an image covers hold any valid id. */
  readonly ids_BS: Int32Array;
  /** [B, S] absolute positions, for the rotary embedding. */
  readonly positions_BS: Int32Array;
  /** Pieces of image features that replace embeddings; `at` = flat index into [B, S], `features` = whole rows of H. */
  readonly imageRows: readonly { readonly at: number; readonly features: Float32Array }[];
  /** By layer; views into the arena, only read. What is at index t is the row's position t. */
  readonly past: readonly KvLayerView[];
  /** [B, 1, 1, T] additive: 0 = stored, -1e9 = not there. */
  readonly pastBias_B11T: Float32Array;
  /** No row of the batch holds anything: the past need not be looked at. */
  readonly isPastEmpty: boolean;
  /** Flat indices into [B, S] whose logits are wanted; never empty (a head over zero rows kills the runtime). */
  readonly logitRows_R: Int32Array;
  /** Adapter of each row; `null` = the base model. */
  readonly adapters: readonly (string | null)[];
}

/** To be used before the next run: a runner may write the next result into the same memory. */
export interface ForwardResult {
  /** [R, V] */
  readonly logits_RV: Float32Array;
  /** Keys and values of the new tokens; `null` where the run has written them behind each row's own in the arena. */
  readonly fresh: NewKv | null;
}

/** Per layer [B, kvHeads, S, headDim]: keys (rotary applied) and values of the new tokens only. */
export interface NewKv {
  readonly keys: readonly Float32Array[];
  readonly values: readonly Float32Array[];
}
