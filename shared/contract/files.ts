import * as z from 'zod/mini';
import { LIMITS } from './limits.ts';

export const FilePurpose = z.enum([
  'fine-tune',
  'vision',
  'user_data',
  'batch',
  'evals',
  'fine-tune-results',
  'batch_output',
]);
export type FilePurpose = z.infer<typeof FilePurpose>;

/** What the product writes itself; nobody may upload it. */
const PRODUCED: ReadonlySet<FilePurpose> = new Set(['fine-tune-results', 'batch_output']);

/** Purposes that an upload may name. */
export const UPLOAD_PURPOSES = FilePurpose.options.filter((name) => !PRODUCED.has(name));
export const UploadPurpose = z.enum(UPLOAD_PURPOSES);

/** When a file deletes itself. */
export const ExpiresAfter = z.strictObject({
  anchor: z.literal('created_at'),
  seconds: z.int().check(z.minimum(LIMITS.files.minExpiryS), z.maximum(LIMITS.files.maxExpiryS)),
});
export type ExpiresAfter = z.infer<typeof ExpiresAfter>;

/** OpenAI's file object; `sha256` (ours) is the digest of the bytes. */
export const FileObject = z.object({
  id: z.string(),
  object: z.literal('file'),
  bytes: z.int(),
  created_at: z.int(),
  expires_at: z.optional(z.int()),
  filename: z.string(),
  purpose: FilePurpose,
  status: z.enum(['uploaded', 'processed', 'error']),
  sha256: z.string(),
});
export type FileObject = z.infer<typeof FileObject>;

export const Deleted = z.object({ id: z.string(), object: z.string(), deleted: z.literal(true) });
export type Deleted = z.infer<typeof Deleted>;

/** The list object of every resource. */
export type List<T> = { object: 'list'; data: T[]; first_id: string | null; last_id: string | null; has_more: boolean };
