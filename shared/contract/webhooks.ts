import * as z from 'zod/mini';
import { LIMITS } from './limits.ts';

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
]);
export type WebhookEventType = z.infer<typeof WebhookEventType>;

/** `POST /v1/webhook_endpoints`. Without `events` all are delivered. */
export const CreateWebhookEndpointRequest = z.strictObject({
  url: z.string().check(z.minLength(1), z.maxLength(LIMITS.webhooks.maxUrlChars)),
  events: z.optional(z.array(WebhookEventType).check(z.minLength(1))),
});

/** `secret` (`whsec_…`) is in the answer to the creation only. */
export const WebhookEndpoint = z.object({
  id: z.string(),
  object: z.literal('webhook_endpoint'),
  url: z.string(),
  events: z.array(WebhookEventType),
  created_at: z.int(),
  status: z.enum(['enabled', 'disabled']),
  secret: z.optional(z.string()),
});
export type WebhookEndpoint = z.infer<typeof WebhookEndpoint>;

/** The delivered body, in OpenAI's form: thin, the object itself is fetched by its id. */
export const WebhookEvent = z.object({
  id: z.string(),
  object: z.literal('event'),
  type: WebhookEventType,
  created_at: z.int(),
  data: z.object({ id: z.string() }),
});
export type WebhookEvent = z.infer<typeof WebhookEvent>;
