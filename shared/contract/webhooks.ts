import * as z from 'zod/mini';
import { LIMITS } from './limits.ts';

/** Types of what happens to a tenant's things. */
export const WebhookEventType = z.enum([
  'fine_tuning.job.succeeded',
  'fine_tuning.job.failed',
  'fine_tuning.job.cancelled',
  'fine_tuning.job.paused',
  'fine_tuning.job.checkpoint',
  'dataset.validated',
  'schedule.run.started',
  'schedule.run.succeeded',
  'schedule.run.failed',
  'schedule.run.skipped',
  'alias.promoted',
  'alias.rolled_back',
  'batch.completed',
  'batch.failed',
  'batch.expired',
  'batch.cancelled',
  'eval.run.succeeded',
  'eval.run.failed',
  'eval.run.canceled',
]);
export type WebhookEventType = z.infer<typeof WebhookEventType>;

/** Of `POST /v1/webhook_endpoints/{id}/test`; sent when somebody asks for it, and not kept. */
export const WEBHOOK_TEST = 'webhook.test';

/** What an endpoint may ask for: types, and patterns that stand for all types that begin so, those of later versions included. */
export const WebhookEventFilter = z.enum([
  '*',
  'fine_tuning.*',
  'fine_tuning.job.*',
  'dataset.*',
  'schedule.*',
  'schedule.run.*',
  'alias.*',
  'batch.*',
  'eval.*',
  'eval.run.*',
  ...WebhookEventType.options,
]);
export type WebhookEventFilter = z.infer<typeof WebhookEventFilter>;

/** Whether a filter's pattern lets a type pass; the same rule as SQL in `edge/store/webhooks.ts`. */
export function matchesFilter(type: string, filters: readonly string[]): boolean {
  return filters.some((filter) => filter === type || (filter.endsWith('*') && type.startsWith(filter.slice(0, -1))));
}

const Url = z.string().check(z.minLength(1), z.maxLength(LIMITS.webhooks.maxUrlChars));
const Filters = z.array(WebhookEventFilter).check(z.minLength(1), z.maxLength(WebhookEventFilter.options.length));
const Description = z.nullable(z.string().check(z.maxLength(LIMITS.webhooks.maxDescriptionChars)));

/** `POST /v1/webhook_endpoints`. Without `events` all are delivered. */
export const CreateWebhookEndpointRequest = z.strictObject({
  url: Url,
  events: z.optional(Filters),
  description: z.optional(Description),
});
export type CreateWebhookEndpointRequest = z.infer<typeof CreateWebhookEndpointRequest>;

/** `POST /v1/webhook_endpoints/{id}`: what is left out stays. What was still to be sent to an endpoint that is disabled is cancelled. */
export const UpdateWebhookEndpointRequest = z.strictObject({
  url: z.optional(Url),
  events: z.optional(Filters),
  description: z.optional(Description),
  status: z.optional(z.enum(['enabled', 'disabled'])),
});
export type UpdateWebhookEndpointRequest = z.infer<typeof UpdateWebhookEndpointRequest>;

/** `POST /v1/webhook_endpoints/{id}/rotate_secret`. The old secret signs beside the new one for `overlap_s` more, 24 h if left out, 0 = not at all. */
export const RotateWebhookSecretRequest = z.strictObject({
  overlap_s: z.optional(z.int().check(z.gte(0), z.lte(LIMITS.webhooks.maxOverlapS))),
});
export type RotateWebhookSecretRequest = z.infer<typeof RotateWebhookSecretRequest>;

/** `secret` (`whsec_…`) is in the answers to the creation and to a rotation only. Times are Unix seconds. */
export const WebhookEndpoint = z.object({
  id: z.string(),
  object: z.literal('webhook_endpoint'),
  url: z.string(),
  events: z.array(WebhookEventFilter),
  description: z.nullable(z.string()),
  created_at: z.int(),
  status: z.enum(['enabled', 'disabled']),
  /** `requested` by you, `gone`: it answered 410, `failing`: nothing got through for days. Null while it is enabled. */
  disabled_reason: z.nullable(z.enum(['requested', 'gone', 'failing'])),
  disabled_at: z.nullable(z.int()),
  /** First failure since the last success. */
  failing_since: z.nullable(z.int()),
  /** Until when older secrets sign beside the present one. */
  old_secret_expires_at: z.nullable(z.int()),
  secret: z.optional(z.string()),
});
export type WebhookEndpoint = z.infer<typeof WebhookEndpoint>;

