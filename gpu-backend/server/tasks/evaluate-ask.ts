/** Asks served models for a run of an evaluation, through this backend's own engine and behind everything that somebody waits for. */
import { createHash } from 'node:crypto';
import { setTimeout as sleep } from 'node:timers/promises';
import type { AnswerConstraint, GenerateMessage, GenerateRequest } from '../../../shared/contract/backend.ts';
import { ApiError } from '../../../shared/contract/errors.ts';
import type { EvalSampling } from '../../../shared/contract/evals.ts';
import type { EvalItemUsage } from '../../../shared/contract/evalTask.ts';
import { LIMITS } from '../../../shared/contract/limits.ts';
import type { ModelService } from '../../engine/service.ts';
import type { AskedMessage } from '../../eval/graders/conversation.ts';
import { readPictureSize } from '../../vision/decode.ts';
import { type EdgeClient, EdgeError } from '../edge-client.ts';

/** A full engine is asked again after this pause, doubled up to the most; an edge that is away, too. */
const PAUSE_MS = 250;
const MAX_PAUSE_MS = 5_000;
const MAX_TRIES = 40;
/** Pictures that items share are fetched once, as long as they fit. */
const MAX_PICTURE_BYTES = 64 * 1024 * 1024;

/** The item's own fault, or its answer's: told with the item, and nothing else ends. */
export class ItemError extends Error {
  override readonly name = 'ItemError';
  constructor(
    readonly code: string,
    message: string,
  ) {
    super(message);
  }
}

export interface Answered {
  readonly text: string;
  readonly finishReason: string;
  readonly usage: EvalItemUsage;
  /** What was asked, for people: pictures as `[image sha256:…]`. */
  readonly input: readonly { readonly role: string; readonly content: string }[];
  readonly logprobs?: readonly number[];
}

export interface Question {
  readonly requestId: string;
  /** As the client wrote it; an alias stands for what it stood for when the run was made. */
  readonly model: string;
  readonly messages: readonly AskedMessage[];
  readonly sampling: EvalSampling;
  readonly constraint?: AnswerConstraint['spec'];
  /** The most likely of these is the answer. */
  readonly choices?: readonly string[];
}

export interface AskerOptions {
  readonly service: ModelService;
  readonly edge: EdgeClient;
  readonly taskId: string;
  readonly tenant: string;
  readonly models: Readonly<Record<string, string>>;
  readonly signal: AbortSignal;
}

/** Pixels of the upright picture by its header; 0 where that cannot be read. */
type Picture = { readonly bytes: Uint8Array; readonly sha256: string; readonly width: number; readonly height: number };
type UsedImage = NonNullable<EvalItemUsage['images']>[number];

export class Asker {
  readonly #o: AskerOptions;
  readonly #pictures = new Map<string, Promise<Picture>>();
  #heldBytes = 0;

  constructor(options: AskerOptions) {
    this.#o = options;
  }

