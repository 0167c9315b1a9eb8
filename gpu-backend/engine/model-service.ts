import type { CountResponse, GenerateEvent, GenerateRequest } from '../../shared/contract/backend.ts';
import { ApiError } from '../../shared/contract/errors.ts';
import type { ModelCard } from '../../shared/contract/models.ts';
import type { Message } from '../text/layout.ts';
import type { DecodePool } from '../vision/pool.ts';
import { admit } from './admission.ts';
import { AnswerText } from './answer.ts';
import type { EngineEvent } from './engine.ts';
import { cacheScope } from './feature-key.ts';
import type { FeatureStore } from './feature-store.ts';
import type { ImageSlot } from './live-request.ts';
import type { ModelFront } from './model-front.ts';
import type { ModelPool } from './model-pool.ts';
import { type PictureContext, Pictures, type PreparedPicture } from './pictures.ts';
import { imagePaths, layOut, readMessages } from './prompt.ts';
import type { Capacity } from './scheduler.ts';
import type { ModelService, ServiceStats } from './service.ts';

/** The server's side of serving: layout, pictures, admission, then the engine thread; back through detokenisation. */
export class EngineModelService implements ModelService {
  readonly #pool: ModelPool;
  readonly #capacity: Capacity;
  readonly #store: FeatureStore | null;
  readonly #pictures: Pictures;
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
    this.#capacity = capacity;
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

