import type { Context } from 'hono';
import { ApiError, errorMessage, violation, violationsOf } from '../../shared/contract/errors.ts';
import { LIMITS } from '../../shared/contract/limits.ts';
import type { AppEnv } from '../env.ts';

/** The shape of a schema that is read here; both zod flavours have it. */
export type Schema<T> = {
  safeParse(value: unknown): { success: true; data: T } | { success: false; error: { issues: readonly unknown[] } };
};

/**
 * A client that is still sending when the answer comes sees a broken connection instead of it, so a body that is not far too large is read to its end,
 * without being kept.
 */
const DRAIN_FACTOR = 4;

/** The whole body, refused with 413 above `maxBytes`: by `content-length` and by counting, since the header may lie or be missing. */
export async function readBody(request: Request, maxBytes: number): Promise<Uint8Array<ArrayBuffer>> {
  const tooLarge = (received: string) =>
    new ApiError(
      'request_too_large',
      errorMessage('body', {
        expected: `at most ${maxBytes} bytes`,
        received,
        remedy: 'Upload large pictures by POST /v1/files and send their ids.',
      }),
    );
  const told = Number(request.headers.get('content-length') ?? Number.NaN);
  const maxDrainedBytes = DRAIN_FACTOR * maxBytes;
  if (told > maxDrainedBytes) throw tooLarge(`${told}`);
  if (request.body === null) return new Uint8Array(0);
  // The framing holds a body to its content-length, so the runtime may read it in one go.
  if (told <= maxBytes) return new Uint8Array(await request.arrayBuffer());
  const chunks: Uint8Array[] = [];
  let total = 0;
  for await (const chunk of largeChunks(request.body)) {
    total += chunk.byteLength;
    if (total <= maxBytes) chunks.push(chunk);
    else chunks.length = 0;
    if (total > maxDrainedBytes) throw tooLarge(`more than ${maxDrainedBytes}`);
  }
  if (total > maxBytes) throw tooLarge(`${total}`);
  const body = new Uint8Array(total);
  let at = 0;
  for (const chunk of chunks) {
    body.set(chunk, at);
    at += chunk.byteLength;
  }
  return body;
}

const CHUNK_BYTES = 256 * 1024;

/** The runtime's own chunks are 4 KiB, which makes reading slow; these are as large as asked for. */
export async function* largeChunks(body: ReadableStream): AsyncGenerator<Uint8Array, void, undefined> {
  const reader = body.getReader({ mode: 'byob' });
  let ended = false;
  try {
    while (!ended) {
      const { done, value } = await reader.readAtLeast(CHUNK_BYTES, new Uint8Array(CHUNK_BYTES));
      ended = done;
      if (value !== undefined && value.byteLength > 0) yield value;
    }
  } finally {
    if (!ended) await reader.cancel().catch(() => {});
  }
}

export type JsonOptions = {
  maxBytes?: number;
  /** Fields that exist elsewhere but not here: refused in those words instead of as unknown. */
  unsupported?: ReadonlySet<string>;
};

/** A JSON body that fits the schema, or a 400 with every violation. */
export async function readJson<T>(c: Context<AppEnv>, schema: Schema<T>, options: JsonOptions = {}): Promise<T> {
  const type = (c.req.header('content-type') ?? '').split(';')[0]?.trim().toLowerCase();
  if (type !== 'application/json') {
    throw new ApiError(
      'unsupported_media_type',
      errorMessage('content-type', { expected: 'application/json', received: type || 'nothing' }),
    );
  }
  return parseJson(await readBody(c.req.raw, options.maxBytes ?? LIMITS.request.maxJsonBytes), schema, options);
}

export function parseJson<T>(bytes: Uint8Array, schema: Schema<T>, { unsupported = new Set() }: JsonOptions = {}): T {
  let value: unknown;
  try {
    value = JSON.parse(new TextDecoder('utf-8', { fatal: true, ignoreBOM: false }).decode(bytes));
  } catch (error) {
    const reason = error instanceof SyntaxError ? error.message : 'not UTF-8';
    throw new ApiError(
      'invalid_json',
      errorMessage('body', {
        expected: 'valid JSON in UTF-8',
        received: `${bytes.byteLength} bytes that are not (${reason})`,
      }),
    );
  }
  const parsed = schema.safeParse(value);
  if (parsed.success) return parsed.data;
  throw ApiError.from(
    violationsOf(parsed.error.issues, value).map((problem) =>
      problem.code === 'unknown_parameter' && unsupported.has(problem.param ?? '')
        ? violation('unsupported_parameter', problem.param, {
            expected: 'no such field',
            remedy: 'It is not supported yet; leave it out.',
          })
        : problem,
    ),
  );
}
