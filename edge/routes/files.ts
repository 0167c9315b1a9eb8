import type { Context } from 'hono';
import * as z from 'zod/mini';
import {
  ApiError,
  describe,
  errorMessage,
  type Violation,
  violation,
  violationsOf,
} from '../../shared/contract/errors.ts';
import {
  type ExpiresAfter,
  ExpiresAfter as ExpiresAfterSchema,
  FilePurpose,
  UPLOAD_PURPOSES,
  UploadPurpose,
} from '../../shared/contract/files.ts';
import { LIMITS } from '../../shared/contract/limits.ts';
import { type AppEnv, actorOf, type Env, scheduler } from '../env.ts';
import { adopt } from '../files/adopt.ts';
import { contentRange } from '../files/range.ts';
import { objectBody } from '../files/read.ts';
import { receiveFile } from '../files/receive.ts';
import { mimeOf } from '../files/vision.ts';
import { datasetOfFile } from '../store/datasets.ts';
import { deleteFile, type FileRow, fileKey, filePrefix, getFile, listFiles, showFile } from '../store/files.ts';
import { listQuery } from './query.ts';

/** `POST /v1/files`: multipart with `file`, `purpose` and, if it is to delete itself, `expires_after`. The bytes go to the object store as they come. */
export async function createFile(c: Context<AppEnv>): Promise<Response> {
  const store = { db: c.env.DB, blobs: c.env.BLOBS };
  const actor = actorOf(c);
  let asked: { purpose: FilePurpose; expiresAfter: ExpiresAfter | null } | null = null;
  const received = receiveFile(c.req.raw, store, {
    file: 'file',
    fields: ['purpose', 'expires_after[anchor]', 'expires_after[seconds]'],
    maxBytes: LIMITS.files.maxBytes,
    prefix: filePrefix(actor.tenant),
    check: (fields) => {
      const read = readFields(fields);
      if (Array.isArray(read)) return read;
      asked = read;
      return [];
    },
  });
  // A client that goes away ends the request; what it has sent is cleared away all the same.
  c.executionCtx.waitUntil(received.then(Boolean, () => {}));
  const { file } = await received;
  const { purpose, expiresAfter } = asked!;
  const mime = await mimeOf(store, file, purpose, 'file');
  const row = await adopt(store, actor, file, {
    purpose,
    filename: file.filename,
    mime,
    expiresAfterS: expiresAfter?.seconds ?? null,
  });
  if (row.expires_at !== null) c.executionCtx.waitUntil(scheduler(c.env).ensure());
  return c.json(showFile(row));
}

function readFields(
  fields: ReadonlyMap<string, string>,
): { purpose: FilePurpose; expiresAfter: ExpiresAfter | null } | Violation[] {
  const wrong: Violation[] = [];
  const given = fields.get('purpose');
  const purpose = UploadPurpose.safeParse(given);
  if (!purpose.success) {
    wrong.push(
      violation(given === undefined ? 'missing_required_parameter' : 'invalid_value', 'purpose', {
        expected: `one of ${UPLOAD_PURPOSES.join(', ')}`,
        received: describe(given),
      }),
    );
  }
  const anchor = fields.get('expires_after[anchor]');
  const seconds = fields.get('expires_after[seconds]');
  let expiresAfter: ExpiresAfter | null = null;
  if (anchor !== undefined || seconds !== undefined) {
    const value = {
      anchor,
      ...(seconds === undefined ? {} : { seconds: seconds.trim() === '' ? seconds : Number(seconds) }),
    };
    const parsed = ExpiresAfterSchema.safeParse(value);
    if (parsed.success) expiresAfter = parsed.data;
    else wrong.push(...violationsOf(parsed.error.issues, value, ['expires_after']));
  }
  if (!purpose.success || wrong.length > 0) return wrong;
  return { purpose: purpose.data, expiresAfter };
}

const Order = z.enum(['asc', 'desc']);

export async function listAllFiles(c: Context<AppEnv>): Promise<Response> {
  const order = Order.safeParse(c.req.query('order') ?? 'desc');
  const purpose = c.req.query('purpose') ?? null;
  const wrong: Violation[] = [];
  if (!order.success) {
    const received = describe(c.req.query('order'));
    wrong.push(violation('invalid_value', 'order', { expected: '"asc" or "desc"', received }));
  }
  if (purpose !== null && !FilePurpose.safeParse(purpose).success)
    wrong.push(
      violation('invalid_value', 'purpose', {
        expected: `one of ${FilePurpose.options.join(', ')}`,
        received: describe(purpose),
      }),
    );
  if (wrong.length > 0 || !order.success) throw ApiError.from(wrong);
  const query = { ...listQuery(c), order: order.data, purpose };
  return c.json(await listFiles(c.env.DB, c.get('tenant'), query));
}

export async function retrieveFile(c: Context<AppEnv>): Promise<Response> {
  return c.json(showFile(await existingFile(c, c.req.param('id') ?? '')));
}

/** `GET /v1/files/{id}/content`: all of it, or the one range that `Range` names. */
export async function fileContent(c: Context<AppEnv>): Promise<Response> {
  const file = await existingFile(c, c.req.param('id') ?? '');
  return contentOf(c.env, file, c.req.raw.headers);
}

/**
 * The bytes, never rendered by a browser: type and name are the uploader's words.
 * @param asked headers that may name a range
 * @throws ApiError `file_not_found` where the bytes have gone since the row was read; 416 for a range outside of it
 */
export async function contentOf(env: Env, file: FileRow, asked?: Headers): Promise<Response> {
  const etag = `"${file.sha256}"`;
  const range = asked === undefined ? null : contentRange(asked, file.bytes, etag);
  const { offset, length } = range ?? { offset: 0, length: file.bytes };
  const body = await objectBody(env.BLOBS, fileKey(file), { offset, length });
  if (body === null) throw fileNotFound(file.id);
  const headers = new Headers({
    'accept-ranges': 'bytes',
    'content-type': file.mime,
    'content-length': String(length),
    'content-disposition': `attachment; filename*=UTF-8''${encodeURIComponent(file.filename)}`,
    etag,
    'x-content-type-options': 'nosniff',
  });
  if (range === null) return new Response(body, { headers });
  headers.set('content-range', `bytes ${offset}-${offset + length - 1}/${file.bytes}`);
  return new Response(body, { status: 206, headers });
}

export async function removeFile(c: Context<AppEnv>): Promise<Response> {
  const file = await existingFile(c, c.req.param('id') ?? '');
  if (!(await deleteFile({ db: c.env.DB, blobs: c.env.BLOBS }, actorOf(c), file))) {
    // Somebody else may have been quicker.
    await existingFile(c, file.id);
    const named = await datasetOfFile(c.env.DB, file.id);
    const why =
      named === null
        ? 'is needed by a fine-tuning job or a batch, or by a run of an evaluation, that has not ended. Cancel it first.'
        : `is part of the dataset ${named.dataset_id}. Take it out of that, or delete the dataset.`;
    throw new ApiError('file_in_use', `File ${file.id} ${why}`, { param: 'id' });
  }
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