/**
 * The delivered body, in OpenAI's form: thin, the object itself is fetched by its id. `data.sequence` counts the events of one object from 1 without gaps:
 * deliveries may overtake one another, the event with the highest sequence is the latest. Beside them stand further ids, such as the `schedule_id` of a run.
 */
export const WebhookEvent = z.object({
  id: z.string(),
  object: z.literal('event'),
  type: z.enum([...WebhookEventType.options, WEBHOOK_TEST]),
  created_at: z.int(),
  data: z.looseObject({ id: z.string(), sequence: z.int() }),
});
export type WebhookEvent = z.infer<typeof WebhookEvent>;

export const WebhookDeliveryStatus = z.enum(['pending', 'delivered', 'failed', 'cancelled']);
export type WebhookDeliveryStatus = z.infer<typeof WebhookDeliveryStatus>;

/** One HTTP call. `status` is null where no answer came; `response` is the first bytes of the answer's body. */
export const WebhookAttempt = z.object({
  at: z.int(),
  duration_ms: z.int(),
  status: z.nullable(z.int()),
  error: z.nullable(z.string()),
  response: z.nullable(z.string()),
});
export type WebhookAttempt = z.infer<typeof WebhookAttempt>;

/**
 * One event on its way to one endpoint. `failed`: all attempts of the schedule were used up (a dead letter); `cancelled`: the endpoint was disabled before.
 * `attempt_log` (the latest ones, oldest first) is in the answer for a single delivery only.
 */
export const WebhookDelivery = z.object({
  id: z.string(),
  object: z.literal('webhook_delivery'),
  event_id: z.string(),
  endpoint_id: z.string(),
  type: z.string(),
  status: WebhookDeliveryStatus,
  attempts: z.int(),
  created_at: z.int(),
  next_attempt_at: z.nullable(z.int()),
  ended_at: z.nullable(z.int()),
  last_status: z.nullable(z.int()),
  last_error: z.nullable(z.string()),
  attempt_log: z.optional(z.array(WebhookAttempt)),
});
export type WebhookDelivery = z.infer<typeof WebhookDelivery>;

/**
 * `POST /v1/webhook_endpoints/{id}/redeliver`: begins anew what became of the events of a time range, also of events from before the endpoint was made.
 * `since` and `until` (default: now) are Unix seconds, both included. `status` names deliveries by how they ended, `missing` events that were never to be
 * sent there; left out: everything that was not delivered. `events` left out: the endpoint's own filter.
 */
export const RedeliverWebhooksRequest = z.strictObject({
  since: z.int().check(z.gte(0)),
  until: z.optional(z.int().check(z.gte(0))),
  status: z.optional(
    z.array(z.enum(['failed', 'cancelled', 'delivered', 'missing'])).check(z.minLength(1), z.maxLength(4)),
  ),
  events: z.optional(Filters),
});
export type RedeliverWebhooksRequest = z.infer<typeof RedeliverWebhooksRequest>;

/** How many deliveries were begun anew. */
export const WebhookRedelivery = z.object({
  object: z.literal('webhook_redelivery'),
  endpoint_id: z.string(),
  count: z.int(),
});
export type WebhookRedelivery = z.infer<typeof WebhookRedelivery>;

/** How a test call went: what the receiver said, or why nothing came. */
export const WebhookTest = z.object({
  object: z.literal('webhook_test'),
  event_id: z.string(),
  ok: z.boolean(),
  duration_ms: z.int(),
  status: z.nullable(z.int()),
  error: z.nullable(z.string()),
  response: z.nullable(z.string()),
});
export type WebhookTest = z.infer<typeof WebhookTest>;
