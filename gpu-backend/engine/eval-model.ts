/**
 * The engine as a model that an evaluation asks: choices are compared by likelihood in batches, other answers are generated greedily by the serving engine,
 * many at once. In the form that eval/task.ts calls EvalModel, which it fits without knowing it.
 */
import { existsSync, readdirSync, statSync } from 'node:fs';
import { availableParallelism } from 'node:os';
import { basename, join, resolve } from 'node:path';
import type { GenerateRequest } from '../../shared/contract/backend.ts';
import { ApiError } from '../../shared/contract/errors.ts';
import { sha256File, sha256Hex } from '../io/digest.ts';
import { DecodePool } from '../vision/pool.ts';
import { preprocessImage } from '../vision/preprocess.ts';
import { type ChoiceQuestion, ChoiceScorer, turnsOf } from './choice-scorer.ts';
import type { CompileOptions } from './load-model.ts';
import { loadFront, type ModelFront } from './model-front.ts';
import { ModelPool } from './model-pool.ts';
import { EngineModelService } from './model-service.ts';
import { capacityFor } from './scheduler/capacity.ts';

export interface EngineEvalOptions {
  /** Checkpoint folder. */
  readonly dir: string;
  /** Files of a fine-tune to lay over it, or a PEFT adapter. Default: the plain checkpoint. */
  readonly overlayDir?: string;
  /** Processors to use. Default: all. */
  readonly threads?: number;
  /** How answers are generated. Default: f32 weights, keys and values. Choices are always compared in f32. */
  readonly compile?: Omit<CompileOptions, 'threads'>;
}

export interface EngineEvalPrompt {
  readonly system?: string;
  readonly earlier?: NonNullable<ChoiceQuestion['earlier']>;
  readonly parts: readonly (string | { readonly image: number })[];
  readonly images: readonly { readonly sha256: string; bytes(): Promise<Uint8Array> }[];
  readonly maxTokens: number;
  readonly choices?: readonly string[];
}

export interface EngineEvalAnswer {
  readonly text: string;
  readonly finishReason: 'stop' | 'length' | 'choice' | 'other';
  readonly logprobs?: readonly number[];
  readonly usage?: { readonly promptTokens: number; readonly completionTokens: number };
}

/** Files beside the weights that change what a model reads and writes. */
const SMALL_FILES = [
  'tokenizer.json',
  'tokenizer_config.json',
  'chat_template.json',
  'chat_template.jinja',
  'preprocessor_config.json',
  'processor_config.json',
  'generation_config.json',
];
/** Questions of one call of the scorer: enough to sort by length, few enough that two calls keep all threads busy. */
const QUESTIONS_PER_CALL = 192;
const CALLS_AT_ONCE = 2;
/** Beyond that a model is loaded once, and its kernels share the work. */
const MAX_COPIED_BYTES = 256 * 2 ** 20;
const ROWS = 16;
const CAPACITY = capacityFor({ maxRows: ROWS, kvTokens: 131_072 });
const PREFIX_CACHE_BYTES = 64 * 2 ** 20;
const FEATURE_CACHE_BYTES = 128 * 2 ** 20;
const DEADLINE_MS = 3_600_000;
const MODEL = 'evaluated';

interface Waiting {
  readonly prompt: EngineEvalPrompt;
  readonly signal: AbortSignal;
  readonly resolve: (answer: EngineEvalAnswer) => void;
  readonly reject: (error: unknown) => void;
}

interface Generator {
  readonly service: EngineModelService;
  readonly close: () => Promise<void>;
}

export class EngineEvalModel {
  readonly name: string;
  readonly identity: string;
  readonly comparesChoices = true;
  readonly atOnce = QUESTIONS_PER_CALL * (CALLS_AT_ONCE + 1);
  readonly #o: EngineEvalOptions;
  readonly #front: ModelFront;
  readonly #threads: number;
  #scorer: Promise<ChoiceScorer> | null = null;
  #generator: Promise<Generator> | null = null;
  readonly #waiting: Waiting[] = [];
  #calls = 0;
  #requests = 0;

