/**
 * llama.cpp through the addon of node-llama-cpp: batches go to `decodeBatch` as its own scheduler sends them, and no sampling is
 * counted, since tokens are made up beforehand. Sequences have caches of their own (the addon sets kv_unified off).
 *
 *     node --import tsx llama-contender.ts PEERS GGUF THREADS
 */
import { createRequire } from 'node:module';
import { join } from 'node:path';
import { pathToFileURL } from 'node:url';
import { type Contender, offer, type ServedRequest, stopwatch, type Timing } from './contender.ts';
import { BENCH_CONFIG, promptIds } from './model.ts';

interface Context {
  init(): Promise<boolean>;
  dispose(): Promise<void>;
  initBatch(size: number): void;
  addToBatch(sequence: number, position: number, tokens: Uint32Array, logitIndexes: Uint32Array): Uint32Array;
  decodeBatch(): Promise<void>;
  sampleToken(
    index: number,
    sampler: object,
    probabilities: boolean,
    confidence: boolean,
    logits: boolean | readonly unknown[],
    total: boolean,
  ): Promise<readonly [number, unknown, unknown, readonly number[] | undefined, unknown]>;
  disposeSequence(sequence: number): void;
  removeTokenCellsFromSequence(sequence: number, from: number, to: number): boolean;
  copySequenceStateFromOtherSequence(target: number, source: number): Promise<number>;
}
interface Model {
  init(): Promise<boolean>;
}
interface Bindings {
  readonly AddonModel: new (path: string, options: object) => Model;
  readonly AddonContext: new (model: Model, options: object) => Context;
  readonly AddonSampler: new (model: Model) => { applyConfig(config: object): void };
}
interface Library {
  getLlama(options: object): Promise<{ readonly _bindings: Bindings }>;
}

const [peers = '', gguf = '', threads = '1'] = process.argv.slice(2);

/** Tokens of a prompt that are computed together: llama.cpp's default ubatch. */
const CHUNK = 512;
/** Rows that decode together in the served case. */
const MAX_ROWS = 16;
const LAST_OF_ONE = Uint32Array.of(0);
const NONE = new Uint32Array();

class LlamaCpp implements Contender {
  #context: Context | null = null;
  #rows = 0;
  #start = 0;
  readonly #made = promptIds(123, 4096);

  private constructor(
    private readonly bindings: Bindings,
    private readonly model: Model,
  ) {}

  static async create(): Promise<LlamaCpp> {
    const entry = createRequire(join(peers, 'package.json')).resolve('node-llama-cpp');
    const library = (await import(pathToFileURL(entry).href)) as unknown as Library;
    const llama = await library.getLlama({
      gpu: false,
      build: 'never',
      logLevel: 'disabled',
      maxThreads: Number(threads),
    });
    const model = new llama._bindings.AddonModel(gguf, { addonExports: llama._bindings, gpuLayers: 0, useMmap: true });
    if (!(await model.init())) throw new Error(`llama.cpp could not load ${gguf}`);
    return new LlamaCpp(llama._bindings, model);
  }

  /** The last id goes through the cache, as in decoding. */
  async logits(ids: readonly number[]): Promise<Float32Array> {
    const context = await this.#open(1, ids.length);
    await this.#read(context, 0, ids.slice(0, -1));
    context.initBatch(1);
    const [index = -1] = context.addToBatch(0, ids.length - 1, Uint32Array.from(ids.slice(-1)), LAST_OF_ONE);
    await context.decodeBatch();
    const sampler = new this.bindings.AddonSampler(this.model);
    sampler.applyConfig({ temperature: 0 });
    const { vocab } = BENCH_CONFIG.text;
    // No token by name, the `vocab` most likely ones.
    const [, , , pairs] = await context.sampleToken(
      index,
      sampler,
      false,
      false,
      [[], false, false, false, vocab],
      false,
    );
    await this.finish();
    const logits = new Float32Array(vocab).fill(Number.NaN);
    for (let i = 0; pairs !== undefined && i < pairs.length; i += 2) logits[pairs[i]!] = pairs[i + 1]!;
    return logits;
  }

