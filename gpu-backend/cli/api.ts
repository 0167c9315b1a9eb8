import { readFile } from 'node:fs/promises';
import { Option } from 'commander';
import { ErrorEnvelope } from '../../shared/contract/errors.ts';
import { decodeSse } from '../../shared/wire/sse.ts';
import { CliError } from './error.ts';

export interface ApiOptions {
  readonly url: string;
  readonly apiKey?: string;
}

/** `--url` and `--api-key`, the same for every command that talks to the API. */
export function apiOptions(): Option[] {
  return [
    new Option('--url <origin>', 'where the API is').env('MANTIS_BASE_URL').default('http://127.0.0.1:8787'),
    new Option('--api-key <key>', 'key for the API').env('MANTIS_API_KEY'),
  ];
}

/** The public API over fetch. Errors of the API become `CliError`s with the API's own sentence. */
export class Api {
  readonly #origin: string;
  readonly #apiKey: string;

  constructor(options: ApiOptions) {
    if (options.apiKey === undefined || options.apiKey === '')
      throw new CliError(
        'an API key is needed: set MANTIS_API_KEY or give --api-key (npm start prints one at its first start)',
        2,
      );
    if (!URL.canParse(options.url))
      throw new CliError(`--url: expected an origin such as http://127.0.0.1:8787, received "${options.url}"`, 2);
    this.#origin = options.url.replace(/\/(v1\/?)?$/, '');
    this.#apiKey = options.apiKey;
  }

  async get<T>(path: string): Promise<T> {
    return (await (await this.#fetch(path, {})).json()) as T;
  }

  async post<T>(path: string, body: unknown): Promise<T> {
    return (await (await this.#fetch(path, jsonBody(body))).json()) as T;
  }

  /** Uploads a file for `purpose`. */
  async upload<T>(file: string, purpose: string): Promise<T> {
    const form = new FormData();
    form.set('purpose', purpose);
    form.set('file', new Blob([new Uint8Array(await readUserFile(file))]), file.split('/').at(-1) ?? file);
    return (await (await this.#fetch('/v1/files', { method: 'POST', body: form })).json()) as T;
  }

  /** Parsed `data:` blocks of a streamed answer until `[DONE]`; an error block inside the stream is thrown. */
  async *stream<T>(path: string, body: unknown): AsyncGenerator<T, void, undefined> {
    const response = await this.#fetch(path, jsonBody(body));
    if (response.body === null) throw new CliError(`${path}: expected a stream, received no body`);
    for await (const { data } of decodeSse(response.body)) {
      if (data === '[DONE]') return;
      const parsed: unknown = JSON.parse(data);
      const error = ErrorEnvelope.safeParse(parsed);
      if (error.success) throw new CliError(error.data.error.message);
      yield parsed as T;
    }
    throw new CliError('the answer ended early: the connection was cut before [DONE]');
  }

  async #fetch(path: string, init: RequestInit): Promise<Response> {
    let response: Response;
    try {
      response = await fetch(this.#origin + path, {
        ...init,
        headers: { ...init.headers, authorization: `Bearer ${this.#apiKey}` },
      });
    } catch (error) {
      const cause = error instanceof Error && error.cause instanceof Error ? error.cause.message : String(error);
      throw new CliError(`cannot reach ${this.#origin} (${cause}); is the server running? npm start starts it`);
    }
    if (response.ok) return response;
    const body: unknown = await response.json().catch(() => null);
    const error = ErrorEnvelope.safeParse(body);
    throw new CliError(error.success ? error.data.error.message : `${path} answered ${response.status}`);
  }
}

function jsonBody(body: unknown): RequestInit {
  return { method: 'POST', body: JSON.stringify(body), headers: { 'content-type': 'application/json' } };
}

/** Content of a file named on the command line. */
export async function readUserFile(path: string): Promise<Buffer> {
  try {
    return await readFile(path);
  } catch (error) {
    throw new CliError(`cannot read ${path}: ${error instanceof Error ? error.message : String(error)}`, 2);
  }
}