  private constructor(options: EngineEvalOptions, front: ModelFront, identity: string) {
    this.#o = options;
    this.#front = front;
    this.#threads = options.threads ?? availableParallelism();
    const { dir, overlayDir } = options;
    const name = (path: string) => basename(resolve(path));
    this.name = overlayDir === undefined ? name(dir) : `${name(dir)} + ${name(overlayDir)}`;
    this.identity = identity;
  }

  /** Reads what names the model; weights are loaded by the first question. @throws Error naming the file at fault */
  static async open(options: EngineEvalOptions): Promise<EngineEvalModel> {
    const { dir, overlayDir, compile } = options;
    const front = await loadFront(MODEL, dir);
    const digests: Record<string, string> = { checkpoint: front.checkpointDigest };
    for (const file of SMALL_FILES) if (existsSync(join(dir, file))) digests[file] = await sha256File(join(dir, file));
    if (overlayDir !== undefined)
      for (const file of readdirSync(overlayDir).sort())
        if (/\.(safetensors|json)$/.test(file)) digests[`overlay/${file}`] = await sha256File(join(overlayDir, file));
    const computed = compile ?? { kv: 'f32' };
    return new EngineEvalModel(options, front, `sha256:${sha256Hex(JSON.stringify({ digests, computed }))}`);
  }

  /** @throws Error when the question does not fit the model, a picture cannot be read, or the signal is aborted */
  async answer(prompt: EngineEvalPrompt, signal: AbortSignal): Promise<EngineEvalAnswer> {
    signal.throwIfAborted();
    if (prompt.choices === undefined || prompt.choices.length === 0) return await this.#generate(prompt, signal);
    return await new Promise((resolve, reject) => {
      this.#waiting.push({ prompt, signal, resolve, reject });
      // Those that are asked in the same moment go together.
      setImmediate(() => this.#call());
    });
  }

  async close(): Promise<void> {
    await (await this.#scorer?.catch(() => null))?.close();
    await (await this.#generator?.catch(() => null))?.close();
  }

  #call(): void {
    if (this.#calls >= CALLS_AT_ONCE || this.#waiting.length === 0) return;
    this.#calls++;
    void this.#compare(this.#waiting.splice(0, QUESTIONS_PER_CALL)).finally(() => {
      this.#calls--;
      this.#call();
    });
  }

  async #compare(asked: readonly Waiting[]): Promise<void> {
    const live = asked.filter(({ signal, reject }) => {
      if (signal.aborted) reject(signal.reason);
      return !signal.aborted;
    });
    if (live.length === 0) return;
    try {
      this.#scorer ??= this.#openScorer();
      const scorer = await this.#scorer;
      const rows = await scorer.scoreEach(live.map(({ prompt }) => this.#question(prompt)));
      for (const [i, { prompt, resolve, reject }] of live.entries()) {
        const row = rows[i];
        if (Array.isArray(row)) resolve(bestChoice(row, prompt.choices ?? []));
        else reject(row);
      }
    } catch (error) {
      for (const { reject } of live) reject(error);
    }
  }

  #question({ system, earlier, parts, images, choices = [] }: EngineEvalPrompt): ChoiceQuestion {
    return {
      ...(system === undefined ? {} : { system }),
      ...(earlier === undefined ? {} : { earlier }),
      parts,
      images: images.map((image) => ({
        key: image.sha256,
        picture: async () => preprocessImage(await image.bytes(), this.#front.recipe),
      })),
      choices,
    };
  }

  async #openScorer(): Promise<ChoiceScorer> {
    const { dir, overlayDir = null } = this.#o;
    const isSmall = weightBytes(dir) <= MAX_COPIED_BYTES;
    return await ChoiceScorer.create(
      dir,
      overlayDir,
      isSmall ? { threads: 1, lanes: this.#threads } : { threads: this.#threads, lanes: 1 },
    );
  }

  async #generate(prompt: EngineEvalPrompt, signal: AbortSignal): Promise<EngineEvalAnswer> {
    this.#generator ??= this.#openGenerator();
    const { service } = await this.#generator;
    const { card } = this.#front;
    const blobs = await Promise.all(prompt.images.map((image) => image.bytes()));
    // A bound above what the model may write is none; one that the prompt leaves no room for becomes what fits.
    const bounds = prompt.maxTokens >= card.maxNewTokens ? [null] : [prompt.maxTokens, null];
    for (const [attempt, maxTokens] of bounds.entries()) {
      try {
        return await this.#generateWith(service, prompt, blobs, maxTokens, signal);
      } catch (error) {
        const isTooLong = error instanceof ApiError && error.code === 'context_length_exceeded';
        if (!isTooLong || attempt === bounds.length - 1) throw error;
      }
    }
    throw new Error('internal: no bound of an answer was tried');
  }

  async #generateWith(
    service: EngineModelService,
    prompt: EngineEvalPrompt,
    blobs: readonly Uint8Array[],
    maxTokens: number | null,
    signal: AbortSignal,
  ): Promise<EngineEvalAnswer> {
    const { overlayDir } = this.#o;
    const request: GenerateRequest = {
      requestId: `evaluation-${this.#requests++}`,
      tenant: EVALUATION_TENANT,
      model: overlayDir === undefined ? MODEL : `ft:${MODEL}`,
      messages: turnsOf(prompt).map(({ role, parts }) => ({
        role,
        parts: parts.map((part) =>
          typeof part === 'string' ? { type: 'text', text: part } : { type: 'image', blob: part.image },
        ),
      })),
      sampling: { maxTokens, temperature: 0, topP: 1, stop: [] },
      priority: 'batch',
      deadlineMs: DEADLINE_MS,
      ...(overlayDir === undefined ? {} : { adapter: { id: MODEL, base: MODEL, kind: 'lora', files: [] } }),
    };
    let text = '';
    let end: { finishReason: string; usage: { promptTokens: number; completionTokens: number } } | null = null;
    for await (const event of service.generate(request, blobs, signal)) {
      if (event.type === 'delta') text += event.text;
      if (event.type === 'finished') end = event;
      if (event.type === 'error') throw new Error(event.error.message);
    }
    signal.throwIfAborted();
    if (end === null) throw new Error('the engine ended an answer without saying how');
    const { finishReason, usage } = end;
    return {
      text,
      finishReason: finishReason === 'stop' || finishReason === 'length' ? finishReason : 'other',
      usage: { promptTokens: usage.promptTokens, completionTokens: usage.completionTokens },
    };
  }

