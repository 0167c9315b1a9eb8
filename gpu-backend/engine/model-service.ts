import { createHash } from 'node:crypto';
import type { CountResponse, GenerateEvent, GenerateRequest } from '../../shared/contract/backend.ts';
import { ApiError } from '../../shared/contract/errors.ts';
import type { ModelCard } from '../../shared/contract/models.ts';
import type { Layout } from '../text/layout.ts';
import { ImageError } from '../vision/image-error.ts';
import { type DecodePool, DecodePoolFullError } from '../vision/pool.ts';
import { admit } from './admission.ts';
import { AnswerText } from './answer.ts';
import type { EngineEvent } from './engine.ts';
import type { ImageSlot } from './live-request.ts';
import type { ModelFront } from './model-front.ts';
import type { ModelPool } from './model-pool.ts';
import { imagePaths, layOut } from './prompt.ts';
import type { EngineStats } from './protocol.ts';
import type { Capacity } from './scheduler.ts';
import type { ModelService } from './service.ts';

/** Bounded memory of file bytes → pixel digest, so that a picture seen before is not decoded to find its features. */
const MAX_KNOWN_PICTURES = 8192;

/** The server's side of serving: layout, pictures, admission, then the engine thread; back through detokenisation. */
export class EngineModelService implements ModelService {
  readonly #pool: ModelPool;
  readonly #capacity: Capacity;
  readonly #decoders: DecodePool;
  /** SHA-256 of file bytes and recipe → digest of the pixels they decode to. */
  readonly #pixelDigests = new Map<string, string>();
  #nextId = 0;
  #inFlight = 0;

  /**
   * @param capacity the one the pool's engines run with
   * @param decoders where pictures are decoded; closed by the caller
   */
  constructor(pool: ModelPool, capacity: Capacity, decoders: DecodePool) {
    this.#pool = pool;
    this.#decoders = decoders;
    this.#capacity = capacity;
  }

  get inFlight(): number {
    return this.#inFlight;
  }

  cards(): readonly ModelCard[] {
    return this.#pool.cards();
  }

  stats(): Promise<EngineStats> {
    return this.#pool.thread.call('stats', null);
  }

  async count(request: GenerateRequest, blobs: readonly Uint8Array[]): Promise<CountResponse> {
    const { front, release } = await this.#pool.resolve(request);
    release(); // counting needs no weights
    const layout = layOut(request, blobs, front);
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
    try {
      const { id: model, front, release } = await this.#pool.resolve(request);
      releaseModel = release;
      const layout = layOut(request, blobs, front);
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
      const id = `${request.requestId}#${this.#nextId++}`;
      const images = await this.#prepareImages(id, request, blobs, layout, front);
      let heldId: string | null = id;
      const { sampling } = request;
      const events = this.#pool.thread.run(
        model,
        {
          id,
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
      try {
        yield { type: 'started', promptTokens: layout.ids.length, imageTokens };
        heldId = null; // the engine takes it over with the first event that is asked for
        yield* relay(events, request, front, layout.ids.length, imageTokens);
      } finally {
        if (heldId !== null) this.#pool.thread.release(heldId);
      }
    } finally {
      releaseModel();
      this.#inFlight--;
    }
  }

  /** Pixels of the pictures whose features are not cached; each distinct picture once. Features that are cached stay pinned for `id`. */
  async #prepareImages(
    id: string,
    request: GenerateRequest,
    blobs: readonly Uint8Array[],
    layout: Layout,
    front: ModelFront,
  ): Promise<ImageSlot[]> {
    const paths = imagePaths(request);
    const distinct = [...new Set(layout.images.map(({ image }) => image))];
    const known = distinct.map((blob) => this.#pixelDigests.get(fileKey(blobs[blob]!, front)) ?? null);
    const keys = known.map((digest) => (digest === null ? `unknown ${id}` : featureKey(digest, front)));
    const missing = new Set(await this.#pool.thread.call('hold', { request: id, keys }));
    const prepared = new Map<number, { key: string; pixels: Float32Array | null }>();
    try {
      await Promise.all(
        distinct.map(async (blob, index) => {
          if (!missing.has(index)) {
            prepared.set(blob, { key: keys[index]!, pixels: null });
            return;
          }
          const bytes = blobs[blob]!;
          const { pixels_CHW, digest } = await this.#decoders
            .preprocess(bytes, front.recipe)
            .catch((error: unknown) => {
              if (error instanceof DecodePoolFullError) throw new ApiError('overloaded', error.message);
              if (!(error instanceof ImageError)) throw error;
              const path = paths[layout.images.findIndex(({ image }) => image === blob)] ?? null;
              throw new ApiError(error.code, `${path}: ${error.message}`, { param: path });
            });
          this.#remember(fileKey(bytes, front), digest);
          prepared.set(blob, { key: featureKey(digest, front), pixels: owned(pixels_CHW) });
        }),
      );
    } catch (error) {
      this.#pool.thread.release(id);
      throw error;
    }
    return layout.images.map(({ image, tokenStart, tokenCount }) => ({
      start: tokenStart,
      tokens: tokenCount,
      ...prepared.get(image)!,
    }));
  }

  #remember(key: string, digest: string): void {
    this.#pixelDigests.set(key, digest);
    const oldest = this.#pixelDigests.keys().next();
    if (this.#pixelDigests.size > MAX_KNOWN_PICTURES && oldest.done !== true) this.#pixelDigests.delete(oldest.value);
  }
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

function fileKey(bytes: Uint8Array, front: ModelFront): string {
  return `${createHash('sha256').update(bytes).digest('hex')} ${front.visionDigest}`;
}

/** Features depend on the pixels (whose digest covers the recipe) and on the weights that see them. */
function featureKey(pixelDigest: string, front: ModelFront): string {
  return `${front.visionDigest} ${pixelDigest}`;
}

/** The same values in a buffer of their own, which can be handed to another thread without taking anything else along. */
function owned(values: Float32Array): Float32Array {
  return values.byteLength === values.buffer.byteLength ? values : values.slice();
}
