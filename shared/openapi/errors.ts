/** Which error codes an operation may answer with: by what it takes, where it leads, and what it looks up. */
import { ERRORS, type ErrorCode } from '../contract/errors.ts';

/** An operation, as far as its errors depend on it. */
export type Subject = {
  readonly id: string;
  readonly method: string;
  readonly path: string;
  readonly body?: string | undefined;
  readonly hasQuery: boolean;
  readonly isOpen: boolean;
};

const JSON_BODY: readonly ErrorCode[] = [
  'invalid_json',
  'invalid_request',
  'missing_required_parameter',
  'invalid_type',
  'invalid_value',
  'unknown_parameter',
  'unsupported_media_type',
  'request_too_large',
];
const MULTIPART_BODY: readonly ErrorCode[] = [
  'invalid_request',
  'missing_required_parameter',
  'invalid_value',
  'unknown_parameter',
  'unsupported_media_type',
  'request_too_large',
];
const QUERY: readonly ErrorCode[] = [
  'invalid_type',
  'invalid_value',
  'missing_required_parameter',
  'unknown_parameter',
];
const IDEMPOTENCY: readonly ErrorCode[] = ['idempotency_in_progress', 'idempotency_mismatch'];
const IMAGES: readonly ErrorCode[] = [
  'invalid_image_url',
  'invalid_base64_image',
  'invalid_image_format',
  'unsupported_image_media_type',
  'image_parse_error',
  'empty_image_file',
  'image_file_too_large',
  'image_too_large',
  'image_file_not_found',
  'failed_to_download_image',
  'too_many_images',
  'image_not_allowed_here',
];
/** What becomes of a conversation that a model is to read. */
const CONVERSATION: readonly ErrorCode[] = [
  ...IMAGES,
  'unsupported_parameter',
  'model_not_found',
  'context_length_exceeded',
];
const BACKEND: readonly ErrorCode[] = [
  'client_closed_request',
  'backend_failed',
  'no_backend',
  'overloaded',
  'deadline_exceeded',
];

const OF_OPERATION: Readonly<Record<string, readonly ErrorCode[]>> = {
  createChatCompletion: [...CONVERSATION, ...BACKEND],
  countInputTokens: [...CONVERSATION, 'no_backend', 'overloaded', 'backend_failed'],
  createScore: [...CONVERSATION, ...BACKEND],
  retrieveModel: ['model_not_found'],
  deleteModel: ['model_not_found', 'invalid_state'],
  createFile: [
    'image_parse_error',
    'unsupported_image_media_type',
    'image_file_too_large',
    'image_too_large',
    'empty_file',
    'empty_image_file',
    'invalid_image_format',
  ],
  deleteFile: ['file_in_use'],
  createUpload: [],
  addUploadPart: ['invalid_state', 'empty_file'],
  completeUpload: [
    'invalid_state',
    'digest_mismatch',
    'empty_file',
    'invalid_image_format',
    'image_parse_error',
    'unsupported_image_media_type',
    'image_file_too_large',
    'image_too_large',
    'empty_image_file',
  ],
  cancelUpload: ['invalid_state'],
  createBatch: ['file_not_found'],
  cancelBatch: ['invalid_state'],
  createDataset: ['file_not_found'],
  updateDataset: ['file_not_found', 'overloaded'],
  appendToDataset: ['file_not_found', 'overloaded'],
  createDatasetValidation: ['model_not_found', 'file_not_found', 'dataset_not_found', 'no_backend'],
  cancelDatasetValidation: ['invalid_state'],
  createFineTuningJob: ['model_not_found', 'file_not_found', 'invalid_training_file', 'no_backend', ...IMAGES],
  createSchedule: ['model_not_found', 'file_not_found', 'dataset_not_found', 'no_backend'],
  updateSchedule: ['model_not_found', 'file_not_found', 'dataset_not_found', 'no_backend', 'overloaded'],
  deleteSchedule: ['overloaded'],
  runSchedule: ['invalid_state'],
  pauseSchedule: ['invalid_state', 'overloaded'],
  resumeSchedule: ['invalid_state', 'overloaded'],
  retrieveScheduleRun: ['schedule_run_not_found'],
  createAlias: ['model_not_found', 'invalid_state', 'overloaded'],
  promoteAlias: ['model_not_found', 'overloaded'],
  rollbackAlias: ['invalid_state', 'overloaded'],
  deleteAlias: ['invalid_state'],
  createEval: ['model_not_found', 'image_not_allowed_here'],
  createEvalRun: ['model_not_found', 'file_not_found', 'no_backend', 'image_not_allowed_here'],
  retrieveEvalRun: ['eval_run_not_found'],
  cancelEvalRun: ['eval_run_not_found', 'invalid_state'],
  deleteEvalRun: ['eval_run_not_found'],
  retrieveEvalReport: ['eval_run_not_found', 'invalid_state'],
  listEvalOutputItems: ['eval_run_not_found'],
  retrieveEvalOutputItem: ['eval_run_not_found', 'eval_item_not_found'],
  cancelFineTuningJob: ['invalid_state'],
  updateTenant: ['invalid_state'],
  rotateWebhookSecret: ['invalid_state'],
  redeliverWebhooks: ['invalid_state'],
  redeliverWebhook: ['invalid_state'],
  createKey: ['tenant_not_found'],
  rotateKey: ['invalid_state'],
  revokeKey: ['invalid_state'],
  listKeys: ['tenant_not_found'],
  retrieveUsage: ['insufficient_scope'],
};

