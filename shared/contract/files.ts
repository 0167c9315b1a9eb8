import * as z from 'zod/mini';

export const FilePurpose = z.enum(['fine-tune', 'vision', 'user_data', 'batch', 'evals', 'fine-tune-results']);
export type FilePurpose = z.infer<typeof FilePurpose>;

/** OpenAI's file object; `sha256` (ours) is the digest of the bytes. */
export const FileObject = z.object({
  id: z.string(),
  object: z.literal('file'),
  bytes: z.int(),
  created_at: z.int(),
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
