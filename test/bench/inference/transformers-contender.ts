/**
 * transformers.js: `model.generate`, greedy, as its users call it.
 *
 *     node --import tsx transformers-contender.ts PEERS MODELS LAYOUT FORMAT THREADS
 */
import { createRequire } from 'node:module';
import { basename, dirname, join } from 'node:path';
import { pathToFileURL } from 'node:url';
import { type Contender, type Elapsed, offer, stopwatch, type Timing } from './contender.ts';

interface PeerTensor {
  readonly type: string;
  readonly data: Float32Array | BigInt64Array;
  readonly dims: readonly number[];
}
type Cache = Readonly<Record<string, PeerTensor>>;
interface Output {
  readonly sequences: PeerTensor;
  readonly past_key_values: Cache;
  readonly logits: PeerTensor;
}
interface PeerModel {
  generate(options: object): Promise<Output>;
  forward(inputs: object): Promise<Output>;
}
interface Library {
  readonly env: { allowRemoteModels: boolean; localModelPath: string };
  readonly AutoModelForCausalLM: { from_pretrained(name: string, options: object): Promise<PeerModel> };
  readonly Tensor: new (type: string, data: Float32Array | BigInt64Array, dims: readonly number[]) => PeerTensor;
  readonly DynamicCache: new (entries?: Cache) => Cache;
  readonly StoppingCriteria: new () => object;
}

const [peers = '', model = '', format = '', threads = '1'] = process.argv.slice(2);

class TransformersJs implements Contender {
  /** Keys and values of the prepared rows up to the last prompt token, which every window feeds again. */
  #past: Cache = {};
  #prompt: readonly number[] = [];
  #rows = 0;

  private constructor(
    private readonly library: Library,
    private readonly model: PeerModel,
  ) {}

  static async create(): Promise<TransformersJs> {
    const entry = createRequire(join(peers, 'package.json')).resolve('@huggingface/transformers');
    const library = (await import(
      pathToFileURL(join(dirname(entry), 'transformers.node.mjs')).href
    )) as unknown as Library;
    library.env.allowRemoteModels = false;
    library.env.localModelPath = `${dirname(model)}/`;
    const loaded = await library.AutoModelForCausalLM.from_pretrained(basename(model), {
      dtype: format,
      device: 'cpu',
      session_options: { intraOpNumThreads: Number(threads), interOpNumThreads: 1 },
    });
    return new TransformersJs(library, loaded);
  }

  /** The last id goes through the cache, as in decoding. */
  async logits(ids: readonly number[]): Promise<Float32Array> {
    const { past_key_values } = await this.#generate([ids.slice(0, -1)], { max_new_tokens: 1 });
    const { logits } = await this.model.forward({
      input_ids: this.#ids([ids.slice(-1)]),
      attention_mask: this.#ones(1, ids.length),
      past_key_values,
      num_logits_to_keep: new this.library.Tensor('int64', BigInt64Array.of(1n), []),
    });
    return logits.data as Float32Array;
  }

  async prepare(prompts: readonly (readonly number[])[]): Promise<void> {
    // One prompt is read; its keys and values are copied for the other rows.
    const prompt = prompts[0] ?? [];
    const { past_key_values } = await this.#generate([prompt.slice(0, -1)], { max_new_tokens: 1 });
    const entries = Object.entries(past_key_values).map(([name, { data, dims }]) => {
      const rows = new Float32Array(prompts.length * data.length);
      for (let row = 0; row < prompts.length; row++) rows.set(data as Float32Array, row * data.length);
      return [name, new this.library.Tensor('float32', rows, [prompts.length, ...dims.slice(1)])] as const;
    });
    this.#past = Object.fromEntries(entries);
    this.#prompt = prompt;
    this.#rows = prompts.length;
    await this.decode(0);
  }

  async decode(ms: number): Promise<Timing> {
    let clock: (() => Elapsed) | null = null;
    let steps = 0;
    let elapsed: Elapsed = { ms: 0, cpuMs: 0 };
    // `put` is called with the prompt right before the loop, then once a step.
    const streamer = {
      put: () => {
        if (clock === null) {
          clock = stopwatch();
          return;
        }
        elapsed = clock();
        steps++;
      },
      end: () => {},
    };
    const { StoppingCriteria } = this.library;
    class Clock extends StoppingCriteria {
      _call(ids: readonly unknown[]): boolean[] {
        return ids.map(() => steps >= 2 && elapsed.ms >= ms);
      }
    }
    await this.#generate(new Array(this.#rows).fill(this.#prompt), {
      past_key_values: new this.library.DynamicCache(this.#past),
      max_new_tokens: 4096,
      stopping_criteria: new Clock(),
      streamer,
    });
    return { tokens: steps * this.#rows, ...elapsed };
  }

  async finish(): Promise<void> {
    this.#past = {};
    globalThis.gc?.();
  }

  async prefill(ids: readonly number[]): Promise<Timing> {
    const clock = stopwatch();
    await this.#generate([ids], { max_new_tokens: 1 });
    return { tokens: ids.length, ...clock() };
  }

  /** There is no scheduler: requests follow one another. */
  async serve(requests: Parameters<Contender['serve']>[0]): Promise<Timing> {
    const clock = stopwatch();
    let tokens = 0;
    for (const { ids, newTokens } of requests) {
      const { sequences } = await this.#generate([ids], { max_new_tokens: newTokens });
      tokens += (sequences.dims[1] ?? 0) - ids.length;
    }
    return { tokens, ...clock() };
  }

  #generate(prompts: readonly (readonly number[])[], options: object): Promise<Output> {
    return this.model.generate({
      input_ids: this.#ids(prompts),
      attention_mask: this.#ones(prompts.length, prompts[0]?.length ?? 0),
      do_sample: false,
      return_dict_in_generate: true,
      ...options,
    });
  }

  #ids(prompts: readonly (readonly number[])[]): PeerTensor {
    const data = BigInt64Array.from(prompts.flat(), BigInt);
    return new this.library.Tensor('int64', data, [prompts.length, prompts[0]?.length ?? 0]);
  }

  #ones(rows: number, length: number): PeerTensor {
    return new this.library.Tensor('int64', new BigInt64Array(rows * length).fill(1n), [rows, length]);
  }
}

await offer(TransformersJs.create);