  async #openGenerator(): Promise<Generator> {
    const { dir, overlayDir, compile = { kv: 'f32' } } = this.#o;
    const pool = new ModelPool({
      models: [{ id: MODEL, dir }],
      capacity: CAPACITY,
      compile: { ...compile, threads: this.#threads },
      prefixCacheBytes: PREFIX_CACHE_BYTES,
      featureCacheBytes: FEATURE_CACHE_BYTES,
      maxOverlays: 1,
      fetchOverlay: async () => {
        if (overlayDir === undefined) throw new Error('internal: no overlay was given');
        return { base: MODEL, dir: overlayDir, key: this.identity };
      },
      onEngineDeath: () => {},
    });
    const decoders = new DecodePool();
    try {
      await pool.start();
    } catch (error) {
      await decoders.close();
      await pool.close();
      throw error;
    }
    return {
      service: new EngineModelService(pool, CAPACITY, decoders),
      close: async () => {
        await decoders.close();
        await pool.close();
      },
    };
  }
}

/** Whose caches these are: all questions of an evaluation may share. */
const EVALUATION_TENANT = '0'.repeat(32);

function bestChoice(logprobs: readonly number[], choices: readonly string[]): EngineEvalAnswer {
  const bad = logprobs.findIndex((value) => Number.isNaN(value) || value === Number.POSITIVE_INFINITY);
  if (bad >= 0 || logprobs.length !== choices.length)
    throw new Error(`expected a log-probability of each of ${choices.length} choices, got ${logprobs.join(', ')}`);
  const best = logprobs.indexOf(Math.max(...logprobs));
  return { text: choices[best]!, finishReason: 'choice', logprobs };
}

function weightBytes(dir: string): number {
  return readdirSync(dir)
    .filter((name) => /\.(safetensors|onnx|data|bin)$/.test(name))
    .reduce((sum, name) => sum + statSync(join(dir, name)).size, 0);
}
