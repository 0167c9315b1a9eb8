import { createHash } from 'node:crypto';
import type { CountResponse, GenerateEvent, GenerateRequest } from '../../shared/contract/backend.ts';
import { ApiError } from '../../shared/contract/errors.ts';
import type { ModelCard } from '../../shared/contract/models.ts';
import type { Picture, PictureSize } from '../models/family.ts';
import type { Message } from '../text/layout.ts';
import { ImageError } from '../vision/image-error.ts';
import { type DecodePool, DecodePoolFullError } from '../vision/pool.ts';
import type { PreprocessedImage } from '../vision/preprocess.ts';
import { admit } from './admission.ts';
import { AnswerText } from './answer.ts';
import type { EngineEvent } from './engine.ts';
import type { ImageSlot } from './live-request.ts';
import type { ModelFront } from './model-front.ts';
import type { ModelPool } from './model-pool.ts';
import { imagePaths, layOut, readMessages } from './prompt.ts';
import type { EngineStats } from './protocol.ts';
import type { Capacity } from './scheduler.ts';
import type { ModelService } from './service.ts';

/** Bounded memory of file bytes → digest and size of the pixels, so that a picture seen before is not decoded to find its features. */
const MAX_KNOWN_PICTURES = 8192;

interface KnownPicture extends PictureSize {
  readonly digest: string;
}

/** A picture on its way to the engine. */
interface PreparedPicture {
  readonly key: string;
  /** As the model sees it. */
  readonly size: PictureSize;
  /** `null` where its features are cached, and held for the request. */
  readonly picture: Picture | null;
}

/** The server's side of serving: layout, pictures, admission, then the engine thread; back through detokenisation. */
export class EngineModelService implements ModelService {
  readonly #pool: ModelPool;
  readonly #capacity: Capacity;
  readonly #decoders: DecodePool;
  /** SHA-256 of file bytes and recipe → the pixels they decode to, by digest. */
  readonly #known = new Map<string, KnownPicture>();
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
    const messages = readMessages(request, blobs, front);
    const { fixed, idsOf } = front.slots;
    const slots = new Map<number, readonly number[]>();
    for (const [blob, path] of fixed === null ? distinctPictures(request, messages) : []) {
      const bytes = blobs[blob]!;
      const size = this.#known.get(fileKey(bytes, front)) ?? (await this.#decode(bytes, path, front));
      slots.set(blob, idsOf(size));
    }
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
      const prepare = (): Promise<ReadonlyMap<number, PreparedPicture>> => {
        heldId = id;
        return this.#preparePictures(id, distinctPictures(request, messages), blobs, front);
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
      yield { type: 'started', promptTokens: layout.ids.length, imageTokens };
      heldId = null; // the engine takes it over with the first event that is asked for
      yield* relay(events, request, front, layout.ids.length, imageTokens);
    } finally {
      if (heldId !== null) this.#pool.thread.release(heldId);
      releaseModel();
      this.#inFlight--;
    }
  }

  /**
   * Pixels of the pictures whose features are not cached. Features that are cached stay pinned for `id`.
   * @param pictures blobs, each once, and where they stand
   */
  async #preparePictures(
    id: string,
    pictures: ReadonlyMap<number, string>,
    blobs: readonly Uint8Array[],
    front: ModelFront,
  ): Promise<ReadonlyMap<number, PreparedPicture>> {
    const known = [...pictures.keys()].map((blob) => this.#known.get(fileKey(blobs[blob]!, front)) ?? null);
    const keys = known.map((one) => (one === null ? `unknown ${id}` : featureKey(one.digest, front)));
    const missing = new Set(await this.#pool.thread.call('hold', { request: id, keys }));
    const prepared = await Promise.all(
      [...pictures].map(async ([blob, path], index): Promise<[number, PreparedPicture]> => {
        const size = known[index] ?? null;
        if (size !== null && !missing.has(index)) return [blob, { key: keys[index]!, size, picture: null }];
        const { pixels_CHW, width, height, digest } = await this.#decode(blobs[blob]!, path, front);
        const picture = { pixels_CHW: owned(pixels_CHW), width, height };
        return [blob, { key: featureKey(digest, front), size: picture, picture }];
      }),
    );
    return new Map(prepared);
  }

  /** @throws ApiError that says what is wrong with the picture at `path`, or that too many wait */
  async #decode(bytes: Uint8Array, path: string, front: ModelFront): Promise<PreprocessedImage> {
    const image = await this.#decoders.preprocess(bytes, front.recipe).catch((error: unknown) => {
      if (error instanceof DecodePoolFullError) throw new ApiError('overloaded', error.message);
      if (!(error instanceof ImageError)) throw error;
      throw new ApiError(error.code, `${path}: ${error.message}`, { param: path });
    });
    const { digest, width, height } = image;
    this.#known.set(fileKey(bytes, front), { digest, width, height });
    const oldest = this.#known.keys().next();
    if (this.#known.size > MAX_KNOWN_PICTURES && oldest.done !== true) this.#known.delete(oldest.value);
    return image;
  }
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
