import type { VlmConfig } from '../models/config.ts';
import { hasPastWindow, type KvFormat } from '../models/decode.ts';
import { causalBias } from '../models/vlm.ts';
import type { BoundRun } from '../runtime/bound-run.ts';
import { f32, ints, type Session, type Tensor } from '../runtime/session.ts';
import type { BatchAdapters } from './adapter-bank.ts';
import type { KvLayerView } from './kv/arena.ts';
import type { ForwardBatch, ForwardResult } from './runner.ts';

/** Tokens of one tile of int8 keys (models/decode.ts). */
const TILE_TOKENS = 64;
/** Causal biases kept; chunks come in few lengths. */
const MAX_BIASES = 8;

/** One binding of the decoder's session, and what is bound to it now. */
interface Bound {
  readonly run: BoundRun;
  past: readonly KvLayerView[] | null;
  adapters: BatchAdapters | null;
  /** Rows, new tokens and rows of logits that the outputs are made for. */
  shape: string;
  logits: Tensor;
  keys: Tensor[];
  values: Tensor[];
}

/**
 * A decoder graph over a cache, ready to run. What does not change between two runs is not bound again: the past while the arena
 * keeps its layout, the adapters while the same ones are in the batch, outputs while the batch keeps its size.
 */
export class Decoder {
  readonly #session: Session;
  readonly #config: VlmConfig;
  readonly #format: KvFormat;
  readonly #hasImages: boolean;
  readonly #hasNoPast: boolean;
  /** One for single tokens and one for chunks, whose sizes differ all the time. */
  #step: Bound | null = null;
  #chunk: Bound | null = null;
  readonly #biases = new Map<number, Tensor>();
  /** `past_positions` of the last run that needed them; rows × T changes rarely. */
  #pastPositions: Tensor | null = null;

  /**
   * @param hasImages whether the graph takes `image_features` and `image_rows`
   * @param hasNoPast whether it is a prefillGraph, for the beginnings of prompts
   */
  constructor(session: Session, config: VlmConfig, format: KvFormat, hasImages: boolean, hasNoPast = false) {
    this.#session = session;
    this.#config = config;
    this.#format = format;
    this.#hasImages = hasImages;
    this.#hasNoPast = hasNoPast;
  }

