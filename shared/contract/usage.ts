import * as z from 'zod/mini';
import { LIMITS } from './limits.ts';

/** What sums may be split by. */
export const UsageGroup = z.enum(['model', 'key', 'tenant']);
export type UsageGroup = z.infer<typeof UsageGroup>;

export const BucketWidth = z.enum(['1m', '1h', '1d']);
export type BucketWidth = z.infer<typeof BucketWidth>;

export const BUCKET_MS = { '1m': 60_000, '1h': 3_600_000, '1d': 86_400_000 } as const satisfies Record<
  BucketWidth,
  number
>;

/** One group's sum in a bucket, in the names of OpenAI's usage API; null where it is not split by that. Image tokens are a part of the input tokens. */
export const UsageResult = z.object({
  object: z.literal('usage.result'),
  model: z.nullable(z.string()),
  api_key_id: z.nullable(z.string()),
  tenant: z.nullable(z.string()),
  num_model_requests: z.int(),
  input_tokens: z.int(),
  output_tokens: z.int(),
  input_cached_tokens: z.int(),
  input_image_tokens: z.int(),
  images: z.int(),
  input_bytes: z.int(),
});
export type UsageResult = z.infer<typeof UsageResult>;

/** Times are Unix seconds; `end_time` is the first that is not in it. */
export const UsageBucket = z.object({
  object: z.literal('bucket'),
  start_time: z.int(),
  end_time: z.int(),
  results: z.array(UsageResult),
});
export type UsageBucket = z.infer<typeof UsageBucket>;

/** `GET /v1/usage`. */
export const UsagePage = z.object({
  object: z.literal('page'),
  data: z.array(UsageBucket),
  has_more: z.boolean(),
  next_page: z.nullable(z.string()),
});
export type UsagePage = z.infer<typeof UsagePage>;

const Seconds = z.coerce.number().check(z.int(), z.gte(0), z.lte(99_999_999_999));
const Names = z.array(z.string().check(z.minLength(1), z.maxLength(256))).check(z.maxLength(100));

/** Query of `GET /v1/usage`. Lists repeat their name or have it with `[]`. */
export const UsageQuery = z.strictObject({
  start_time: Seconds,
  end_time: z.optional(Seconds),
  bucket_width: z.optional(BucketWidth),
  group_by: z.optional(z.array(UsageGroup)),
  models: z.optional(Names),
  api_key_ids: z.optional(Names),
  limit: z.optional(z.coerce.number().check(z.int(), z.gte(1), z.lte(LIMITS.usage.maxBuckets['1m']))),
  /** `next_page` of the page before. */
  page: z.optional(z.string().check(z.regex(/^\d{1,11}$/, 'the next_page of an earlier answer'))),
  /** `all`: every tenant's; admins only. */
  tenant: z.optional(z.string().check(z.regex(/^(all|[0-9a-f]{32})$/, '"all" or 32 lower-case hexadecimal digits'))),
});
export type UsageQuery = z.infer<typeof UsageQuery>;

/** One picture of a request, in reading order; its size in pixels, upright. `cache` says where its features came from; `none`: they were computed. */
export const UsageImage = z.object({
  digest: z.string(),
  bytes: z.int(),
  width: z.int(),
  height: z.int(),
  tokens: z.int(),
  cache: z.string(),
});

/** One request that reached a model. `status` 499: the client hung up, and the tokens are those of what had been made. */
export const UsageRecord = z.object({
  id: z.string(),
  object: z.literal('usage.record'),
  request_id: z.string(),
  created_at: z.int(),
  api_key_id: z.string(),
  model: z.string(),
  route: z.string(),
  status: z.int(),
  input_tokens: z.int(),
  output_tokens: z.int(),
  input_cached_tokens: z.int(),
  input_image_tokens: z.int(),
  input_bytes: z.int(),
  duration_ms: z.int(),
  batch_id: z.nullable(z.string()),
  images: z.array(UsageImage),
});
export type UsageRecord = z.infer<typeof UsageRecord>;
