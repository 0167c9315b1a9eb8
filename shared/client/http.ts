import { ErrorEnvelope, type Violation } from '../contract/errors.ts';
import { randomText } from '../wire/ids.ts';

export type ClientOptions = {
  /** Origin of the edge, `http://127.0.0.1:8787`. */
  baseUrl: string;
  /** API key, `mk_…`. */
  apiKey: string;
  /** Default: the platform's. */
  fetch?: typeof fetch;
  /** How often a 429, a 5xx or a broken connection is tried again where that is safe. Default 2. */
  maxRetries?: number;
};

/** The edge's answer to a request it did not do. `details` lists every violation where there were several. */
export class ClientError extends Error {
  override readonly name = 'ClientError';
  constructor(
    readonly status: number,
    message: string,
    readonly code: string | null,
    readonly param: string | null,
    readonly requestId: string | null,
    readonly details: readonly (Omit<Violation, 'code'> & { code: string })[],
  ) {
    super(message);
  }
}

export type RequestOptions = {
  method?: 'GET' | 'POST' | 'DELETE';
  query?: Record<string, string | number | undefined>;
  json?: unknown;
  form?: FormData;
  accept?: string;
  headers?: Record<string, string>;
  signal?: AbortSignal | undefined;
};

const RETRY_STATUS: ReadonlySet<number> = new Set([429, 502, 503, 504]);
const FIRST_PAUSE_MS = 500;
const MAX_PAUSE_MS = 8_000;
/** Longer waits that a server asks for are the caller's to decide. */
const MAX_TOLD_MS = 60_000;

/** POSTs that make something: sent under a key of their own, so that they may be sent again whatever became of the first one. */
const isCreation = (path: string): boolean => !/^\/v1\/(admin|chat|score)(\/|$)/.test(path);

/** One authenticated way to the edge; errors become `ClientError`s, safe failures are tried again. */
export class Http {
  readonly #options: Required<ClientOptions>;

  constructor(options: ClientOptions) {
    const { baseUrl, apiKey, maxRetries = 2 } = options;
    this.#options = { baseUrl: baseUrl.replace(/\/$/, ''), apiKey, maxRetries, fetch: options.fetch ?? fetch };
  }

  async json<T>(path: string, options: RequestOptions = {}): Promise<T> {
    return (await (await this.response(path, options)).json()) as T;
  }

  /** @throws ClientError for every status but 2xx; the network's own error when no answer came. */
  async response(path: string, options: RequestOptions = {}): Promise<Response> {
    const { maxRetries } = this.#options;
    const isPost = options.method === 'POST';
    const isKeyed = isPost && isCreation(path);
    if (isKeyed) options = { ...options, headers: { 'idempotency-key': randomText(24), ...options.headers } };
    for (let attempt = 0; ; attempt++) {
      const last = attempt >= maxRetries;
      let response: Response;
      try {
        response = await this.#send(path, options);
      } catch (error) {
        // Another POST may have arrived; only the caller knows whether it may arrive twice.
        if (last || options.signal?.aborted || (isPost && !isKeyed)) throw error;
        await pause(FIRST_PAUSE_MS * 2 ** attempt, options.signal);
        continue;
      }
      if (response.ok) return response;
      const error = await clientError(response);
      // 503 means that nothing was begun, so that every POST may be repeated.
      const safe = !isPost || isKeyed || response.status === 503 || response.status === 429;
      const said = response.headers.get('x-should-retry');
      const isWanted = said === null ? RETRY_STATUS.has(response.status) : said === 'true';
      const told = Number(response.headers.get('retry-after-ms') ?? Number.NaN);
      if (last || !safe || !isWanted || told > MAX_TOLD_MS) throw error;
      const ownMs = Math.min(FIRST_PAUSE_MS * 2 ** attempt, MAX_PAUSE_MS);
      await pause(Number.isFinite(told) ? told : ownMs, options.signal);
    }
  }

  #send(path: string, options: RequestOptions): Promise<Response> {
    const { method = 'GET', query = {}, json, form, accept = 'application/json', signal } = options;
    const url = new URL(`${this.#options.baseUrl}${path}`);
    for (const [name, value] of Object.entries(query))
      if (value !== undefined) url.searchParams.set(name, String(value));
    const headers: Record<string, string> = {
      ...options.headers,
      accept,
      authorization: `Bearer ${this.#options.apiKey}`,
    };
    if (json !== undefined) headers['content-type'] = 'application/json';
    const body = form ?? (json === undefined ? undefined : JSON.stringify(json));
    return this.#options.fetch(url, {
      method,
      headers,
      ...(body === undefined ? {} : { body }),
      ...(signal === undefined ? {} : { signal }),
    });
  }
}

async function clientError(response: Response): Promise<ClientError> {
  const text = await response.text();
  const requestId = response.headers.get('x-request-id');
  try {
    const { error } = ErrorEnvelope.parse(JSON.parse(text));
    const details = (error.details ?? []).map(({ line, ...rest }) => (line === undefined ? rest : { ...rest, line }));
    return new ClientError(response.status, error.message, error.code, error.param, requestId, details);
  } catch {
    return new ClientError(
      response.status,
      `HTTP ${response.status}: ${text.slice(0, 200)}`,
      null,
      null,
      requestId,
      [],
    );
  }
}

/** The in-band error of a stream, as a `ClientError` with status 200: the answer had begun. */
export function streamError(data: string): ClientError | null {
  const parsed = ErrorEnvelope.safeParse(JSON.parse(data));
  if (!parsed.success) return null;
  const { message, code, param } = parsed.data.error;
  return new ClientError(200, message, code, param, null, []);
}

function pause(ms: number, signal: AbortSignal | undefined): Promise<void> {
  return new Promise((resolve, reject) => {
    const timer = setTimeout(resolve, ms);
    signal?.addEventListener('abort', () => {
      clearTimeout(timer);
      reject(signal.reason);
    });
  });
}
