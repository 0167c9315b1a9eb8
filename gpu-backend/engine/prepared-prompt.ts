import type { GenerateRequest } from '../../shared/contract/backend.ts';
import { ApiError } from '../../shared/contract/errors.ts';
import type { Layout, Message } from '../text/layout.ts';
import { admit } from './admission.ts';
import { cacheScope } from './feature-key.ts';
import type { EngineRequest, ImageSlot } from './live-request.ts';
import type { ModelFront } from './model-front.ts';
import type { LoadedModel, ModelPool } from './model-pool.ts';
import type { FeatureSource, PictureContext, Pictures, PreparedPicture } from './pictures.ts';
import { imagePaths, layOut, readMessages } from './prompt.ts';
import type { Capacity } from './scheduler/types.ts';
import type { EngineThread } from './thread.ts';

/** What serving a prompt takes. */
export interface PromptDeps {
  readonly pool: ModelPool;
  readonly pictures: Pictures;
  readonly capacity: Capacity;
}

/** Room that a request needs behind its prompt. */
export interface PromptNeeds {
  /** Tokens to generate; `null` = as many as fit, up to the model's own limit. */
  readonly maxNewTokens: number | null;
  /** Given tokens that follow the prompt. */
  readonly givenTokens: number;
}

/**
 * One prompt, laid out and admitted, from which any number of engine requests start: several choices, several options to score. It
 * holds the model and the pictures' features until it is closed.
 */
export class PreparedPrompt {
  readonly layout: Layout;
  readonly maxNewTokens: number;
  readonly #cacheScope: string;
  readonly #model: LoadedModel;
  readonly #thread: EngineThread;
  readonly #prepare: (id: string) => Promise<ReadonlyMap<number, PreparedPicture>>;
  /** Engine requests whose pictures are held and that have not been submitted. */
  readonly #held: Set<string>;
  #first: { readonly id: string; readonly pictures: ReadonlyMap<number, PreparedPicture> };

  private constructor(parts: {
    readonly layout: Layout;
    readonly maxNewTokens: number;
    readonly cacheScope: string;
    readonly model: LoadedModel;
    readonly thread: EngineThread;
    readonly prepare: (id: string) => Promise<ReadonlyMap<number, PreparedPicture>>;
    readonly held: Set<string>;
    readonly first: { readonly id: string; readonly pictures: ReadonlyMap<number, PreparedPicture> };
  }) {
    this.layout = parts.layout;
    this.maxNewTokens = parts.maxNewTokens;
    this.#cacheScope = parts.cacheScope;
    this.#model = parts.model;
    this.#thread = parts.thread;
    this.#prepare = parts.prepare;
    this.#held = parts.held;
    this.#first = parts.first;
  }

  /**
   * @param firstId id of the engine request that will be the first to start
   * @param check looks at the request with the model at hand, before pictures are opened
   * @throws ApiError when the request can never be served
   */
  static async open(
    { pool, pictures, capacity }: PromptDeps,
    request: GenerateRequest,
    blobs: readonly Uint8Array[],
    firstId: string,
    check: (front: ModelFront) => PromptNeeds,
  ): Promise<PreparedPrompt> {
    const model = await pool.resolve(request);
    const { thread } = pool;
    const held = new Set<string>();
    try {
      const { front } = model;
      const needs = check(front);
      const messages = readMessages(request, blobs, front);
      const context = pictureContext(request, front, pool);
      const distinct = distinctPictures(request, messages);
      const prepare = (id: string) => {
        held.add(id);
        return pictures.prepare(thread, id, distinct, blobs, context);
      };
      // Where the layout needs no sizes, what does not fit is refused before a picture is decoded.
      const { fixed, idsOf } = front.slots;
      const early = fixed === null ? await prepare(firstId) : null;
      const layout = layOut(messages, front, (blob) => fixed ?? idsOf(early!.get(blob)!.size));
      const maxNewTokens = admitted(layout, needs, front, capacity);
      const first = { id: firstId, pictures: early ?? (await prepare(firstId)) };
      return new PreparedPrompt({
        layout,
        maxNewTokens,
        cacheScope: context.scope,
        model,
        thread,
        prepare,
        held,
        first,
      });
    } catch (error) {
      for (const id of held) thread.release(id);
      model.release();
      throw error;
    }
  }

  get front(): ModelFront {
    return this.#model.front;
  }

  /** Positions of each picture, in reading order. */
  get imageTokens(): readonly number[] {
    return this.layout.images.map(({ tokenCount }) => tokenCount);
  }

  /** Where the features of each picture came from. */
  get imageCache(): readonly (Exclude<FeatureSource, null> | 'none')[] {
    return this.layout.images.map(({ image }) => this.#first.pictures.get(image)!.source ?? 'none');
  }

  /** Starts an engine request behind this prompt. Its pictures are prepared anew unless it is the first: by then they are cached. */
  async *run(
    request: Omit<EngineRequest, 'images' | 'cacheScope'>,
    signal: AbortSignal,
  ): ReturnType<EngineThread['run']> {
    const { id } = request;
    const pictures = id === this.#first.id ? this.#first.pictures : await this.#prepare(id);
    const images = this.layout.images.map(({ image, tokenStart, tokenCount }): ImageSlot => {
      const { key, picture } = pictures.get(image)!;
      return { start: tokenStart, tokens: tokenCount, key, picture };
    });
    this.#held.delete(id); // the engine takes it over with the first event that is asked for
    yield* this.#thread.run(this.#model.id, { ...request, cacheScope: this.#cacheScope, images }, signal);
  }

  close(): void {
    for (const id of this.#held) this.#thread.release(id);
    this.#held.clear();
    this.#model.release();
  }
}

/** @throws ApiError with the numbers when prompt and answer do not fit */
function admitted(layout: Layout, needs: PromptNeeds, { card }: ModelFront, capacity: Capacity): number {
  const decided = admit(
    {
      promptTokens: layout.ids.length + needs.givenTokens,
      imageTokens: layout.images.reduce((sum, { tokenCount }) => sum + tokenCount, 0),
      maxNewTokens: needs.maxNewTokens,
    },
    { contextTokens: card.contextTokens, defaultMaxNewTokens: card.maxNewTokens, capacity },
  );
  if (!('refusal' in decided)) return decided.maxNewTokens;
  const { code, message } = decided.refusal;
  throw new ApiError(code === 'empty_prompt' ? 'invalid_value' : code, message, { param: 'messages' });
}

/** Made once a request: without a tenant, every call gives another scope. */
export function pictureContext(
  request: GenerateRequest,
  front: ModelFront,
  { compute }: Pick<ModelPool, 'compute'>,
): PictureContext {
  const tenant = request.tenant ?? null;
  return { scope: cacheScope({ front, tenant, compute }), tenant, front };
}

/** The blobs that messages refer to, each once, and the path of the first picture that shows it. */
export function distinctPictures(request: GenerateRequest, messages: readonly Message[]): ReadonlyMap<number, string> {
  const paths = imagePaths(request);
  const blobs = messages.flatMap(({ parts }) => parts.flatMap((part) => (part.type === 'image' ? [part.image] : [])));
  const found = new Map<number, string>();
  for (const [i, blob] of blobs.entries()) if (!found.has(blob)) found.set(blob, paths[i] ?? 'messages');
  return found;
}
