import { HubError } from './hub-error.ts';

/** How long to wait and how often to try again. */
export interface HubPatience {
  /** Failures in a row, without a mebibyte gained between them, before giving up. Default 6. */
  readonly attempts: number;
  /** The n-th wait is a random time up to baseDelayMs · 2^n, at most maxDelayMs. Default 500 and 30,000. */
  readonly baseDelayMs: number;
  readonly maxDelayMs: number;
  /** Longest `Retry-After` that is waited out; more is an error that names the time. Default 5 minutes. */
  readonly maxRetryAfterMs: number;
  /** Until the first byte of an answer. Default 30,000. */
  readonly headersTimeoutMs: number;
  /** Between two pieces of a body. Default 30,000. */
  readonly stallTimeoutMs: number;
}

export const HUB_PATIENCE: HubPatience = {
  attempts: 6,
  baseDelayMs: 500,
  maxDelayMs: 30_000,
  maxRetryAfterMs: 300_000,
  headersTimeoutMs: 30_000,
  stallTimeoutMs: 30_000,
};

/** A failure that another try may mend. */
export class TransientError extends Error {
  override readonly name = 'TransientError';
  constructor(
    message: string,
    /** What the server asked for; undefined: the usual backoff. */
    readonly retryAfterMs?: number,
    /** HTTP status behind it, if any. */
    readonly status?: number,
    options?: ErrorOptions,
  ) {
    super(message, options);
  }
}

/** What the hub itself (not the storage host it points to) says about a file. */
export interface LinkedFile {
  readonly etag?: string;
  readonly bytes?: number;
}

export interface HubResponse {
  readonly response: Response;
  readonly linked: LinkedFile;
  /** Ends the exchange and its connection. */
  cancel(reason?: unknown): void;
  /** The pieces of the body. @throws TransientError where it breaks off or stalls. */
  body(): AsyncGenerator<Uint8Array>;
}

const MAX_REDIRECTS = 6;
const TRANSIENT = new Set([408, 425, 429, 500, 502, 503, 504]);

export interface HubClientOptions {
  /** Base address, e.g. https://huggingface.co or a mirror, without a slash at the end. */
  readonly endpoint: string;
  readonly token?: string | undefined;
  readonly patience: HubPatience;
  readonly signal?: AbortSignal | undefined;
  /** In [0, 1), for the jitter. */
  readonly random: () => number;
  readonly sleep: (ms: number, signal?: AbortSignal) => Promise<void>;
}

/** Requests to one hub: redirects followed by hand so that the token stays with the endpoint's own origin. */
export class HubClient {
  private readonly origin: string;

  /** @throws HubError `bad_endpoint` */
  constructor(private readonly options: HubClientOptions) {
    let url: URL;
    try {
      url = new URL(options.endpoint);
    } catch {
      throw new HubError('bad_endpoint', `expected HF_ENDPOINT to be a URL, got ${JSON.stringify(options.endpoint)}`);
    }
    if ((url.protocol !== 'https:' && url.protocol !== 'http:') || url.username !== '' || url.password !== '')
      throw new HubError(
        'bad_endpoint',
        `expected HF_ENDPOINT to be an http(s) URL without a user name, got ${url.protocol}//${url.host}`,
      );
    this.origin = url.origin;
  }

  get patience(): HubPatience {
    return this.options.patience;
  }

  /**
   * Runs `attempt` until it succeeds, fails for good, or has failed too often in a row.
   * @param attempt gets a function to call with bytes gained: real progress starts the count of failures anew
   */
  async retrying<T>(what: string, attempt: (gained: (bytes: number) => void) => Promise<T>): Promise<T> {
    const { patience, signal, random, sleep } = this.options;
    let failures = 0;
    let gainedBytes = 0;
    const gained = (bytes: number): void => {
      gainedBytes += bytes;
      if (gainedBytes < 1 << 20) return;
      gainedBytes = 0;
      failures = 0;
    };
    for (;;) {
      try {
        return await attempt(gained);
      } catch (error) {
        signal?.throwIfAborted();
        if (!(error instanceof TransientError)) throw error;
        failures++;
        const code = error.status === 429 ? 'rate_limited' : 'unreachable';
        if (failures >= patience.attempts)
          throw new HubError(
            code,
            `${what}: gave up after ${failures} tries in a row: ${error.message}. What has come is kept; the same command goes on from there`,
            { cause: error },
          );
        const backoff = random() * Math.min(patience.maxDelayMs, patience.baseDelayMs * 2 ** (failures - 1));
        if (error.retryAfterMs !== undefined && error.retryAfterMs > patience.maxRetryAfterMs)
          throw new HubError(
            code,
            `${what}: the server asks to come back in ${Math.ceil(error.retryAfterMs / 1000)} s: ${error.message}`,
            { cause: error },
          );
        // Jitter on top of what was asked for: others were told the same moment.
        await sleep((error.retryAfterMs ?? 0) + backoff, signal).catch((cause: unknown) => {
          signal?.throwIfAborted();
          throw cause;
        });
      }
    }
  }

