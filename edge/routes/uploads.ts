/** Files in parts: each part goes to the object store as it comes, in any order; completing puts them together. */
import type { Context } from 'hono';
import { ApiError, describe, errorMessage, type Violation, violation } from '../../shared/contract/errors.ts';
import { LIMITS } from '../../shared/contract/limits.ts';
import { CompleteUploadRequest, CreateUploadRequest } from '../../shared/contract/uploads.ts';
import { newId } from '../../shared/wire/ids.ts';
import { nowMs as clockMs } from '../clock.ts';
import { type AppEnv, actorOf, scheduler } from '../env.ts';
import { adopt } from '../files/adopt.ts';
import { assemble } from '../files/assemble.ts';
import { receiveFile } from '../files/receive.ts';
import type { Staged } from '../files/stage.ts';
import { mimeOf } from '../files/vision.ts';
import { readJson } from '../middleware/body.ts';
import { filePrefix, findFile } from '../store/files.ts';
import { deleteLoose } from '../store/loose.ts';
import {
  claimHolds,
  claimUpload,
  completeUpload,
  endUpload,
  getParts,
  getUpload,
  insertPart,
  insertUpload,
  type PartRow,
  partKeys,
  releaseUpload,
  showUpload,
  sumParts,
  type UploadRow,
} from '../store/uploads.ts';

const U = LIMITS.uploads;

/** `POST /v1/uploads`. */
export async function createUpload(c: Context<AppEnv>): Promise<Response> {
  const asked = await readJson(c, CreateUploadRequest);
  if (asked.purpose === 'vision' && asked.bytes > LIMITS.images.maxBytes) {
    const expected = `at most ${LIMITS.images.maxBytes} bytes for a picture`;
    throw ApiError.from([violation('image_file_too_large', 'bytes', { expected, received: asked.bytes })]);
  }
  const nowMs = clockMs();
  const row = await insertUpload(c.env.DB, actorOf(c), {
    id: newId('upload_'),
    filename: asked.filename,
    purpose: asked.purpose,
    mime: asked.mime_type,
    bytes: asked.bytes,
    expires_after_s: asked.expires_after?.seconds ?? null,
    created_at: nowMs,
    expires_at: nowMs + U.lifetimeMs,
  });
  c.executionCtx.waitUntil(scheduler(c.env).ensure());
  return c.json(showUpload(row, null, nowMs));
}

/** `GET /v1/uploads/{id}` (ours). */
export async function retrieveUpload(c: Context<AppEnv>): Promise<Response> {
  const upload = await existingUpload(c);
  const file = upload.file_id === null ? null : await findFile(c.env.DB, upload.file_id);
  return c.json(showUpload(upload, file, clockMs()));
}

/** `POST /v1/uploads/{id}/parts`: multipart with `data`. */
export async function addUploadPart(c: Context<AppEnv>): Promise<Response> {
  const upload = await existingUpload(c);
  refuseUnlessOpen(upload);
  const store = { db: c.env.DB, blobs: c.env.BLOBS };
  const before = await sumParts(store.db, upload.id);
  const received = receiveFile(c.req.raw, store, {
    file: 'data',
    fields: [],
    maxBytes: U.maxPartBytes,
    prefix: `parts/${upload.id}/`,
    check: () => [],
  });
  c.executionCtx.waitUntil(received.then(Boolean, () => {}));
  const { file: data } = await received;
  const part: PartRow = {
    id: newId('part_'),
    upload_id: upload.id,
    object_key: data.key,
    bytes: data.bytes,
    created_at: clockMs(),
  };
  if (!(await insertPart(store.db, part, part.created_at))) {
    await deleteLoose(store, [data.key]).catch(() => {});
    if (before.parts >= U.maxParts) {
      throw new ApiError(
        'invalid_state',
        `Upload ${upload.id} has ${U.maxParts} parts, which is the most there may be.`,
        {
          param: 'id',
        },
      );
    }
    throw notOpen(await existingUpload(c));
  }
  return c.json({
    id: part.id,
    object: 'upload.part',
    created_at: Math.floor(part.created_at / 1000),
    upload_id: upload.id,
  });
}