/** What stands behind the prefix is not there. */
const NOT_FOUND: readonly (readonly [prefix: string, code: ErrorCode])[] = [
  ['/v1/files/', 'file_not_found'],
  ['/v1/uploads/', 'upload_not_found'],
  ['/v1/batches/', 'batch_not_found'],
  ['/v1/datasets/', 'dataset_not_found'],
  ['/v1/dataset_validations/', 'dataset_validation_not_found'],
  ['/v1/fine_tuning/jobs/', 'job_not_found'],
  ['/v1/schedules/', 'schedule_not_found'],
  ['/v1/aliases/', 'alias_not_found'],
  ['/v1/evals/', 'eval_not_found'],
  ['/v1/webhook_endpoints/', 'webhook_endpoint_not_found'],
  ['/v1/webhook_deliveries/', 'webhook_delivery_not_found'],
  ['/v1/webhook_events/', 'webhook_event_not_found'],
  ['/v1/admin/keys/', 'key_not_found'],
  ['/v1/admin/tenants/', 'tenant_not_found'],
];

/** Codes that only backends are answered with, or that stand inside files of results: they belong to no public operation. */
export const NOT_PUBLIC: ReadonlySet<ErrorCode> = new Set([
  'stale_lease',
  'blobs_missing',
  'invalid_signature',
  'duplicate_custom_id',
  'mismatched_model',
  'batch_expired',
  'batch_cancelled',
]);

/** In the order of the error table. */
export function errorCodesOf({ id, method, path, body, hasQuery, isOpen }: Subject): ErrorCode[] {
  const codes = new Set<ErrorCode>(['not_found', 'method_not_allowed', 'server_error']);
  const add = (more: readonly ErrorCode[]): void => {
    for (const code of more) codes.add(code);
  };
  if (!isOpen) add(['invalid_api_key', 'insufficient_scope', 'rate_limit_exceeded']);
  if (body === 'multipart' || body === 'part') add(MULTIPART_BODY);
  else if (body !== undefined) add(JSON_BODY);
  if (hasQuery) add(QUERY);
  if (method === 'post' && path.startsWith('/v1/')) add([...IDEMPOTENCY, 'invalid_value', 'request_too_large']);
  for (const [prefix, code] of NOT_FOUND) if (path.startsWith(prefix)) codes.add(code);
  add(OF_OPERATION[id] ?? []);
  return (Object.keys(ERRORS) as ErrorCode[]).filter((code) => codes.has(code));
}

/** Responses by status, each naming its codes. @param envelope reference to the envelope's schema */
export function errorResponses(codes: readonly ErrorCode[], envelope: { $ref: string }): Record<string, unknown> {
  const byStatus = new Map<number, ErrorCode[]>();
  for (const code of codes) {
    const { status } = ERRORS[code];
    byStatus.set(status, [...(byStatus.get(status) ?? []), code]);
  }
  return Object.fromEntries(
    [...byStatus].map(([status, these]) => {
      const schema = {
        allOf: [envelope, { properties: { error: { properties: { code: { enum: these } } } } }],
      };
      const mayComeBack = status === 409 || status === 429 || status >= 502;
      return [
        String(status),
        {
          description: these.join(', '),
          headers: { 'x-request-id': HEADER.requestId, ...(mayComeBack ? RETRY : {}) },
          content: { 'application/json': { schema } },
        },
      ];
    }),
  );
}

const HEADER = { requestId: { $ref: '#/components/headers/x-request-id' } };
const RETRY = {
  'retry-after': { $ref: '#/components/headers/retry-after' },
  'retry-after-ms': { $ref: '#/components/headers/retry-after-ms' },
  'x-should-retry': { $ref: '#/components/headers/x-should-retry' },
};

const text = (description: string) => ({ description, schema: { type: 'string' } });
const whole = (description: string) => ({ description, schema: { type: 'integer', minimum: 0 } });

/** Headers of answers, by name. */
export const HEADERS = {
  'x-request-id': text('Id of the request, in every log line about it; the caller’s own where it sent one.'),
  traceparent: text('W3C Trace Context: the caller’s trace, or one that began here.'),
  'server-timing': text('What took how long, ms: validation, queue, first token, all.'),
  'openai-processing-ms': whole('Time until the headers went out, ms.'),
  'x-ratelimit-limit-requests': whole(
    'Requests a minute that the key has; left out where there is no limit. Also -tokens and -images.',
  ),
  'x-ratelimit-remaining-requests': whole('Of these, what is left. Also -tokens and -images.'),
  'x-ratelimit-reset-requests': text('When all of them are there again, such as 1s or 6m0s. Also -tokens and -images.'),
  'retry-after': whole('When to come back, seconds.'),
  'retry-after-ms': whole('The same in ms.'),
  'x-should-retry': {
    description: 'Whether the same request may do better later.',
    schema: { type: 'string', enum: ['true', 'false'] },
  },
  'x-image-cache': text('Where each picture’s features came from, in order, comma-separated.'),
  'idempotent-replayed': {
    description: 'The stored answer of an earlier request with this Idempotency-Key.',
    schema: { type: 'string', const: 'true' },
  },
} as const;
