/** One address that questions are sent to: at most so many at once, what is passing is tried again, a server that asks for a pause gets it from all of them. */
import { setTimeout as sleep } from 'node:timers/promises';
import { ModelUnusable } from '../run/model-unusable.ts';
import { Turnstile } from '../run/turnstile.ts';
import type { Json } from '../task.ts';

export interface EndpointOptions {
  /** Up to the version: `https://api.openai.com/v1`. */
  readonly baseUrl: string;
  /** Sent as a bearer token, and kept out of every message. Default: none. */
  readonly apiKey?: string;
  /** Requests under way at once. Default 8. */
  readonly atOnce?: number;
  /** For one attempt, from sending to the last byte, milliseconds. Default 120,000. */
  readonly timeoutMs?: number;
  /** Further attempts after a failure that may pass. Default 5. */
  readonly maxRetries?: number;
  /** Longest body, bytes. Default 50 MiB. */
  readonly maxRequestBytes?: number;
  /** First of the pauses between attempts, each twice the one before, milliseconds. Default 1,000. */
  readonly firstPauseMs?: number;
  /** Told before every further attempt what the last one came to. */
  readonly onRetry?: (retry: EndpointRetry) => void;
}

export interface EndpointRetry {
  readonly why: string;
  /** Attempts so far, and how many there will be at most. */
  readonly attempts: number;
  readonly most: number;
  readonly pauseMs: number;
}

const DEFAULTS = {
  atOnce: 8,
  timeoutMs: 120_000,
  maxRetries: 5,
  maxRequestBytes: 50 * 2 ** 20,
  firstPauseMs: 1_000,
} as const;
const MAX_PAUSE_MS = 30_000;
/** Longer waits are for a person to decide on. */
const MAX_TOLD_PAUSE_MS = 300_000;
const MAX_ANSWER_BYTES = 4 * 2 ** 20;
/** Statuses after which the same request may succeed. */
const PASSING: ReadonlySet<number> = new Set([408, 409, 425, 429, 500, 502, 503, 504, 520, 522, 524, 529]);
/** Statuses that every other request will get too. */
const FINAL: ReadonlySet<number> = new Set([401, 402, 403, 404, 405]);
const MAX_SHOWN_CHARS = 300;

/** A request that the endpoint refused, or that failed as often as it was tried. */
export class EndpointError extends Error {
  override readonly name = 'EndpointError';
  constructor(
    message: string,
    /** Null where no answer came. */
    readonly status: number | null,
    /** What of the request was refused, where the answer says so in OpenAI's form. */
    readonly param: string | null = null,
  ) {
    super(message);
  }
}

interface Failure {
  readonly error: Error;
  /** What the server asked for, milliseconds; null: nothing. */
  readonly pauseMs: number | null;
}

export class Endpoint {
  readonly host: string;
  readonly atOnce: number;
  readonly #base: string;
  readonly #apiKey: string | null;
  readonly #o: Required<Omit<EndpointOptions, 'baseUrl' | 'apiKey' | 'onRetry'>>;
  readonly #onRetry: EndpointOptions['onRetry'];
  readonly #turnstile: Turnstile;
  #pausedUntilMs = 0;
  #hasAnswered = false;