  /** @throws ItemError; what passes is tried again, and after many tries thrown as it is */
  async ask(question: Question): Promise<Answered> {
    const { service, tenant, models, signal } = this.#o;
    const { requestId, model, sampling, constraint, choices } = question;
    const { messages, blobs, input, pictures } = await this.#withPictures(question.messages);
    const request: GenerateRequest = {
      requestId,
      ...(/^[0-9a-f]{32}$/.test(tenant) ? { tenant } : {}),
      model: models[model] ?? model,
      messages,
      sampling: {
        maxTokens: sampling.max_completion_tokens ?? sampling.max_completions_tokens ?? null,
        temperature: sampling.temperature ?? 0,
        topP: sampling.top_p ?? 1,
        ...(sampling.seed == null ? {} : { seed: sampling.seed }),
        ...(constraint === undefined
          ? {}
          : { constraint: { param: 'sampling_params.response_format', spec: constraint } }),
        stop: [],
      },
      priority: 'batch',
      deadlineMs: LIMITS.request.deadlineMs,
    };
    return await this.#again(messages, async () => {
      const startedAt = performance.now();
      const used = (usage: Omit<EvalItemUsage, 'model'>, tokens: readonly number[], cache: readonly string[] = []) => ({
        model,
        ...usage,
        images: pictures.map(
          ({ sha256, bytes, width, height }, i): UsedImage => ({
            digest: `sha256:${sha256}`,
            bytes: bytes.byteLength,
            width,
            height,
            tokens: tokens[i] ?? 0,
            cache: cache[i] ?? 'none',
          }),
        ),
        durationMs: Math.round(performance.now() - startedAt),
      });
      if (choices === undefined) {
        const { imageTokens, imageCache, usage, ...answer } = await wholeAnswer(service, request, blobs, signal);
        return { ...answer, usage: used(usage, imageTokens, imageCache), input };
      }
      const { scores, usage } = await service.score({ ...request, options: [...choices] }, blobs, signal);
      const logprobs = scores.map(({ logprob }) => logprob);
      const best = logprobs.indexOf(Math.max(...logprobs));
      const tokens = shares(usage.imageTokens, pictures.length);
      return { text: choices[best] ?? '', finishReason: 'choice', usage: used(usage, tokens), input, logprobs };
    });
  }

  async #again<T>(messages: readonly GenerateMessage[], work: () => Promise<T>): Promise<T> {
    const { signal } = this.#o;
    for (let attempt = 1; ; attempt++) {
      signal.throwIfAborted();
      try {
        return await work();
      } catch (error) {
        signal.throwIfAborted();
        if (!(error instanceof ApiError)) throw error;
        const passes = error.status >= 500 || error.status === 429;
        if (!passes) throw new ItemError(error.code, inWords(error.message, messages));
        if (attempt === MAX_TRIES) throw error;
        await sleep(Math.min(PAUSE_MS * 2 ** (attempt - 1), MAX_PAUSE_MS), undefined, { signal });
      }
    }
  }

  async #withPictures(asked: readonly AskedMessage[]) {
    const blobs: Uint8Array[] = [];
    const places = new Map<string, number>();
    const messages: GenerateMessage[] = [];
    const input: { role: string; content: string }[] = [];
    /** In reading order, each time it is shown. */
    const pictures: Picture[] = [];
    let bytes = 0;
    for (const { role, parts } of asked) {
      const message: GenerateMessage = { role, parts: [] };
      let content = '';
      for (const part of parts) {
        if (part.type === 'text') {
          message.parts.push({ type: 'text', text: part.text });
          content += part.text;
          continue;
        }
        const place = pictures.length + 1;
        const picture = await this.picture(part.reference).catch((error: unknown) => {
          throw error instanceof ItemError ? new ItemError(error.code, inPicture(place, error.message)) : error;
        });
        let blob = places.get(picture.sha256);
        if (blob === undefined) {
          blob = blobs.push(picture.bytes) - 1;
          places.set(picture.sha256, blob);
          bytes += picture.bytes.byteLength;
          if (bytes > LIMITS.images.maxTotalBytes)
            throw new ItemError(
              'image_file_too_large',
              `images: expected at most ${LIMITS.images.maxTotalBytes} bytes in one question, received more`,
            );
        }
        message.parts.push({ type: 'image', blob });
        pictures.push(picture);
        content += `[image sha256:${picture.sha256}]`;
      }
      messages.push(message);
      input.push({ role, content });
    }
    return { messages, blobs, input, pictures };
  }

  /** @param reference a data URL is read here; everything else is the edge's to look up or fetch, as this tenant's, and stays as it was first read */
  async picture(reference: string): Promise<Picture> {
    const key = createHash('sha256').update(reference).digest('hex');
    const held = this.#pictures.get(key);
    if (held !== undefined) return await held;
    const coming = reference.startsWith('data:')
      ? Promise.resolve().then(() => measured(fromDataUrl(reference)))
      : this.#fetch(reference);
    this.#pictures.set(key, coming);
    try {
      const picture = await coming;
      this.#heldBytes += picture.bytes.byteLength;
      for (const [oldest, one] of this.#pictures) {
        if (this.#heldBytes <= MAX_PICTURE_BYTES || oldest === key) break;
        this.#pictures.delete(oldest);
        this.#heldBytes -= (await one.catch(() => picture)).bytes.byteLength;
      }
      return picture;
    } catch (error) {
      this.#pictures.delete(key);
      throw error;
    }
  }

  async #fetch(reference: string): Promise<Picture> {
    const { edge, taskId, signal } = this.#o;
    for (let attempt = 1; ; attempt++) {
      signal.throwIfAborted();
      try {
        const bytes = await edge.getBytes(
          `/internal/tasks/${encodeURIComponent(taskId)}/images?reference=${encodeURIComponent(reference)}`,
        );
        return await measured(bytes);
      } catch (error) {
        if (error instanceof EdgeError && error.code !== null && /image/.test(error.code))
          throw new ItemError(error.code, error.message.replace(/^.*?: expected 2xx, received \d+: /, ''));
        if (attempt === MAX_TRIES || (error instanceof EdgeError && error.status < 500 && error.status !== 429))
          throw error;
        await sleep(Math.min(PAUSE_MS * 2 ** (attempt - 1), MAX_PAUSE_MS), undefined, { signal });
      }
    }
  }
}

