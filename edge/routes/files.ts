import type { Context } from 'hono';
import { ApiError, describe, errorMessage, type Violation, violation } from '../../shared/contract/errors.ts';
import { FilePurpose } from '../../shared/contract/files.ts';
import { LIMITS } from '../../shared/contract/limits.ts';
import { type AppEnv, actorOf, type Env } from '../env.ts';
import { checkImage } from '../images/check.ts';
import { readBody } from '../middleware/body.ts';
import { deleteFile, type FileRow, fileKey, getFile, listFiles, showFile, storeFile } from '../store/files.ts';
import { listQuery } from './query.ts';

/** Room for the boundaries and the other fields of a multipart body. */
const MULTIPART_SLACK_BYTES = 64 * 1024;

/** `POST /v1/files`: multipart with `file` and `purpose`. */
export async function createFile(c: Context<AppEnv>): Promise<Response> {
  const { file, purpose } = await readUpload(c.req.raw);
  const bytes = new Uint8Array(await file.arrayBuffer());
  const wrong: Violation[] = [];
  if (bytes.byteLength === 0)
    wrong.push(violation('invalid_value', 'file', { expected: 'a file with content', received: '0 bytes' }));
  if (bytes.byteLength > LIMITS.files.maxBytes) {
    wrong.push(
      violation('request_too_large', 'file', {
        expected: `at most ${LIMITS.files.maxBytes} bytes`,
        received: bytes.byteLength,
      }),
    );
  }
  let mime = 'application/octet-stream';
  if (purpose === 'vision') {
    const info = checkImage(bytes, null, 'file');
    if (Array.isArray(info)) wrong.push(...info);
    else mime = info.mime;
  }
  if (wrong.length > 0) throw ApiError.from(wrong);
  const row = await storeFile({ db: c.env.DB, blobs: c.env.BLOBS }, actorOf(c), {
    purpose,
    filename: file.name || 'file',
    mime,
    bytes,
  });
  return c.json(showFile(row));
}

async function readUpload(request: Request): Promise<{ file: File; purpose: FilePurpose }> {
  const type = request.headers.get('content-type') ?? '';
  if (!/^multipart\/form-data\s*;/i.test(type)) {
    throw new ApiError(
      'unsupported_media_type',
      errorMessage('content-type', { expected: 'multipart/form-data with a boundary', received: describe(type) }),
    );
  }
  const body = await readBody(request, LIMITS.files.maxBytes + MULTIPART_SLACK_BYTES);
  let form: FormData;
  try {
    form = await new Response(body, { headers: { 'content-type': type } }).formData();
  } catch (error) {
    throw new ApiError(
      'invalid_request',
      errorMessage('body', {
        expected: 'well-formed multipart/form-data',
        received: `a body that is not (${error instanceof Error ? error.message : 'unreadable'})`,
      }),
    );
  }
  const wrong: Violation[] = [];
  const file = form.get('file') as File | string | null;
  if (file === null || typeof file === 'string') {
    wrong.push(
      violation(file === null ? 'missing_required_parameter' : 'invalid_type', 'file', {
        expected: 'a file part with a file name',
        received: file === null ? 'nothing' : 'a text field',
      }),
    );
  }
  const purpose = FilePurpose.safeParse(form.get('purpose'));
  if (!purpose.success || purpose.data === 'fine-tune-results') {
    const expected = `one of ${FilePurpose.options.filter((name) => name !== 'fine-tune-results').join(', ')}`;
    const given = form.get('purpose');
    wrong.push(
      violation(given === null ? 'missing_required_parameter' : 'invalid_value', 'purpose', {
        expected,
        received: typeof given === 'string' ? describe(given) : 'nothing',
      }),
    );
  }
  for (const name of new Set(form.keys())) {
    if (name !== 'file' && name !== 'purpose')
      wrong.push(
        violation('unsupported_parameter', name, { expected: 'the fields file and purpose', received: describe(name) }),
      );
  }
  if (wrong.length > 0 || !purpose.success) throw ApiError.from(wrong);
  return { file: file as File, purpose: purpose.data };
}

export async function listAllFiles(c: Context<AppEnv>): Promise<Response> {
  const order = c.req.query('order') === 'asc' ? 'asc' : 'desc';
  return c.json(
    await listFiles(c.env.DB, c.get('tenant'), { ...listQuery(c), order, purpose: c.req.query('purpose') ?? null }),
  );
}

export async function retrieveFile(c: Context<AppEnv>): Promise<Response> {
  return c.json(showFile(await existingFile(c, c.req.param('id') ?? '')));
}

/** The bytes, never rendered by a browser: type and name are the uploader's words. */
export async function fileContent(c: Context<AppEnv>): Promise<Response> {
  return contentOf(c.env, await existingFile(c, c.req.param('id') ?? ''));
}

/** @throws ApiError `file_not_found` where the bytes have gone since the row was read */
export async function contentOf(env: Env, file: FileRow): Promise<Response> {
  const object = await env.BLOBS.get(fileKey(file.id));
  if (object === null) throw fileNotFound(file.id);
  return new Response(object.body, {
    headers: {
      'content-type': file.mime,
      'content-length': String(object.size),
      'content-disposition': `attachment; filename*=UTF-8''${encodeURIComponent(file.filename)}`,
      'x-content-type-options': 'nosniff',
    },
  });
}

export async function removeFile(c: Context<AppEnv>): Promise<Response> {
  const file = await existingFile(c, c.req.param('id') ?? '');
  if (!(await deleteFile(c.env.DB, actorOf(c), file.id))) {
    throw new ApiError(
      'file_in_use',
      `File ${file.id} is needed by a fine-tuning job that has not ended. Cancel the job first.`,
      { param: 'id' },
    );
  }
  await c.env.BLOBS.delete(fileKey(file.id));
  return c.json({ id: file.id, object: 'file', deleted: true });
}

/** @param param the field that named the file. */
export async function existingFile(c: Context<AppEnv>, id: string, param = 'id'): Promise<FileRow> {
  const row = await getFile(c.env.DB, c.get('tenant'), id);
  if (row === null) throw fileNotFound(id, param);
  return row;
}

export function fileNotFound(id: string, param = 'id'): ApiError {
  return new ApiError(
    'file_not_found',
    errorMessage(param, {
      expected: 'the id of an uploaded file',
      received: describe(id),
      remedy: 'GET /v1/files lists yours.',
    }),
    { param },
  );
}