  /** @throws Error for an address that is none, or that holds a name or a password */
  constructor({ baseUrl, apiKey, onRetry, ...options }: EndpointOptions) {
    const url = URL.canParse(baseUrl) ? new URL(baseUrl) : null;
    if (
      url === null ||
      !/^https?:$/.test(url.protocol) ||
      url.username !== '' ||
      url.password !== '' ||
      url.search !== ''
    )
      throw new Error(
        `expected the address of an API such as https://api.openai.com/v1, without name, password or query, received ${JSON.stringify(withoutSecret(baseUrl, apiKey ?? null))}`,
      );
    this.host = url.host;
    this.#base = `${url.origin}${url.pathname.replace(/\/+$/, '')}`;
    const ending = /\/(chat\/completions|completions|score|responses|models)$/.exec(this.#base);
    if (ending !== null)
      throw new Error(
        `expected the address of an API up to its version, ${this.#base.slice(0, ending.index)}, received ${this.#base}; leave ${ending[0]} out`,
      );
    this.#apiKey = apiKey === undefined || apiKey === '' ? null : apiKey;
    this.#o = { ...DEFAULTS, ...options };
    this.#onRetry = onRetry;
    this.atOnce = this.#o.atOnce;
    this.#turnstile = new Turnstile(this.atOnce);
  }

  /** Address without anything secret, for identities and messages. */
  get address(): string {
    return this.#base;
  }

  /**
   * @param read takes the parsed body; what it throws counts as an answer that is none, and is tried again
   * @throws ModelUnusable where no request can succeed; EndpointError; the signal's reason
   */
  async post<T>(path: string, body: Json, read: (answer: unknown) => T, signal: AbortSignal): Promise<T> {
    const text = JSON.stringify(body);
    const bytes = Buffer.byteLength(text);
    if (bytes > this.#o.maxRequestBytes)
      throw new EndpointError(
        `a request of ${bytes} bytes is not sent, ${this.#o.maxRequestBytes} are allowed; use smaller pictures or --mode merge`,
        null,
      );
    await this.#turnstile.enter();
    try {
      for (let attempt = 0; ; attempt++) {
        await this.#pause(signal);
        const outcome = await this.#attempt(path, text, read, signal);
        if ('answer' in outcome) return outcome.answer;
        const { error, pauseMs } = outcome;
        if (attempt >= this.#o.maxRetries || (pauseMs ?? 0) > MAX_TOLD_PAUSE_MS) throw this.#final(error, attempt + 1);
        const ownMs = Math.min(this.#o.firstPauseMs * 2 ** attempt, MAX_PAUSE_MS) * (0.75 + Math.random() / 2);
        this.#onRetry?.({
          why: error.message,
          attempts: attempt + 1,
          most: this.#o.maxRetries + 1,
          pauseMs: pauseMs ?? ownMs,
        });
        // A server that says when it has room again says so to all requests; other failures are one request's.
        if (pauseMs === null) await sleep(ownMs, undefined, { signal });
        else this.#pausedUntilMs = Math.max(this.#pausedUntilMs, performance.now() + pauseMs);
      }
    } finally {
      this.#turnstile.leave();
    }
  }

  async #pause(signal: AbortSignal): Promise<void> {
    for (;;) {
      signal.throwIfAborted();
      const leftMs = this.#pausedUntilMs - performance.now();
      if (leftMs <= 0) return;
      await sleep(leftMs, undefined, { signal });
    }
  }

  async #attempt<T>(
    path: string,
    text: string,
    read: (answer: unknown) => T,
    signal: AbortSignal,
  ): Promise<{ answer: T } | Failure> {
    const timeout = AbortSignal.timeout(this.#o.timeoutMs);
    let response: Response;
    let body: string;
    try {
      response = await fetch(`${this.#base}${path}`, {
        method: 'POST',
        headers: {
          'content-type': 'application/json',
          accept: 'application/json',
          ...(this.#apiKey === null ? {} : { authorization: `Bearer ${this.#apiKey}` }),
        },
        body: text,
        // A key goes to the address that the user named, and to no other.
        redirect: 'error',
        signal: AbortSignal.any([signal, timeout]),
      });
      body = await bodyOf(response);
    } catch (error) {
      signal.throwIfAborted();
      const why = timeout.aborted ? `no answer within ${this.#o.timeoutMs} ms` : causeOf(error);
      return { error: new EndpointError(`${this.host}: ${this.#clean(why)}`, null), pauseMs: null };
    }
    if (response.ok) {
      this.#hasAnswered = true;
      try {
        return { answer: read(JSON.parse(body)) };
      } catch (error) {
        const why = error instanceof Error ? error.message : String(error);
        const message = `${this.host} answered what is no completion (${why}): ${body.slice(0, MAX_SHOWN_CHARS)}`;
        return { error: new EndpointError(this.#clean(message), response.status), pauseMs: null };
      }
    }
    const { message, param } = errorOf(body);
    const error = new EndpointError(
      this.#clean(`${this.host} answered ${response.status}: ${message}`),
      response.status,
      param,
    );
    if (FINAL.has(response.status)) throw new ModelUnusable(`${error.message}${this.#hint(response.status, path)}`);
    this.#hasAnswered = true;
    if (!PASSING.has(response.status)) throw error;
    return { error, pauseMs: pauseOf(response.headers) };
  }

  #final(error: Error, attempts: number): Error {
    const message = `${error.message} (tried ${attempts} ${attempts === 1 ? 'time' : 'times'})`;
    if (!this.#hasAnswered) return new ModelUnusable(`${message}; is the address right?`);
    const { status, param } = error instanceof EndpointError ? error : { status: null, param: null };
    return new EndpointError(message, status, param);
  }

  /** The commonest mistake in an address is that its version is missing. */
  #hint(status: number, path: string): string {
    if (status !== 404 || this.#hasAnswered || /\/v\d+[a-z]*$/.test(this.#base)) return '';
    return `; ${this.#base}${path} was asked: most servers want an address that ends with /v1`;
  }

  #clean(message: string): string {
    return withoutSecret(message, this.#apiKey);
  }
}

function withoutSecret(message: string, secret: string | null): string {
  const text = message.replace(/\/\/[^/@\s]*@/g, '//…@');
  return secret === null || secret.length < 4 ? text : text.replaceAll(secret, '[key]');
}

/** @throws Error for an answer beyond all reason */
async function bodyOf(response: Response): Promise<string> {
  if (response.body === null) return '';
  const pieces: Uint8Array[] = [];
  let bytes = 0;
  for await (const piece of response.body) {
    bytes += piece.byteLength;
    if (bytes > MAX_ANSWER_BYTES) throw new Error(`the answer is longer than ${MAX_ANSWER_BYTES} bytes`);
    pieces.push(piece);
  }
  return Buffer.concat(pieces).toString('utf8');
}

function errorOf(body: string): { message: string; param: string | null } {
  try {
    const { error } = JSON.parse(body) as { error?: { message?: unknown; param?: unknown } | string };
    const message = typeof error === 'string' ? error : error?.message;
    const param = typeof error === 'object' ? error.param : null;
    if (typeof message === 'string')
      return { message: message.slice(0, MAX_SHOWN_CHARS), param: typeof param === 'string' ? param : null };
  } catch {
    // Not JSON: shown as it is.
  }
  return { message: body.slice(0, MAX_SHOWN_CHARS) || 'nothing', param: null };
}

/** `retry-after-ms`, or `retry-after` in seconds or as a date. */
function pauseOf(headers: Headers): number | null {
  const inMs = headers.get('retry-after-ms');
  if (inMs !== null && Number.isFinite(Number(inMs))) return Math.max(0, Number(inMs));
  const told = headers.get('retry-after');
  if (told === null) return null;
  const ms = Number.isFinite(Number(told)) ? Number(told) * 1000 : Date.parse(told) - Date.now();
  return Number.isNaN(ms) ? null : Math.max(0, ms);
}

/** What fetch keeps in `cause` says more than its own words. */
function causeOf(error: unknown): string {
  if (!(error instanceof Error)) return String(error);
  const { cause } = error;
  if (cause instanceof Error) return `${(cause as NodeJS.ErrnoException).code ?? ''} ${cause.message}`.trim();
  return error.message;
}
