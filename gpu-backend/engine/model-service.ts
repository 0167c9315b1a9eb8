import type {
  AnswerConstraint,
  BackendScoreRequest,
  BackendScoreResponse,
  CountRequest,
  CountResponse,
  GenerateEvent,
  GenerateRequest,
} from '../../shared/contract/backend.ts';
import { ApiError } from '../../shared/contract/errors.ts';
import type { ModelCard } from '../../shared/contract/models.ts';
import type { Tokenizer } from '../text/tokenizer.ts';
import { TokenizerError } from '../text/tokenizer-error.ts';
import type { DecodePool } from '../vision/pool.ts';
import { modelSize } from '../vision/preprocess.ts';
import type { FeatureStore } from './feature-store.ts';
import { type Constraint, ConstraintCompiler, type ConstraintSpec } from './grammar/constraint.ts';
import { GrammarError } from './grammar/expr.ts';
import { merge } from './merge.ts';
import type { ModelFront } from './model-front.ts';
import type { ModelPool } from './model-pool.ts';
import { Pictures } from './pictures.ts';
import { distinctPictures, PreparedPrompt, type PromptDeps, pictureContext } from './prepared-prompt.ts';
import { layOut, readMessages } from './prompt.ts';
import { choiceSeed } from './random.ts';
import { engineFailure, relay } from './relay.ts';
import type { SamplingParams } from './sampler.ts';
import type { Capacity } from './scheduler/types.ts';
import type { ModelService, ServiceStats } from './service.ts';

/** The server's side of serving: layout, pictures, admission, then the engine thread; back through detokenisation. */
export class EngineModelService implements ModelService {
  readonly #pool: ModelPool;
  readonly #store: FeatureStore | null;
  readonly #pictures: Pictures;
  readonly #deps: PromptDeps;
  readonly #constraints = new ConstraintCompiler();
  #nextId = 0;
  #inFlight = 0;

  /**
   * @param capacity the one the pool's engines run with
   * @param decoders where pictures are decoded; closed by the caller
   * @param store where features of pictures outlive the process; flushed by the caller. Default `null`: memory only
   */
  constructor(pool: ModelPool, capacity: Capacity, decoders: DecodePool, store: FeatureStore | null = null) {
    this.#pool = pool;
    this.#store = store;
    this.#pictures = new Pictures(decoders, store);
    this.#deps = { pool, pictures: this.#pictures, capacity };
  }

  get inFlight(): number {
    return this.#inFlight;
  }

  cards(): readonly ModelCard[] {
    return this.#pool.cards();
  }