  /** A JSON document of the hub's API. @throws HubError */
  async getJson(path: string, what: string, maxBytes: number): Promise<unknown> {
    const text = await this.retrying(what, async () => {
      const answer = await this.open(path, what);
      const pieces: Uint8Array[] = [];
      let size = 0;
      for await (const piece of answer.body()) {
        size += piece.byteLength;
        if (size > maxBytes) {
          answer.cancel();
          throw new HubError('too_large', `${what}: the answer is longer than ${maxBytes} bytes`);
        }
        pieces.push(piece);
      }
      return Buffer.concat(pieces).toString('utf8');
    });
    try {
      return JSON.parse(text);
    } catch (cause) {
      throw new HubError(
        'bad_response',
        `${what}: expected JSON from ${this.options.endpoint}, got ${JSON.stringify(text.slice(0, 80))}: is it a hub?`,
        { cause },
      );
    }
  }

  /**
   * GET of a path of the endpoint, redirects followed. Resolves for 200, 206 and 416.
   * @throws HubError for answers that stay; TransientError for those that may change
   */
  async open(path: string, what: string, headers: Readonly<Record<string, string>> = {}): Promise<HubResponse> {
    let url = new URL(`${this.options.endpoint}${path}`);
    let linked: LinkedFile = {};
    for (let hop = 0; hop <= MAX_REDIRECTS; hop++) {
      const isHub = url.origin === this.origin;
      const answer = await this.exchange(url, headers, isHub);
      const { response } = answer;
      if (isHub) linked = linkedFile(response.headers, linked);
      if (response.status >= 300 && response.status < 400 && response.status !== 304) {
        answer.cancel();
        url = nextUrl(url, response.headers.get('location'), what);
        continue;
      }
      if (response.status === 200 || response.status === 206 || response.status === 416) return { ...answer, linked };
      answer.cancel();
      throw this.failure(response, what, isHub, url);
    }
    throw new HubError('bad_response', `${what}: more than ${MAX_REDIRECTS} redirects, the last to ${url.host}`);
  }

  private async exchange(
    url: URL,
    headers: Readonly<Record<string, string>>,
    isHub: boolean,
  ): Promise<Omit<HubResponse, 'linked'>> {
    const { token, signal, patience } = this.options;
    signal?.throwIfAborted();
    const controller = new AbortController();
    const cancel = (reason?: unknown): void => controller.abort(reason);
    const onAbort = (): void => cancel(signal?.reason);
    signal?.addEventListener('abort', onAbort, { once: true });
    const done = (): void => signal?.removeEventListener('abort', onAbort);
    const deadline = (ms: number, message: string): NodeJS.Timeout =>
      setTimeout(() => cancel(new TransientError(message)), ms);
    /** What an aborted or broken exchange means to the caller. */
    const explain = (cause: unknown): unknown => {
      if (signal?.aborted) return signal.reason;
      if (controller.signal.reason instanceof TransientError) return controller.signal.reason;
      const inner = cause instanceof Error && cause.cause instanceof Error ? cause.cause.message : undefined;
      const message = cause instanceof Error ? cause.message : String(cause);
      return new TransientError(`the connection to ${url.host} broke (${inner ?? message})`, undefined, undefined, {
        cause,
      });
    };
    const timer = deadline(patience.headersTimeoutMs, `${url.host} did not answer in ${patience.headersTimeoutMs} ms`);
    let response: Response;
    try {
      response = await fetch(url, {
        redirect: 'manual',
        signal: controller.signal,
        headers: {
          'user-agent': 'mantis-edge',
          // Ranges and sizes are those of the file, not of a compressed form of it.
          'accept-encoding': 'identity',
          ...headers,
          ...(isHub && token !== undefined ? { authorization: `Bearer ${token}` } : {}),
        },
      });
    } catch (error) {
      done();
      throw explain(error);
    } finally {
      clearTimeout(timer);
    }
    async function* body(): AsyncGenerator<Uint8Array> {
      const reader = (response.body ?? new Blob([]).stream()).getReader();
      try {
        for (;;) {
          const stall = deadline(patience.stallTimeoutMs, `${url.host} sent nothing for ${patience.stallTimeoutMs} ms`);
          let piece: { done: boolean; value?: Uint8Array | undefined };
          try {
            piece = await reader.read();
          } catch (error) {
            throw explain(error);
          } finally {
            clearTimeout(stall);
          }
          if (piece.done || piece.value === undefined) return;
          yield piece.value;
        }
      } finally {
        done();
        // A caller that stops early must not leave the connection half read.
        cancel();
      }
    }
    return {
      response,
      body,
      cancel: (reason) => {
        done();
        cancel(reason);
      },
    };
  }

