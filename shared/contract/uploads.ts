import * as z from 'zod/mini';
import { ExpiresAfter, FileObject, FilePurpose, UploadPurpose } from './files.ts';
import { LIMITS } from './limits.ts';

const U = LIMITS.uploads;

/** `POST /v1/uploads`. `bytes` is what all parts together will measure. */
export const CreateUploadRequest = z.strictObject({
  filename: z.string().check(z.minLength(1), z.maxLength(LIMITS.files.maxNameChars)),
  purpose: UploadPurpose,
  bytes: z.int().check(z.minimum(1), z.maximum(U.maxBytes)),
  mime_type: z
    .string()
    .check(
      z.regex(/^[\w.+-]{1,63}\/[\w.+-]{1,63}(; ?[\w.+-]{1,32}=[\w.+-]{1,32})?$/, 'a media type such as "text/plain"'),
    ),
  expires_after: z.optional(z.nullable(ExpiresAfter)),
});
export type CreateUploadRequest = z.infer<typeof CreateUploadRequest>;

/** `POST /v1/uploads/{id}/complete`. The file is the parts in this order. */
export const CompleteUploadRequest = z.strictObject({
  part_ids: z.array(z.string()).check(z.minLength(1), z.maxLength(U.maxParts)),
  /** Of the whole file, hex. */
  md5: z.optional(z.nullable(z.string().check(z.regex(/^[0-9a-fA-F]{32}$/, '32 hex digits')))),
});
export type CompleteUploadRequest = z.infer<typeof CompleteUploadRequest>;

export const UploadStatus = z.enum(['pending', 'completed', 'cancelled', 'expired']);
export type UploadStatus = z.infer<typeof UploadStatus>;

export const Upload = z.object({
  id: z.string(),
  object: z.literal('upload'),
  bytes: z.int(),
  created_at: z.int(),
  expires_at: z.int(),
  filename: z.string(),
  purpose: FilePurpose,
  status: UploadStatus,
  file: z.nullable(FileObject),
});
export type Upload = z.infer<typeof Upload>;

export const UploadPart = z.object({
  id: z.string(),
  object: z.literal('upload.part'),
  created_at: z.int(),
  upload_id: z.string(),
});
export type UploadPart = z.infer<typeof UploadPart>;
