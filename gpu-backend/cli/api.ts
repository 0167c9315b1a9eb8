import { openAsBlob } from 'node:fs';
import { readFile, stat } from 'node:fs/promises';
import { basename } from 'node:path';
import { Option } from 'commander';
import { MantisClient } from '../../shared/client/client.ts';
import { ClientError } from '../../shared/client/http.ts';
import type { FileObject } from '../../shared/contract/files.ts';
import { LIMITS } from '../../shared/contract/limits.ts';
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

/**
 * Runs a command's work with a client of the API. What the API refuses, and that it cannot be reached, become errors of one
 * sentence; where several things were wrong, each has its line.
 */
export async function withApi<T>(options: ApiOptions, work: (api: MantisClient) => Promise<T>): Promise<T> {
  if (options.apiKey === undefined || options.apiKey === '')
    throw new CliError(
      'an API key is needed: set MANTIS_API_KEY or give --api-key (npm start prints one at its first start)',
      2,
    );
  if (!URL.canParse(options.url))
    throw new CliError(`--url: expected an origin such as http://127.0.0.1:8787, received "${options.url}"`, 2);
  const origin = options.url.replace(/\/(v1\/?)?$/, '');
  try {
    return await work(new MantisClient({ baseUrl: origin, apiKey: options.apiKey }));
  } catch (error) {
    if (error instanceof ClientError) {
      const more = error.details.map(({ message }) => message).filter((message) => message !== error.message);
      throw new CliError([error.message, ...more].join('\n'));
    }
    // What fetch throws when no answer came, or when a body was cut.
    if (error instanceof TypeError && error.cause instanceof Error)
      throw new CliError(`cannot reach ${origin} (${error.cause.message}); is the server running? npm start starts it`);
    throw error;
  }
}

/** Uploads a file that was named on the command line, for fine-tuning; a large one in parts, read from disk as they go. */
export async function uploadTrainingFile(api: MantisClient, file: string): Promise<FileObject> {
  const filename = basename(file);
  const size = await stat(file).then(
    (facts) => facts.size,
    () => 0,
  );
  if (size > LIMITS.files.maxBytes)
    return await api.uploads.file(await openAsBlob(file), {
      filename,
      purpose: 'fine-tune',
      mime_type: mimeOf(filename),
    });
  const content = new Blob([new Uint8Array(await readUserFile(file))]);
  return await api.files.create(content, filename, 'fine-tune');
}

function mimeOf(filename: string): string {
  if (/\.parquet$/i.test(filename)) return 'application/vnd.apache.parquet';
  return /\.json$/i.test(filename) ? 'application/json' : 'application/jsonl';
}

/** Content of a file named on the command line. */
export async function readUserFile(path: string): Promise<Buffer> {
  try {
    return await readFile(path);
  } catch (error) {
    throw new CliError(`cannot read ${path}: ${error instanceof Error ? error.message : String(error)}`, 2);
  }
}