async function measured(bytes: Uint8Array): Promise<Picture> {
  const { width, height } = await readPictureSize(bytes).catch(() => ({ width: 0, height: 0 }));
  return { bytes, sha256: createHash('sha256').update(bytes).digest('hex'), width, height };
}

/** `picture 3 of the question: expected …`: people know nothing of parts and blobs. */
const inPicture = (place: number, message: string): string =>
  `picture ${place} of the question: ${message.replace(/^(?:image|reference|data_source)[^:]{0,40}: /, '')}`;

/** A refusal by the engine, which names parts of messages, in the same words. */
function inWords(message: string, messages: readonly GenerateMessage[]): string {
  const [whole, m, p] = /^messages\[(\d+)\]\.parts\[(\d+)\]: /.exec(message) ?? [];
  if (whole === undefined) return message;
  const before = messages.slice(0, Number(m)).flatMap(({ parts }) => parts);
  const until = messages[Number(m)]?.parts.slice(0, Number(p) + 1) ?? [];
  const place = [...before, ...until].filter(({ type }) => type === 'image').length;
  return inPicture(place, message.slice(whole.length));
}

/** Where only the sum of several pictures is told: equal parts of it, the first ones larger by what is left. */
function shares(sum: number, count: number): number[] {
  return Array.from({ length: count }, (_, i) => Math.floor(sum / count) + (i < sum % count ? 1 : 0));
}

function fromDataUrl(url: string): Uint8Array {
  const [, body] = /^data:image\/[a-z0-9.+-]+;base64,([A-Za-z0-9+/]+={0,2})$/i.exec(url) ?? [];
  if (body === undefined || body.length % 4 !== 0)
    throw new ItemError(
      'invalid_base64_image',
      `image: expected data:image/…;base64, and base64, received ${JSON.stringify(url.slice(0, 40))}`,
    );
  const bytes = Buffer.from(body, 'base64');
  if (bytes.byteLength > LIMITS.images.maxBytes)
    throw new ItemError(
      'image_file_too_large',
      `image: expected at most ${LIMITS.images.maxBytes} bytes, received ${bytes.byteLength}`,
    );
  return bytes;
}

async function wholeAnswer(
  service: ModelService,
  request: GenerateRequest,
  blobs: readonly Uint8Array[],
  signal: AbortSignal,
) {
  let text = '';
  let imageTokens: readonly number[] = [];
  let imageCache: readonly string[] = [];
  let end: { readonly finishReason: string; readonly usage: Omit<EvalItemUsage, 'model'> } | null = null;
  for await (const event of service.generate(request, blobs, signal)) {
    if (event.type === 'started') ({ imageTokens, imageCache = [] } = event);
    else if (event.type === 'delta') text += event.text;
    else if (event.type === 'error')
      throw new ApiError('backend_failed', event.error.message, { status: event.error.status });
    else if (event.type === 'finished') end = { finishReason: event.finishReason, usage: event.usage };
  }
  signal.throwIfAborted();
  if (end === null) throw new ApiError('backend_failed', 'The engine ended without an answer.');
  return { text, imageTokens, imageCache, ...end };
}
