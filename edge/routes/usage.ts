import type { Context } from 'hono';
import { ApiError, describe, errorMessage, violation, violationsOf } from '../../shared/contract/errors.ts';
import { LIMITS } from '../../shared/contract/limits.ts';
import {
  BUCKET_MS,
  type UsageBucket,
  type UsagePage,
  UsageQuery,
  type UsageResult,
} from '../../shared/contract/usage.ts';
import type { AppEnv } from '../env.ts';
import { listUsage, sumUsage, type UsageSum } from '../store/usage.ts';
import { listQuery } from './query.ts';

const LISTS: ReadonlySet<string> = new Set(['group_by', 'models', 'api_key_ids']);

/** `GET /v1/usage`: what the tenant used, in buckets that begin at whole minutes, hours or days of UTC, empty ones included. */
export async function retrieveUsage(c: Context<AppEnv>): Promise<Response> {
  const query = usageQuery(c);
  const width = query.bucket_width ?? '1d';
  const widthMs = BUCKET_MS[width];
  const startMs = Math.floor((query.page === undefined ? query.start_time : Number(query.page)) * 1000);
  const firstMs = Math.floor(startMs / widthMs) * widthMs;
  const endMs = query.end_time === undefined ? Date.now() + 1 : query.end_time * 1000;
  const asked = query.limit ?? LIMITS.usage.defaultBuckets[width];
  const all = Math.max(0, Math.ceil((endMs - firstMs) / widthMs));
  const count = Math.min(asked, all);
  const untilMs = Math.min(firstMs + count * widthMs, endMs);
  const sums = await sumUsage(c.env.DB, {
    tenant: tenantOf(c, query.tenant),
    fromMs: firstMs,
    untilMs,
    widthMs,
    groupBy: query.group_by ?? [],
    models: query.models ?? [],
    keyIds: query.api_key_ids ?? [],
  });
  const data = Array.from({ length: count }, (_, i): UsageBucket => {
    const fromMs = firstMs + i * widthMs;
    return { object: 'bucket', start_time: fromMs / 1000, end_time: (fromMs + widthMs) / 1000, results: [] };
  });
  for (const sum of sums) data[sum.bucket]?.results.push(showSum(sum));
  const hasMore = count < all;
  const body: UsagePage = {
    object: 'page',
    data,
    has_more: hasMore,
    next_page: hasMore ? String((firstMs + count * widthMs) / 1000) : null,
  };
  return c.json(body);
}

/** `GET /v1/usage/records`: the rows that the sums are made of, newest first; of one request with `request_id`. */
export async function listUsageRecords(c: Context<AppEnv>): Promise<Response> {
  const requestId = c.req.query('request_id') ?? null;
  return c.json(await listUsage(c.env.DB, c.get('tenant'), { ...listQuery(c), requestId }));
}

function showSum(sum: UsageSum): UsageResult {
  return {
    object: 'usage.result',
    model: sum.model,
    api_key_id: sum.key_id,
    tenant: sum.tenant,
    num_model_requests: sum.requests,
    input_tokens: sum.prompt_tokens,
    output_tokens: sum.completion_tokens,
    input_cached_tokens: sum.cached_tokens,
    input_image_tokens: sum.image_tokens,
    images: sum.images,
    input_bytes: sum.bytes_in,
  };
}

function usageQuery(c: Context<AppEnv>): UsageQuery {
  const given: Record<string, unknown> = {};
  for (const [name, values] of Object.entries(c.req.queries())) {
    const plain = name.replace(/\[\]$/, '');
    if (!LISTS.has(plain)) given[plain] = values.at(-1);
    else
      given[plain] = [
        ...((given[plain] as string[] | undefined) ?? []),
        ...values.flatMap((value) => value.split(',')),
      ];
  }
  const parsed = UsageQuery.safeParse(given);
  if (!parsed.success) throw ApiError.from(violationsOf(parsed.error.issues, given));
  const query = parsed.data;
  const most = LIMITS.usage.maxBuckets[query.bucket_width ?? '1d'];
  const wrong = [];
  if (query.limit !== undefined && query.limit > most) {
    wrong.push(
      violation('invalid_value', 'limit', {
        expected: `at most ${most} buckets of ${query.bucket_width ?? '1d'}`,
        received: query.limit,
      }),
    );
  }
  if (query.end_time !== undefined && query.end_time <= query.start_time) {
    wrong.push(
      violation('invalid_value', 'end_time', { expected: 'a time after start_time', received: query.end_time }),
    );
  }
  if (wrong.length > 0) throw ApiError.from(wrong);
  return query;
}

/** @returns null for everybody's */
function tenantOf(c: Context<AppEnv>, asked: string | undefined): string | null {
  const { tenant, scopes } = c.get('caller');
  if (asked === undefined || asked === tenant) return tenant;
  if (scopes.includes('admin')) return asked === 'all' ? null : asked;
  throw new ApiError(
    'insufficient_scope',
    errorMessage('tenant', {
      expected: 'nothing, or your own tenant, without the scope admin',
      received: describe(asked),
    }),
    { param: 'tenant' },
  );
}