  private failure({ status, headers }: Response, what: string, isHub: boolean, url: URL): Error {
    if (TRANSIENT.has(status))
      return new TransientError(`${url.host} answered ${status}`, retryAfterMs(headers), status);
    // The address of a storage host is signed for a while only: the hub gives a new one.
    if (!isHub && (status === 401 || status === 403))
      return new TransientError(`${url.host} answered ${status} (an expired address?)`, undefined, status);
    const said = headers.get('x-error-message')?.slice(0, 300);
    const detail = said === undefined ? '' : ` (the hub says: ${said})`;
    const hasToken = this.options.token !== undefined;
    if (headers.get('x-error-code') === 'GatedRepo' || (status === 403 && isHub))
      return new HubError(
        'gated',
        `${what} is gated${detail}: accept its licence on its page at ${this.options.endpoint}, then set HF_TOKEN to a token of that account with read access${hasToken ? ' (the present token is not let in)' : ''}`,
      );
    if (status === 401)
      return new HubError(
        'unauthorized',
        hasToken
          ? `${what}: the hub does not accept this token${detail}: check HF_TOKEN, or that the name is right`
          : `${what} does not exist, or is private or gated${detail}: check the name; if it is right, accept its licence on its page and set HF_TOKEN`,
      );
    if (status === 404) {
      const missing = headers.get('x-error-code') === 'RevisionNotFound' ? 'has no such revision' : 'was not found';
      return new HubError(
        'not_found',
        `${what} ${missing} at ${this.options.endpoint}${detail}: check the name and revision`,
      );
    }
    return new HubError('bad_response', `${what}: ${url.host} answered ${status}${detail}`);
  }
}

function linkedFile(headers: Headers, before: LinkedFile): LinkedFile {
  const etag = headers.get('x-linked-etag') ?? undefined;
  const size = headers.get('x-linked-size');
  const bytes = size !== null && /^\d{1,15}$/.test(size) ? Number(size) : undefined;
  return { ...before, ...(etag === undefined ? {} : { etag }), ...(bytes === undefined ? {} : { bytes }) };
}

function nextUrl(from: URL, location: string | null, what: string): URL {
  const to = location === null || !URL.canParse(location, from.href) ? undefined : new URL(location, from);
  if (to === undefined) throw new HubError('bad_response', `${what}: ${from.host} redirects to nowhere`);
  if (to.protocol !== 'https:' && (to.protocol !== 'http:' || from.protocol === 'https:'))
    throw new HubError(
      'bad_response',
      `${what}: ${from.host} redirects to ${to.protocol}//${to.host}, which is refused`,
    );
  return to;
}

/** `Retry-After` in seconds or as a date, else the reset time of a `RateLimit` header (`"api";r=0;t=55`). */
export function retryAfterMs(headers: Headers, nowMs = Date.now()): number | undefined {
  const value = headers.get('retry-after')?.trim();
  if (value !== undefined && /^\d{1,9}$/.test(value)) return Number(value) * 1000;
  const date = value === undefined ? Number.NaN : Date.parse(value);
  if (Number.isFinite(date)) return Math.max(0, date - nowMs);
  const reset = /;\s*t=(\d{1,9})/.exec(headers.get('ratelimit') ?? '')?.[1];
  return reset === undefined ? undefined : Number(reset) * 1000;
}