/** `POST /v1/uploads/{id}/complete`: the parts in the given order become a file. */
export async function completeUploadFile(c: Context<AppEnv>): Promise<Response> {
  const upload = await existingUpload(c);
  const asked = await readJson(c, CompleteUploadRequest);
  refuseUnlessOpen(upload);
  const store = { db: c.env.DB, blobs: c.env.BLOBS };
  const parts = await partsOf(c, upload, asked.part_ids);
  const claim = await claimUpload(store.db, upload.id, clockMs());
  if (claim === null) throw notOpen(await existingUpload(c));
  const work = complete();
  // A client that goes away during a long one finds it done when it looks again.
  c.executionCtx.waitUntil(work.then(Boolean, () => {}));
  return c.json(await work);

  async function complete() {
    try {
      const staged = await assemble(store, parts, {
        prefix: filePrefix(upload.tenant),
        md5: asked.md5 != null,
      });
      await checkDigest(staged);
      const sniffed = await mimeOf(store, staged, upload.purpose, 'part_ids');
      const file = await adopt(
        store,
        actorOf(c),
        staged,
        {
          purpose: upload.purpose,
          filename: upload.filename,
          mime: upload.purpose === 'vision' ? sniffed : upload.mime,
          expiresAfterS: upload.expires_after_s,
        },
        {
          guard: claimHolds(upload.id, claim as string),
          along: ({ id }) => completeUpload(store.db, upload.id, claim as string, id, clockMs()),
        },
      );
      await deleteLoose(
        store,
        parts.map(({ object_key }) => object_key),
      ).catch(() => {});
      return showUpload({ ...upload, status: 'completed' }, file, clockMs());
    } catch (error) {
      await releaseUpload(store.db, upload.id, claim as string).catch(() => {});
      throw error;
    }
  }

  async function checkDigest(staged: Staged): Promise<void> {
    if (asked.md5 == null || staged.md5 === asked.md5.toLowerCase()) return;
    await deleteLoose(store, [staged.key]).catch(() => {});
    throw ApiError.from([
      violation('digest_mismatch', 'md5', {
        expected: `the MD5 of the parts in this order, ${staged.md5}`,
        received: describe(asked.md5),
        remedy: 'Check the order of part_ids, or send the parts again.',
      }),
    ]);
  }
}

/** `POST /v1/uploads/{id}/cancel`. */
export async function cancelUpload(c: Context<AppEnv>): Promise<Response> {
  const upload = await existingUpload(c);
  refuseUnlessOpen(upload);
  const keys = await partKeys(c.env.DB, upload.id);
  if (!(await endUpload(c.env.DB, actorOf(c), upload.id, 'cancelled', clockMs())))
    throw notOpen(await existingUpload(c));
  // A part that arrives at this moment is left to the sweeper.
  await deleteLoose({ db: c.env.DB, blobs: c.env.BLOBS }, keys).catch(() => {});
  return c.json(showUpload({ ...upload, status: 'cancelled' }, null, clockMs()));
}

/** The named parts in order. @throws ApiError with every part that is not there, is named twice, or a length that was not announced */
async function partsOf(c: Context<AppEnv>, upload: UploadRow, ids: readonly string[]): Promise<PartRow[]> {
  const known = await getParts(c.env.DB, upload.id, ids);
  const wrong: Violation[] = [];
  const seen = new Set<string>();
  const parts: PartRow[] = [];
  ids.forEach((id, i) => {
    const part = known.get(id);
    if (part === undefined || seen.has(id)) {
      wrong.push(
        violation('invalid_value', `part_ids[${i}]`, {
          expected: 'the id of a part of this upload, each once',
          received: describe(id),
        }),
      );
    } else parts.push(part);
    seen.add(id);
  });
  const total = parts.reduce((sum, { bytes }) => sum + bytes, 0);
  if (wrong.length === 0 && total !== upload.bytes) {
    wrong.push(
      violation('invalid_value', 'part_ids', {
        expected: `parts of ${upload.bytes} bytes in all, as announced`,
        received: total,
      }),
    );
  }
  if (wrong.length > 0) throw ApiError.from(wrong);
  return parts;
}

async function existingUpload(c: Context<AppEnv>): Promise<UploadRow> {
  const id = c.req.param('id') ?? '';
  const upload = await getUpload(c.env.DB, c.get('tenant'), id);
  if (upload !== null) return upload;
  throw new ApiError(
    'upload_not_found',
    errorMessage('id', {
      expected: 'the id of an upload',
      received: describe(id),
      remedy: 'POST /v1/uploads begins one.',
    }),
    { param: 'id' },
  );
}

function refuseUnlessOpen(upload: UploadRow): void {
  if (upload.status !== 'pending' || upload.expires_at <= clockMs()) throw notOpen(upload);
}

function notOpen(upload: UploadRow): ApiError {
  const { status } = showUpload(upload, null, clockMs());
  if (status !== 'pending')
    return new ApiError('invalid_state', `Upload ${upload.id} is ${status}: nothing more can be done with it.`, {
      param: 'id',
    });
  return new ApiError('invalid_state', `Upload ${upload.id} is being completed by another request.`, {
    param: 'id',
    retryAfterMs: 1_000,
    shouldRetry: true,
  });
}
