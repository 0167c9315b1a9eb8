import * as z from 'zod/mini';
import { Metadata } from './chat.ts';
import { ExpiresAfter } from './files.ts';
import { LIMITS } from './limits.ts';

const B = LIMITS.batches;

/** Where a batch's lines go. */
export const BatchEndpoint = z.enum(['/v1/chat/completions', '/v1/score']);
export type BatchEndpoint = z.infer<typeof BatchEndpoint>;

/** `POST /v1/batches`. */
export const CreateBatchRequest = z.strictObject({
  input_file_id: z.string().check(z.minLength(1)),
  endpoint: BatchEndpoint,
  completion_window: z.literal('24h'),
  metadata: z.optional(z.nullable(Metadata)),
  /** When the files that the batch writes delete themselves. */
  output_expires_after: z.optional(z.nullable(ExpiresAfter)),
});
export type CreateBatchRequest = z.infer<typeof CreateBatchRequest>;

export const BatchStatus = z.enum([
  'validating',
  'failed',
  'in_progress',
  'finalizing',
  'completed',
  'expired',
  'cancelling',
  'cancelled',
]);
export type BatchStatus = z.infer<typeof BatchStatus>;

/** One thing that is wrong with the input file; lines count from 1. */
export const BatchError = z.object({
  code: z.string(),
  message: z.string(),
  param: z.nullable(z.string()),
  line: z.nullable(z.int()),
});
export type BatchError = z.infer<typeof BatchError>;

const time = z.nullable(z.int());

export const Batch = z.object({
  id: z.string(),
  object: z.literal('batch'),
  endpoint: BatchEndpoint,
  /** Of all lines; null until the input has been read. */
  model: z.nullable(z.string()),
  errors: z.nullable(z.object({ object: z.literal('list'), data: z.array(BatchError) })),
  input_file_id: z.string(),
  completion_window: z.literal('24h'),
  status: BatchStatus,
  /** Answers with status 200, one a line; null where there is none. */
  output_file_id: z.nullable(z.string()),
  /** Everything else that came of a line; null where there is nothing. */
  error_file_id: z.nullable(z.string()),
  created_at: z.int(),
  in_progress_at: time,
  expires_at: time,
  finalizing_at: time,
  completed_at: time,
  failed_at: time,
  expired_at: time,
  cancelling_at: time,
  cancelled_at: time,
  request_counts: z.object({ total: z.int(), completed: z.int(), failed: z.int() }),
  metadata: z.nullable(z.record(z.string(), z.string())),
});
export type Batch = z.infer<typeof Batch>;

/** A line of the input. `body` is a request of the endpoint, checked by its own schema. */
export const BatchLine = z.strictObject({
  custom_id: z.string().check(
    z.minLength(1),
    z.maxLength(B.maxCustomIdChars),
    // It comes back in UTF-8, which has no halves of characters.
    z.refine((text) => !/[\ud800-\udfff]/u.test(text), 'text without lone surrogates'),
  ),
  method: z.literal('POST'),
  url: z.string(),
  body: z.record(z.string(), z.unknown()),
});
export type BatchLine = z.infer<typeof BatchLine>;

/** A line of the output file or of the error file. */
export type BatchResult = {
  id: string;
  custom_id: string;
  /** null where the line was not executed. */
  response: { status_code: number; request_id: string; body: unknown } | null;
  error: { code: string; message: string } | null;
};
