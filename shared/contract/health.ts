import * as z from 'zod/mini';

/** What each part says: `ok`, `failed`, and of backends also `none is ready` and `asleep` (none is to be there until somebody asks). */
export const HealthParts = z.object({
  database: z.string(),
  scheduler: z.string(),
  backends: z.string(),
  webhooks: z.string(),
});

/** `GET /health`. `reasons` says in words what is wrong; there are none where `status` is `ok`. */
export const Health = z.object({
  status: z.enum(['ok', 'degraded']),
  reasons: z.array(z.string()),
  parts: HealthParts,
  version: z.string(),
  queue: z.optional(z.object({ length: z.int(), oldest_wait_ms: z.int() })),
  backends: z.array(
    z.object({
      id: z.string(),
      state: z.enum(['ready', 'draining', 'gone']),
      in_flight: z.int(),
      capacity: z.int(),
      breaker: z.enum(['closed', 'open', 'half_open']),
    }),
  ),
  models: z.array(z.string()),
});
export type Health = z.infer<typeof Health>;

/** `GET /health/ready`: 200, or 503 with `unavailable`. */
export const Readiness = z.object({
  status: z.enum(['ok', 'unavailable']),
  reasons: z.array(z.string()),
  parts: HealthParts,
});
export type Readiness = z.infer<typeof Readiness>;

/** `GET /version`. `time_ms` is the edge's clock, Unix ms. */
export const Version = z.object({ name: z.string(), version: z.string(), time_ms: z.int() });
export type Version = z.infer<typeof Version>;