  /** @param adapters of the batch's rows, where the graph has a bank of them */
  async forward(batch: ForwardBatch, adapters: BatchAdapters | null): Promise<ForwardResult> {
    const { rows: B, newTokens: S, pastTokens: T } = batch;
    this.#step ??= this.#bind();
    this.#chunk ??= this.#bind();
    const bound = S === 1 ? this.#step : this.#chunk;
    const { run } = bound;
    run.input('ids', ints(batch.ids_BS, [B, S]));
    run.input('rows', ints(batch.logitRows_R, [batch.logitRows_R.length]));
    if (this.#hasImages) this.#bindImages(run, batch);
    else if (batch.imageRows.length > 0) throw new Error('internal: this decoder takes no pictures');
    if (!this.#hasNoPast) {
      run.input('positions', ints(batch.positions_BS, [B, S]));
      run.input('causal_bias', this.#causalBias(S));
      run.input('past_bias', f32(batch.pastBias_B11T, [B, 1, 1, T]));
      if (hasPastWindow(this.#config)) run.input('past_positions', this.#positionsOfPast(B, T));
      this.#bindPast(bound, batch);
    }
    if (adapters !== null) bindAdapters(bound, adapters, batch);
    this.#bindOutputs(bound, B, S, batch.logitRows_R.length);
    await run.run();
    const floats = ({ data }: Tensor): Float32Array => data as Float32Array;
    return {
      logits_RV: floats(bound.logits),
      fresh: { keys: bound.keys.map(floats), values: bound.values.map(floats) },
    };
  }

  async release(): Promise<void> {
    this.#step?.run.release();
    this.#chunk?.run.release();
    await this.#session.release();
  }

  #bind(): Bound {
    const nothing = f32(new Float32Array(0), [0]);
    return { run: this.#session.bind(), past: null, adapters: null, shape: '', logits: nothing, keys: [], values: [] };
  }

  #causalBias(length: number): Tensor {
    let bias = this.#biases.get(length);
    if (bias === undefined) {
      if (this.#biases.size >= MAX_BIASES) this.#biases.clear();
      bias = f32(causalBias(length, 1, this.#config.text.slidingWindow), [length, length]);
      this.#biases.set(length, bias);
    }
    return bias;
  }

  #bindImages(run: BoundRun, { imageRows }: ForwardBatch): void {
    const { hidden } = this.#config.text;
    const total = imageRows.reduce((sum, { features }) => sum + features.length / hidden, 0);
    const features_FD = new Float32Array(total * hidden);
    const rows_F: number[] = [];
    for (const { at, features } of imageRows) {
      features_FD.set(features, rows_F.length * hidden);
      for (let row = 0; row < features.length / hidden; row++) rows_F.push(at + row);
    }
    run.input('image_features', f32(features_FD, [total, hidden]));
    run.input('image_rows', ints(rows_F, [total]));
  }

  #bindPast(bound: Bound, { past, rows: B, pastTokens: T }: ForwardBatch): void {
    if (bound.past === past) return;
    const { kvHeads, headDim } = this.#config.text;
    for (const [layer, { k, v, kScale, vScale }] of past.entries()) {
      if (this.#format === 'f32') {
        bound.run.input(`past_k_${layer}`, f32(k as Float32Array, [B, kvHeads, T, headDim]));
        bound.run.input(`past_v_${layer}`, f32(v as Float32Array, [B, kvHeads, T, headDim]));
        continue;
      }
      const tiles = [B, kvHeads, T / TILE_TOKENS, headDim, TILE_TOKENS];
      bound.run.input(`past_k_${layer}`, { dtype: 'i8', shape: tiles, data: k });
      bound.run.input(`past_v_${layer}`, { dtype: 'i8', shape: [B, kvHeads, T, headDim], data: v });
      bound.run.input(`past_k_scale_${layer}`, f32(kScale!, [B, kvHeads, 1, T]));
      bound.run.input(`past_v_scale_${layer}`, f32(vScale!, [B, kvHeads, 1, T]));
    }
    bound.past = past;
  }

  #bindOutputs(bound: Bound, B: number, S: number, R: number): void {
    const shape = `${B} ${S} ${R}`;
    if (bound.shape === shape) return;
    const { vocab, layers, kvHeads, headDim } = this.#config.text;
    const output = (name: string, sizes: readonly number[]): Tensor => {
      const tensor = f32(new Float32Array(sizes.reduce((a, b) => a * b, 1)), sizes);
      bound.run.output(name, tensor);
      return tensor;
    };
    const perLayer = (name: string): Tensor[] =>
      Array.from({ length: layers }, (_, layer) => output(`${name}_${layer}`, [B, kvHeads, S, headDim]));
    bound.logits = output('logits', [R, vocab]);
    bound.keys = perLayer('new_k');
    bound.values = perLayer('new_v');
    bound.shape = shape;
  }

  /** [B, T]: every row counts its positions from 0. */
  #positionsOfPast(rows: number, tokens: number): Tensor {
    const known = this.#pastPositions;
    if (known !== null && known.shape[0] === rows && known.shape[1] === tokens) return known;
    const positions = Int32Array.from({ length: rows * tokens }, (_, index) => index % tokens);
    this.#pastPositions = ints(positions, [rows, tokens]);
    return this.#pastPositions;
  }
}

function bindAdapters(bound: Bound, adapters: BatchAdapters, { rows, newTokens, adapters: byRow }: ForwardBatch): void {
  if (bound.adapters !== adapters) {
    for (const [name, tensor] of adapters.weights) bound.run.input(name, tensor);
    bound.adapters = adapters;
  }
  const { ranks } = adapters;
  const mask = new Float32Array(rows * newTokens * ranks);
  for (const [row, id] of byRow.entries()) {
    const own = id === null ? undefined : adapters.places.get(id);
    if (own === undefined) continue;
    for (let token = row * newTokens; token < (row + 1) * newTokens; token++)
      mask.fill(own.scale, token * ranks + own.first, token * ranks + own.first + own.count);
  }
  bound.run.input('adapter_mask', f32(mask, [rows * newTokens, ranks]));
}