  async stats(): Promise<ServiceStats> {
    const engine = await this.#pool.thread.call('stats', null);
    return { ...engine, pictures: this.#pictures.counts, featureTiers: this.#store?.stats() ?? [] };
  }

  async count(request: CountRequest, blobs: readonly Uint8Array[]): Promise<CountResponse> {
    const { front, release } = await this.#pool.resolve(request);
    release(); // counting needs no weights
    const { pictures, options } = request;
    const messages = readMessages(request, pictures ?? blobs, front);
    const { fixed, idsOf } = front.slots;
    const context = pictureContext(request, front, this.#pool);
    const slots = new Map<number, readonly number[]>();
    for (const [blob, path] of fixed === null ? distinctPictures(request, messages) : []) {
      const told = pictures?.[blob];
      const size =
        told === undefined
          ? await this.#pictures.sizeOf(blobs[blob]!, path, context)
          : modelSize(told.width, told.height, front.recipe);
      slots.set(blob, idsOf(size));
    }
    const layout = layOut(messages, front, (blob) => fixed ?? slots.get(blob)!);
    return {
      promptTokens: layout.ids.length,
      imageTokens: layout.images.map(({ tokenCount }) => tokenCount),
      ...(options === undefined
        ? {}
        : { optionTokens: options.map((option, index) => optionTokens(option, index, front.tokenizer).length) }),
    };
  }

  async *generate(
    request: GenerateRequest,
    blobs: readonly Uint8Array[],
    signal: AbortSignal,
  ): AsyncGenerator<GenerateEvent, void, undefined> {
    const deadlineAtMs = Date.now() + request.deadlineMs;
    this.#inFlight++;
    const number = this.#nextId++;
    const idOf = (choice: number) => `${request.requestId}#${number}.${choice}`;
    let prompt: PreparedPrompt | null = null;
    try {
      let params!: Omit<SamplingParams, 'seed'>;
      prompt = await PreparedPrompt.open(this.#deps, request, blobs, idOf(0), (front) => {
        params = this.#samplingParams(request, front);
        return { maxNewTokens: request.sampling.maxTokens, givenTokens: 0 };
      });
      const { front, layout, maxNewTokens, imageCache } = prompt;
      const imageTokens = [...prompt.imageTokens];
      yield { type: 'started', promptTokens: layout.ids.length, imageTokens, imageCache: [...imageCache] };
      const { sampling } = request;
      const seed = sampling.seed ?? Math.floor(Math.random() * 2 ** 32);
      const aborter = new AbortController();
      const choices = sampling.choices ?? 1;
      const answer = (index: number, others: () => void) =>
        relay(
          prompt!.run(
            {
              ...ENGINE_DEFAULTS,
              priority: request.priority ?? 'interactive',
              id: idOf(index),
              tokenIds: layout.ids,
              maxNewTokens,
              sampling: { ...params, seed: choiceSeed(seed, index) },
              stopIds: front.stopIds,
              topLogprobs: sampling.logprobs ?? -1,
              deadlineAtMs,
            },
            AbortSignal.any([signal, aborter.signal]),
          ),
          { request, front, index, onToken: others },
        );
      const usage = {
        promptTokens: layout.ids.length,
        completionTokens: 0,
        imageTokens: imageTokens.reduce((sum, count) => sum + count, 0),
        cachedTokens: 0,
      };
      let running = choices;
      for await (const event of merge(choices, answer, () => aborter.abort())) {
        if (event.type === 'delta') {
          yield event;
          continue;
        }
        const { index, finishReason } = event;
        usage.completionTokens += event.completionTokens;
        if (index === 0) usage.cachedTokens = event.cachedTokens;
        running--;
        if (running > 0) yield { type: 'choice', index, finishReason };
        else yield { type: 'finished', index, finishReason, usage };
      }
    } finally {
      prompt?.close();
      this.#inFlight--;
    }
  }

  async score(
    request: BackendScoreRequest,
    blobs: readonly Uint8Array[],
    signal: AbortSignal,
  ): Promise<BackendScoreResponse> {
    const deadlineAtMs = Date.now() + request.deadlineMs;
    this.#inFlight++;
    const number = this.#nextId++;
    const idOf = (option: number) => `${request.requestId}#${number}.${option}`;
    let prompt: PreparedPrompt | null = null;
    try {
      let options: readonly (readonly number[])[] = [];
      prompt = await PreparedPrompt.open(this.#deps, request, blobs, idOf(0), ({ tokenizer }) => {
        options = request.options.map((option, index) => optionTokens(option, index, tokenizer));
        return { maxNewTokens: 0, givenTokens: Math.max(...options.map(({ length }) => length)) };
      });
      const { front, layout } = prompt;
      const aborter = new AbortController();
      const scores = options.map(({ length }) => ({ logprob: Number.NaN, tokens: length }));
      let cachedTokens = 0;
      const read = (index: number) =>
        prompt!.run(
          {
            ...ENGINE_DEFAULTS,
            priority: request.priority ?? 'interactive',
            id: idOf(index),
            tokenIds: Int32Array.from([...layout.ids, ...options[index]!]),
            maxNewTokens: 0,
            readFrom: layout.ids.length,
            sampling: { temperature: 0, topP: 1, topK: 0, seed: 0 },
            stopIds: front.stopIds,
            topLogprobs: -1,
            deadlineAtMs,
          },
          AbortSignal.any([signal, aborter.signal]),
        );
      const indexOf = new Map(options.map((_, index) => [idOf(index), index]));
      for await (const event of merge(options.length, read, () => aborter.abort())) {
        const index = indexOf.get(event.id)!;
        if (event.type === 'started' && index === 0) ({ cachedTokens } = event);
        if (event.type === 'read') scores[index]!.logprob = event.logprobs.reduce((sum, one) => sum + one, 0);
        if (event.type === 'failed') throw engineFailure('scoring', event);
        if (event.type === 'end' && Number.isNaN(scores[index]!.logprob))
          throw new ApiError('deadline_exceeded', `The options were not scored within ${request.deadlineMs} ms.`);
      }
      const imageTokens = prompt.imageTokens.reduce((sum, count) => sum + count, 0);
      return { scores, usage: { promptTokens: layout.ids.length, completionTokens: 0, imageTokens, cachedTokens } };
    } finally {
      prompt?.close();
      this.#inFlight--;
    }
  }

  /** How every choice is drawn. @throws ApiError for a constraint or a token that this model cannot follow */
  #samplingParams({ sampling }: GenerateRequest, front: ModelFront): Omit<SamplingParams, 'seed'> {
    const { temperature, topP, topK = 0, minP, presencePenalty, frequencyPenalty, repetitionPenalty } = sampling;
    const { logitBias, constraint } = sampling;
    const unknown = logitBias?.find(([id]) => id >= front.tokenizer.vocabSize);
    if (unknown !== undefined)
      throw new ApiError(
        'invalid_value',
        `logit_bias: expected ids of tokens below ${front.tokenizer.vocabSize}, received ${unknown[0]}.`,
        { param: `logit_bias.${unknown[0]}` },
      );
    return {
      temperature,
      topP,
      topK,
      ...(minP === undefined ? {} : { minP }),
      ...(presencePenalty === undefined ? {} : { presencePenalty }),
      ...(frequencyPenalty === undefined ? {} : { frequencyPenalty }),
      ...(repetitionPenalty === undefined ? {} : { repetitionPenalty }),
      ...(logitBias === undefined ? {} : { logitBias }),
      ...(constraint === undefined ? {} : { constraint: this.#compile(constraint, front) }),
    };
  }

  #compile({ spec, param }: AnswerConstraint, front: ModelFront): Constraint {
    try {
      return this.#constraints.compile(spec as ConstraintSpec, front, param);
    } catch (error) {
      if (!(error instanceof GrammarError)) throw error;
      const code = error.reason === 'unsupported' ? 'unsupported_parameter' : 'invalid_value';
      throw new ApiError(code, `${error.path}: ${error.message}.`, { param: error.path });
    }
  }
}

/** What all requests of this service have in common for now. */
const ENGINE_DEFAULTS = { adapter: null, readFrom: null } as const;

function optionTokens(option: string, index: number, tokenizer: Tokenizer): readonly number[] {
  try {
    return tokenizer.encode(option);
  } catch (error) {
    if (!(error instanceof TokenizerError)) throw error;
    throw new ApiError('invalid_value', `options[${index}]: ${error.message}.`, { param: `options[${index}]` });
  }
}
