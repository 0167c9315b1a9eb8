import { join } from 'node:path';
import { type Adapter, mergeAdapter } from '../models/adapter.ts';
import type { VlmConfig } from '../models/config.ts';
import { decodeGraph, type KvFormat } from '../models/decode.ts';
import { hasInPlaceGraph, inPlaceGraph } from '../models/decode-in-place.ts';
import type { Picture } from '../models/family.ts';
import type { WeightMap } from '../models/load.ts';
import { GRAPH_NAMES } from '../models/manifest.ts';
import { hasPrefillGraph, prefillGraph } from '../models/prefill.ts';
import { servingWeights } from '../models/serving-weights.ts';
import type { Storage } from '../models/storage.ts';
import { type ModelGraph, visionGraph } from '../models/vlm.ts';
import type { Placement } from '../runtime/device.ts';
import { PrepackedWeights } from '../runtime/native/prepacked-weights.ts';
import { Session, type Tensor } from '../runtime/session.ts';
import { AdapterBank, type BatchAdapters } from './adapter-bank.ts';
import { Decoder } from './decoder.ts';
import { encodePictures } from './encode-pictures.ts';
import { InPlaceDecoder } from './in-place-decoder.ts';
import type { ForwardBatch, ForwardResult, ModelRunner } from './runner.ts';

export interface RunnerOptions {
  /** Kernel threads of each session. */
  readonly threads: number;
  /** How weights are stored. Default: f32. */
  readonly storage?: Storage;
  /** How keys and values are stored. Default: f32. */
  readonly kv?: KvFormat;
  /** Default: the processor. */
  readonly placement?: Placement;
}

/** Up to so many positions a row, one kernel over the cache in place is faster than products over all of it: as far as was measured. */
const IN_PLACE_TOKENS = 512;

/**
 * A model over ONNX Runtime, with the adapters that are loaded on it. Weights are constants of the sessions, so kernels pack them
 * once; adapters are inputs, so rows of several share a batch. Runs block the thread they are called on.
 */
export class OnnxRunner implements ModelRunner {
  readonly kv: ModelRunner['kv'];
  readonly config: VlmConfig;
  readonly #options: RunnerOptions;
  /** Constants of the sessions by name, and their packed forms; empty for an imported model. */
  readonly #constants: ReadonlyMap<string, Tensor>;
  readonly #prepacked: PrepackedWeights;
  readonly #vision: Session;
  /** Where sessions share packed weights, further graphs cost nothing: one without pictures, one for the beginnings of prompts. */
  readonly #text: Decoder | null;
  readonly #first: Decoder | null;
  /** One token a row over an f32 cache of few positions. */
  readonly #inPlace: InPlaceDecoder | null;
  readonly #withImages: Decoder;
  readonly #bank = new AdapterBank();
  /** Decoders with a bank, by what they adapt. */
  readonly #adapted = new Map<string, Promise<Decoder>>();
  /** Vision sessions of adapters that change what they see. */
  readonly #visionOf = new Map<string, Session>();

  private constructor(
    config: VlmConfig,
    options: RunnerOptions,
    shared: { readonly constants: ReadonlyMap<string, Tensor>; readonly prepacked: PrepackedWeights },
    sessions: {
      readonly vision: Session;
      readonly text: Session | null;
      readonly first: Session | null;
      readonly inPlace: Session | null;
      readonly withImages: Session;
    },
  ) {
    const { layers, kvHeads, headDim } = config.text;
    const format = options.kv ?? 'f32';
    this.kv = { layers, kvHeads, headDim, format };
    this.config = config;
    this.#options = options;
    this.#constants = shared.constants;
    this.#prepacked = shared.prepacked;
    this.#vision = sessions.vision;
    this.#text = sessions.text === null ? null : new Decoder(sessions.text, config, format, false);
    this.#first = sessions.first === null ? null : new Decoder(sessions.first, config, format, true, true);
    this.#inPlace = sessions.inPlace === null ? null : new InPlaceDecoder(sessions.inPlace, config);
    this.#withImages = new Decoder(sessions.withImages, config, format, true);
  }

  /**
   * Compiles a model.
   * @param weights f32, by canonical name; those that stay f32 are read where they lie for as long as the runner lives
   * @throws Error naming the first weight that is missing or of another shape
   */
  static async create(
    config: VlmConfig,
    weights: ReadonlyMap<string, Tensor>,
    options: RunnerOptions,
  ): Promise<OnnxRunner> {
    const { storage } = options;
    const constants = new Map<string, Tensor>();
    const prepacked = new PrepackedWeights();
    const compile = async (model: ModelGraph): Promise<Session> => {
      for (const [name, tensor] of servingWeights(model, weights, storage, constants)) constants.set(name, tensor);
      return await Session.create(model.graph, { ...ofSession(options), initializers: constants, prepacked });
    };
    const vision = await compile(visionGraph(config, undefined, storage));
    const graph = (images: boolean) => decodeGraph(config, { images, ...ofDecoder(options) });
    const withImages = await compile(graph(true));
    const sharesWeights = withImages.binding === 'native';
    const text = sharesWeights ? await compile(graph(false)) : null;
    const hasFirst = sharesWeights && hasPrefillGraph(config);
    const first = hasFirst
      ? await compile(prefillGraph(config, { images: true, ...(storage === undefined ? {} : { storage }) }))
      : null;
    const hasInPlace = sharesWeights && options.kv !== 'int8' && hasInPlaceGraph(config);
    const inPlace = hasInPlace ? await compile(inPlaceGraph(config, storage === undefined ? {} : { storage })) : null;
    return new OnnxRunner(config, options, { constants, prepacked }, { vision, text, first, inPlace, withImages });
  }