  async count(request: GenerateRequest, blobs: readonly Uint8Array[]): Promise<CountResponse> {
    const { front, release } = await this.#pool.resolve(request);
    release(); // counting needs no weights
    const messages = readMessages(request, blobs, front);
    const { fixed, idsOf } = front.slots;
    const context = pictureContext(request, front);
    const slots = new Map<number, readonly number[]>();
    for (const [blob, path] of fixed === null ? distinctPictures(request, messages) : [])
      slots.set(blob, idsOf(await this.#pictures.sizeOf(blobs[blob]!, path, context)));
    const layout = layOut(messages, front, (blob) => fixed ?? slots.get(blob)!);
    return { promptTokens: layout.ids.length, imageTokens: layout.images.map(({ tokenCount }) => tokenCount) };
  }

  async *generate(
    request: GenerateRequest,
    blobs: readonly Uint8Array[],
    signal: AbortSignal,
  ): AsyncGenerator<GenerateEvent, void, undefined> {
    const deadlineAtMs = Date.now() + request.deadlineMs;
    this.#inFlight++;
    let releaseModel = () => {};
    let heldId: string | null = null;
    try {
      const { id: model, front, release } = await this.#pool.resolve(request);
      releaseModel = release;
      const messages = readMessages(request, blobs, front);
      const id = `${request.requestId}#${this.#nextId++}`;
      const context = pictureContext(request, front);
      const prepare = (): Promise<ReadonlyMap<number, PreparedPicture>> => {
        heldId = id;
        const pictures = distinctPictures(request, messages);
        return this.#pictures.prepare(this.#pool.thread, id, pictures, blobs, context);
      };
      // Where the layout needs no sizes, what does not fit is refused before a picture is decoded.
      const { fixed, idsOf } = front.slots;
      const early = fixed === null ? await prepare() : null;
      const layout = layOut(messages, front, (blob) => fixed ?? idsOf(early!.get(blob)!.size));
      const imageTokens = layout.images.map(({ tokenCount }) => tokenCount);
      const admitted = admit(
        {
          promptTokens: layout.ids.length,
          imageTokens: imageTokens.reduce((sum, count) => sum + count, 0),
          maxNewTokens: request.sampling.maxTokens,
        },
        {
          contextTokens: front.card.contextTokens,
          defaultMaxNewTokens: front.card.maxNewTokens,
          capacity: this.#capacity,
        },
      );
      if ('refusal' in admitted) {
        const { code, message } = admitted.refusal;
        throw new ApiError(code === 'empty_prompt' ? 'invalid_value' : code, message, { param: 'messages' });
      }
      const prepared = early ?? (await prepare());
      const images = layout.images.map(({ image, tokenStart, tokenCount }): ImageSlot => {
        const { key, picture } = prepared.get(image)!;
        return { start: tokenStart, tokens: tokenCount, key, picture };
      });
      const { sampling } = request;
      const events = this.#pool.thread.run(
        model,
        {
          id,
          cacheScope: context.scope,
          tokenIds: layout.ids,
          images,
          maxNewTokens: admitted.maxNewTokens,
          sampling: {
            temperature: sampling.temperature,
            topP: sampling.topP,
            topK: sampling.topK ?? 0,
            seed: sampling.seed ?? Math.floor(Math.random() * 2 ** 32),
          },
          stopIds: front.stopIds,
          topLogprobs: sampling.logprobs ?? -1,
          deadlineAtMs,
        },
        signal,
      );
      const imageCache = layout.images.map(({ image }) => prepared.get(image)!.source ?? 'none');
      yield { type: 'started', promptTokens: layout.ids.length, imageTokens, imageCache };
      heldId = null; // the engine takes it over with the first event that is asked for
      yield* relay(events, request, front, layout.ids.length, imageTokens);
    } finally {
      if (heldId !== null) this.#pool.thread.release(heldId);
      releaseModel();
      this.#inFlight--;
    }
  }
}

function pictureContext(request: GenerateRequest, front: ModelFront): PictureContext {
  const tenant = request.tenant ?? null;
  return { scope: cacheScope({ front, tenant }), tenant, front };
}

/** The blobs that messages refer to, each once, and the path of the first picture that shows it. */
function distinctPictures(request: GenerateRequest, messages: readonly Message[]): ReadonlyMap<number, string> {
  const paths = imagePaths(request);
  const blobs = messages.flatMap(({ parts }) => parts.flatMap((part) => (part.type === 'image' ? [part.image] : [])));
  const found = new Map<number, string>();
  for (const [i, blob] of blobs.entries()) if (!found.has(blob)) found.set(blob, paths[i] ?? 'messages');
  return found;
}

/** Engine events → contract events of one answer. */
async function* relay(
  events: AsyncGenerator<EngineEvent, void, undefined>,
  request: GenerateRequest,
  front: ModelFront,
  promptTokens: number,
  imageTokens: readonly number[],
): AsyncGenerator<GenerateEvent, void, undefined> {
  const { sampling } = request;
  const answer = new AnswerText({
    tokenizer: front.tokenizer,
    stop: sampling.stop,
    logprobs: sampling.logprobs !== undefined,
  });
  let completionTokens = 0;
  const delta = (ready: ReturnType<AnswerText['push']>): GenerateEvent[] =>
    ready === null
      ? []
      : [
          {
            type: 'delta',
            index: 0,
            text: ready.text,
            ...(ready.logprobs === null ? {} : { logprobs: [...ready.logprobs] }),
          },
        ];
  const finished = (finishReason: 'stop' | 'length' | 'cancelled'): GenerateEvent => ({
    type: 'finished',
    index: 0,
    finishReason,
    usage: {
      promptTokens,
      completionTokens,
      imageTokens: imageTokens.reduce((sum, count) => sum + count, 0),
      cachedTokens: 0,
    },
  });
  for await (const event of events) {
    switch (event.type) {
      case 'token':
        completionTokens++;
        yield* delta(answer.push(event.token));
        if (answer.stopped) {
          // Leaving the loop cancels the row; what it computes until then is not shown or counted.
          yield finished('stop');
          return;
        }
        break;
      case 'end':
        yield* delta(answer.finish());
        if (event.reason === 'deadline')
          throw new ApiError('deadline_exceeded', `The answer was not finished within ${request.deadlineMs} ms.`);
        yield finished(event.reason);
        return;
      case 'failed':
        throw new Error(`generation failed: ${event.message}`);
      default:
        event satisfies never;
    }
  }
}