  async prepare(prompts: readonly (readonly number[])[]): Promise<void> {
    const length = prompts[0]?.length ?? 0;
    const context = await this.#open(prompts.length, length + 128);
    await this.#read(context, 0, prompts[0] ?? []);
    // Each sequence has cells of its own: the state is copied, not shared.
    for (let row = 1; row < prompts.length; row++) await context.copySequenceStateFromOtherSequence(row, 0);
    this.#rows = prompts.length;
    this.#start = length;
    await this.decode(0);
  }

  async decode(ms: number): Promise<Timing> {
    const context = this.#context;
    if (context === null) throw new Error('prepare comes before decode');
    for (let row = 0; row < this.#rows; row++) context.removeTokenCellsFromSequence(row, this.#start, -1);
    const clock = stopwatch();
    let steps = 0;
    do {
      context.initBatch(this.#rows);
      for (let row = 0; row < this.#rows; row++)
        context.addToBatch(row, this.#start + steps, this.#token(row, steps), LAST_OF_ONE);
      await context.decodeBatch();
      steps++;
    } while (steps < 120 && (steps < 2 || clock().ms < ms));
    return { tokens: steps * this.#rows, ...clock() };
  }

  async finish(): Promise<void> {
    await this.#context?.dispose();
    this.#context = null;
  }

  async prefill(ids: readonly number[]): Promise<Timing> {
    // The context is made before the clock runs, as a server keeps one.
    const context = await this.#open(1, ids.length + 64);
    const clock = stopwatch();
    await this.#read(context, 0, ids);
    const elapsed = clock();
    await this.finish();
    return { tokens: ids.length, ...elapsed };
  }

  /**
   * Continuous batching as simple as can be: a free row takes the next request and reads its prompt, then all rows decode one
   * token, until nothing is left.
   */
  async serve(requests: readonly ServedRequest[]): Promise<Timing> {
    const longest = Math.max(...requests.map(({ ids, newTokens }) => ids.length + newTokens));
    const context = await this.#open(MAX_ROWS, longest);
    const clock = stopwatch();
    const waiting = [...requests];
    const rows: ({ position: number; left: number } | null)[] = new Array(MAX_ROWS).fill(null);
    let tokens = 0;
    while (waiting.length > 0 || rows.some((row) => row !== null)) {
      for (let row = 0; row < MAX_ROWS && waiting.length > 0; row++) {
        if (rows[row] !== null) continue;
        const { ids, newTokens } = waiting.shift()!;
        await this.#read(context, row, ids);
        tokens++;
        if (newTokens > 1) rows[row] = { position: ids.length, left: newTokens - 1 };
        else context.disposeSequence(row);
        break; // one prompt between two decoding steps, as the other engine does
      }
      const active = [...rows.entries()].flatMap(([row, state]) => (state === null ? [] : [{ row, state }]));
      if (active.length === 0) continue;
      context.initBatch(active.length);
      for (const { row, state } of active)
        context.addToBatch(row, state.position, this.#token(row, state.position), LAST_OF_ONE);
      await context.decodeBatch();
      for (const { row, state } of active) {
        tokens++;
        state.position++;
        if (--state.left > 0) continue;
        context.disposeSequence(row);
        rows[row] = null;
      }
    }
    const elapsed = clock();
    await this.finish();
    return { tokens, ...elapsed };
  }

  async #open(sequences: number, tokens: number): Promise<Context> {
    await this.finish();
    const perSequence = Math.ceil(tokens / 256) * 256;
    const context = new this.bindings.AddonContext(this.model, {
      contextSize: perSequence * sequences,
      batchSize: CHUNK,
      sequences,
      flashAttention: true,
      threads: Number(threads),
    });
    if (!(await context.init())) throw new Error(`llama.cpp could not make a context of ${sequences} x ${perSequence}`);
    this.#context = context;
    return context;
  }

  /** Reads a prompt in chunks; logits are computed for its last token. */
  async #read(context: Context, sequence: number, ids: readonly number[]): Promise<void> {
    for (let from = 0; from < ids.length; from += CHUNK) {
      const chunk = Uint32Array.from(ids.slice(from, from + CHUNK));
      const isLast = from + CHUNK >= ids.length;
      context.initBatch(chunk.length);
      context.addToBatch(sequence, from, chunk, isLast ? Uint32Array.of(chunk.length - 1) : NONE);
      await context.decodeBatch();
    }
  }

  #token(row: number, step: number): Uint32Array {
    return Uint32Array.of(this.#made[(row * 131 + step) % this.#made.length]!);
  }
}

await offer(LlamaCpp.create);