  /** Opens the graphs of an imported model, whose weights lie in the file beside them. They were lowered for the processor and run there. */
  static async open(dir: string, config: VlmConfig, threads: number): Promise<OnnxRunner> {
    const open = (name: string) => Session.open(join(dir, name), { threads, foldConstants: true });
    const [vision, withImages] = [await open(GRAPH_NAMES.vision), await open(GRAPH_NAMES.decode)];
    const sessions = { vision, text: null, first: null, inPlace: null, withImages };
    const shared = { constants: new Map(), prepacked: new PrepackedWeights() };
    return new OnnxRunner(config, { threads }, shared, sessions);
  }

  /**
   * Loads an adapter, whose rows may then share batches with the base model's and with those of other adapters.
   * @param weights of the model with the whole tensors of the fine-tune in their places, if it changes any that pictures go
   *   through; `null` = it does not
   */
  async addAdapter(id: string, adapter: Adapter, weights: WeightMap | null): Promise<void> {
    if (this.#bank.has(id)) return;
    if (weights !== null) {
      const { storage } = this.#options;
      const model = visionGraph(this.config, undefined, storage);
      const initializers = servingWeights(model, mergeAdapter(weights, adapter), storage);
      this.#visionOf.set(id, await Session.create(model.graph, { ...ofSession(this.#options), initializers }));
    }
    this.#bank.add(id, adapter);
  }

  async removeAdapter(id: string): Promise<void> {
    this.#bank.remove(id);
    const vision = this.#visionOf.get(id);
    this.#visionOf.delete(id);
    await vision?.release();
  }

  encode(pictures: readonly Picture[], adapter: string | null): Promise<Float32Array[]> {
    const session = (adapter === null ? undefined : this.#visionOf.get(adapter)) ?? this.#vision;
    return encodePictures(this.config, { session, feeds: {} }, pictures);
  }

  async forward(batch: ForwardBatch): Promise<ForwardResult> {
    const adapters = this.#bank.forRows(batch.adapters);
    if (adapters !== null) return await (await this.#decoderWith(adapters)).forward(batch, adapters);
    if (batch.isPastEmpty && this.#first !== null) return await this.#first.forward(batch, null);
    // A chunk of a prompt may be one token, and that a picture's.
    if (batch.imageRows.length > 0) return await this.#withImages.forward(batch, null);
    if (batch.newTokens === 1 && batch.pastTokens <= IN_PLACE_TOKENS && this.#inPlace !== null)
      return await this.#inPlace.forward(batch);
    return await (this.#text ?? this.#withImages).forward(batch, null);
  }

  async dispose(): Promise<void> {
    const adapted = await Promise.all(this.#adapted.values());
    const decoders = [this.#withImages, this.#text, this.#first, this.#inPlace, ...adapted].filter(
      (decoder) => decoder !== null,
    );
    for (const decoder of decoders) await decoder.release();
    for (const session of [this.#vision, ...this.#visionOf.values()]) await session.release();
  }

  /** Compiled when the first batch needs it. */
  #decoderWith({ targets }: BatchAdapters): Promise<Decoder> {
    const key = targets.join();
    let decoder = this.#adapted.get(key);
    if (decoder === undefined) {
      decoder = this.#compileAdapted(targets);
      this.#adapted.set(key, decoder);
      decoder.catch(() => this.#adapted.delete(key));
    }
    return decoder;
  }

  async #compileAdapted(targets: readonly string[]): Promise<Decoder> {
    const { graph } = decodeGraph(this.config, { images: true, adapterTargets: targets, ...ofDecoder(this.#options) });
    const session = await Session.create(graph, {
      ...ofSession(this.#options),
      initializers: this.#constants,
      prepacked: this.#prepacked,
    });
    return new Decoder(session, this.config, this.kv.format, true);
  }
}

function ofSession({ threads, placement }: RunnerOptions): { threads: number; placement?: Placement } {
  return { threads, ...(placement === undefined ? {} : { placement }) };
}

function ofDecoder({ storage, kv }: RunnerOptions): { joins: true; storage?: Storage; kv?: KvFormat } {
  return { joins: true, ...(storage === undefined ? {} : { storage }), ...(kv === undefined ? {} : { kv }) };
}
