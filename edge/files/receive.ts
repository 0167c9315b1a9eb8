/** A multipart request with one file and some fields: the file goes to the store as it comes, whatever is wrong is told at the end. */
import { ApiError, describe, type Violation, violation } from '../../shared/contract/errors.ts';
import { LIMITS } from '../../shared/contract/limits.ts';
import { largeChunks } from '../middleware/body.ts';
import { boundaryOf, MultipartParser } from './multipart.ts';
import { type ObjectStore, Stage, type Staged } from './stage.ts';

const F = LIMITS.files;

export type Received = {
  file: Staged & { filename: string };
  /** Text fields in the client's spelling, such as `expires_after[seconds]`. */
  fields: ReadonlyMap<string, string>;
};

/** A client that is still sending when the answer comes sees a broken connection instead of it, so so much more is read and thrown away. */
const DRAIN_FACTOR = 2;

/**
 * Reads the whole body.
 * @param want.file name of the file's part
 * @param want.fields text fields that may be there
 * @param want.check what is wrong with the fields; they may stand behind the file, so this is asked at the end
 * @returns an object that is whole and still loose
 * @throws ApiError with every violation; nothing is left behind then
 */
export async function receiveFile(
  request: Request,
  store: ObjectStore,
  want: {
    file: string;
    fields: readonly string[];
    maxBytes: number;
    prefix: string;
    check: (fields: ReadonlyMap<string, string>) => Violation[];
  },
): Promise<Received> {
  const parser = new MultipartParser(boundaryOf(request.headers.get('content-type') ?? ''));
  const told = Number(request.headers.get('content-length') ?? Number.NaN);
  if (told > DRAIN_FACTOR * want.maxBytes) throw tooLarge(want, told);
  const stage = new Stage(store, { prefix: want.prefix, maxBytes: want.maxBytes, param: want.file });
  const form = new Form(want, stage);
  try {
    let read = 0;
    if (request.body !== null) {
      for await (const chunk of arriving(request.body)) {
        read += chunk.byteLength;
        if (read > DRAIN_FACTOR * want.maxBytes + 2 * MAX_FORM_BYTES) throw tooLarge(want, read);
        await form.take(parser, chunk);
      }
    }
    return await form.end(parser);
  } catch (error) {
    await stage.discard();
    throw error;
  }
}

/** The body's chunks; a connection that breaks is the client's, not ours. */
async function* arriving(body: ReadableStream): AsyncGenerator<Uint8Array, void, undefined> {
  try {
    yield* largeChunks(body);
  } catch (error) {
    throw new ApiError('client_closed_request', `The body broke off: ${String(error).slice(0, 200)}`);
  }
}

const MAX_FORM_BYTES = F.maxFormFields * (F.maxFormFieldBytes + 16_384);

function tooLarge(want: { file: string; maxBytes: number }, received: number): ApiError {
  return ApiError.from([
    violation('request_too_large', want.file, {
      expected: `at most ${want.maxBytes} bytes`,
      received,
      remedy: 'POST /v1/uploads takes larger files in parts.',
    }),
  ]);
}

/** What the parts of a body amount to. */
class Form {
  readonly #fields = new Map<string, string>();
  readonly #wrong: Violation[] = [];
  #filename: string | null = null;
  /** The part that is being read: the file, a field with its text so far, or one that nobody wants. */
  #part: 'file' | { name: string; pieces: Uint8Array[]; bytes: number } | null = null;
  #parts = 0;
  /** The body is not what it should be: read on, so that the client hears it, but keep nothing. */
  #fatal: ApiError | null = null;

  constructor(
    readonly want: Parameters<typeof receiveFile>[2],
    readonly stage: Stage,
  ) {}

  async take(parser: MultipartParser, chunk: Uint8Array): Promise<void> {
    if (this.#fatal !== null) return;
    try {
      for (const event of parser.push(chunk)) {
        if (event.type === 'part') this.#begin(event);
        else if (event.type === 'end') this.#close();
        else if (this.#part === 'file') await this.stage.write(event.bytes);
        else if (this.#part !== null) this.#keep(this.#part, event.bytes);
      }
    } catch (error) {
      if (!(error instanceof ApiError)) throw error;
      this.#fatal = error;
    }
  }

  async end(parser: MultipartParser): Promise<Received> {
    if (this.#fatal !== null) throw this.#fatal;
    parser.finish();
    const { want } = this;
    if (this.#filename === null) {
      const isText = this.#fields.has(want.file);
      this.#wrong.unshift(
        violation(isText ? 'invalid_type' : 'missing_required_parameter', want.file, {
          expected: 'a file part with a file name',
          received: isText ? 'a text field' : 'nothing',
        }),
      );
    } else if (this.stage.bytes === 0) {
      this.#wrong.unshift(
        violation('invalid_value', want.file, { expected: 'a file with content', received: '0 bytes' }),
      );
    }
    this.#fields.delete(want.file);
    this.#wrong.push(...want.check(this.#fields));
    if (this.#wrong.length > 0) throw ApiError.from(this.#wrong);
    return { file: { ...(await this.stage.finish()), filename: this.#filename ?? 'file' }, fields: this.#fields };
  }

  #begin({ name, filename }: { name: string; filename: string | null }): void {
    if (++this.#parts > F.maxFormFields) {
      throw ApiError.from([
        violation('invalid_request', null, { expected: `at most ${F.maxFormFields} parts`, received: 'more' }),
      ]);
    }
    const { want } = this;
    this.#part = null;
    if (name === want.file && filename !== null) {
      if (this.#filename === null) {
        this.#filename = (filename || 'file').slice(0, F.maxNameChars);
        this.#part = 'file';
      } else {
        this.#wrong.push(violation('invalid_value', name, { expected: 'one file', received: 'several' }));
      }
    } else if (name === want.file || want.fields.includes(name)) {
      this.#part = { name, pieces: [], bytes: 0 };
    } else {
      this.#wrong.push(
        violation('unsupported_parameter', name.slice(0, 64), {
          expected: `the fields ${[want.file, ...want.fields].join(', ')}`,
          received: describe(name),
        }),
      );
    }
  }

  #keep(part: { name: string; pieces: Uint8Array[]; bytes: number }, bytes: Uint8Array): void {
    part.bytes += bytes.byteLength;
    if (part.bytes <= F.maxFormFieldBytes) part.pieces.push(bytes.slice());
  }

  #close(): void {
    const part = this.#part;
    this.#part = null;
    if (part === null || part === 'file') return;
    if (part.bytes > F.maxFormFieldBytes) {
      this.#wrong.push(
        violation('invalid_value', part.name, {
          expected: `at most ${F.maxFormFieldBytes} bytes`,
          received: part.bytes,
        }),
      );
      return;
    }
    this.#fields.set(part.name, new TextDecoder().decode(concat(part.pieces, part.bytes)));
  }
}

function concat(pieces: readonly Uint8Array[], total: number): Uint8Array {
  const all = new Uint8Array(total);
  let at = 0;
  for (const piece of pieces) {
    all.set(piece, at);
    at += piece.byteLength;
  }
  return all;
}
