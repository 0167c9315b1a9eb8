/** Parameters of lists and sums, by the name that operations use. */
import { EvalItemStatus, EvalRunStatus } from '../contract/evals.ts';
import { FilePurpose } from '../contract/files.ts';
import { LIMITS } from '../contract/limits.ts';
import { BucketWidth, UsageGroup } from '../contract/usage.ts';
import { WebhookDeliveryStatus, WebhookEventType } from '../contract/webhooks.ts';

const BUCKETS = BucketWidth.options
  .map(
    (width) => `${width}: at most ${LIMITS.usage.maxBuckets[width]}, ${LIMITS.usage.defaultBuckets[width]} if left out`,
  )
  .join('; ');

/** Parameters by name; what stands behind a colon tells two of the same name apart. */
export const QUERY = {
  limit: { type: 'integer', minimum: 1, maximum: LIMITS.lists.maxLimit, default: LIMITS.lists.defaultLimit },
  after: { type: 'string', description: 'Id of the last item of the page before' },
  purpose: { type: 'string', enum: FilePurpose.options },
  order: { type: 'string', enum: ['asc', 'desc'], default: 'desc' },
  tenant: { type: 'string', description: 'Only of this tenant' },
  target: { type: 'string', description: 'Id of the thing that was changed' },
  action: { type: 'string', description: 'Such as key.created' },
  start_time: { type: 'integer', minimum: 0, description: 'Unix seconds; required', example: 1_764_000_000 },
  end_time: { type: 'integer', minimum: 0, description: 'Unix seconds, not included; now if left out' },
  bucket_width: { type: 'string', enum: BucketWidth.options, default: '1d' },
  group_by: { type: 'array', items: { type: 'string', enum: UsageGroup.options } },
  models: { type: 'array', items: { type: 'string' }, description: 'Only of these' },
  api_key_ids: { type: 'array', items: { type: 'string' }, description: 'Only of these' },
  'limit:buckets': { type: 'integer', minimum: 1, description: BUCKETS },
  count: { type: 'integer', minimum: 1, maximum: LIMITS.schedules.maxNextRuns, default: 10 },
  request_id: { type: 'string', description: 'Only of this request' },
  page: { type: 'string', description: '`next_page` of the page before' },
  'tenant:usage': { type: 'string', description: 'For admins: another tenant, or `all`' },
  events: {
    type: 'string',
    description: 'Types and patterns such as fine_tuning.job.*, comma-separated',
    example: 'fine_tuning.job.*,batch.completed',
  },
  object_id: { type: 'string', description: 'Only about this thing' },
  endpoint_id: { type: 'string', description: 'Only to this endpoint' },
  event_id: { type: 'string', description: 'Only of this event' },
  'status:delivery': { type: 'string', enum: WebhookDeliveryStatus.options, description: 'failed: the dead letters' },
  'order:evals': { type: 'string', enum: ['asc', 'desc'], default: 'asc' },
  order_by: { type: 'string', enum: ['created_at', 'updated_at'], default: 'created_at' },
  'status:evalrun': { type: 'string', enum: EvalRunStatus.options },
  'status:evalitem': { type: 'string', enum: EvalItemStatus.options },
  format: { type: 'string', enum: ['html', 'json'], default: 'html' },
  compare: {
    type: 'string',
    description: 'Id of another run of yours, which stands first: the answer is what this one does otherwise',
  },
  force: {
    type: 'boolean',
    default: false,
    description: 'Compare what two runs share although they did different things',
  },
  'type:event': { type: 'string', enum: WebhookEventType.options },
} as const;
