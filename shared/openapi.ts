/** The OpenAPI 3.1 document, made from the schemas that validate. */
import * as z from 'zod/mini';
import { AuditEntry, AuditVerdict } from './contract/audit.ts';
import { Batch, CreateBatchRequest } from './contract/batches.ts';
import { ChatChunk, ChatCompletion, ChatRequest, InputTokens } from './contract/chat.ts';
import { ERRORS, ErrorEnvelope } from './contract/errors.ts';
import { Deleted, FileObject, FilePurpose, UPLOAD_PURPOSES } from './contract/files.ts';
import { CreateJobRequest, FineTuningJob, JobCheckpoint, JobEvent } from './contract/jobs.ts';
import {
  ApiKey,
  accessOf,
  CreateKeyRequest,
  CreateTenantRequest,
  RotateKeyRequest,
  scopesFor,
  Tenant,
  UpdateKeyRequest,
  UpdateTenantRequest,
} from './contract/keys.ts';
import { LIMITS } from './contract/limits.ts';
import { Model } from './contract/models.ts';
import { ScoreRequest, ScoreResponse } from './contract/score.ts';
import { CompleteUploadRequest, CreateUploadRequest, Upload, UploadPart } from './contract/uploads.ts';
import { BucketWidth, UsageGroup, UsagePage } from './contract/usage.ts';
import { PRODUCT } from './contract/version.ts';
import { CreateWebhookEndpointRequest, WebhookEndpoint, WebhookEvent, WebhookEventType } from './contract/webhooks.ts';
import { errorCodesOf, errorResponses, HEADERS } from './openapi/errors.ts';
import { EXAMPLES } from './openapi/examples.ts';

type Json = { [key: string]: unknown };

/** Named schemas; requests and answers refer to them. */
const SCHEMAS = {
  ChatRequest,
  ChatCompletion,
  ChatChunk,
  InputTokens,
  ScoreRequest,
  ScoreResponse,
  Model,
  FileObject,
  Deleted,
  CreateUploadRequest,
  CompleteUploadRequest,
  Upload,
  UploadPart,
  CreateBatchRequest,
  Batch,
  CreateJobRequest,
  FineTuningJob,
  JobEvent,
  JobCheckpoint,
  CreateWebhookEndpointRequest,
  WebhookEndpoint,
  WebhookEvent,
  CreateTenantRequest,
  UpdateTenantRequest,
  Tenant,
  CreateKeyRequest,
  UpdateKeyRequest,
  RotateKeyRequest,
  ApiKey,
  AuditEntry,
  AuditVerdict,
  UsagePage,
  ErrorEnvelope,
} as const;
type SchemaName = keyof typeof SCHEMAS;

type Operation = {
  method: 'get' | 'post' | 'delete';
  path: string;
  id: string;
  summary: string;
  tag: string;
  /** `multipart`: a file with its purpose; `part`: bytes of an upload. */
  body?: SchemaName | 'multipart' | 'part';
  /** What 200 answers with: a schema, a list of it, or something else. */
  answer: SchemaName | { list: SchemaName } | 'bytes' | 'text' | 'any';
  /** Also answers as server-sent events of this schema. */
  stream?: SchemaName;
  query?: readonly (keyof typeof QUERY)[];
  open?: true;
};

export const OPERATIONS: readonly Operation[] = [
  {
    method: 'post',
    path: '/v1/chat/completions',
    id: 'createChatCompletion',
    summary: 'Answer a conversation with interleaved images',
    tag: 'Chat',
    body: 'ChatRequest',
    answer: 'ChatCompletion',
    stream: 'ChatChunk',
  },
  {
    method: 'post',
    path: '/v1/chat/completions/input_tokens',
    id: 'countInputTokens',
    summary: 'Say how many tokens a conversation would take, and whether it fits',
    tag: 'Chat',
    body: 'ChatRequest',
    answer: 'InputTokens',
  },
  {
    method: 'post',
    path: '/v1/score',
    id: 'createScore',
    summary: 'Say how likely each of several given answers is',
    tag: 'Chat',
    body: 'ScoreRequest',
    answer: 'ScoreResponse',
  },
  {
    method: 'get',
    path: '/v1/models',
    id: 'listModels',
    summary: 'List models with their limits',
    tag: 'Models',
    answer: { list: 'Model' },
  },
  {
    method: 'get',
    path: '/v1/models/{id}',
    id: 'retrieveModel',
    summary: 'Retrieve a model',
    tag: 'Models',
    answer: 'Model',
  },
  {
    method: 'delete',
    path: '/v1/models/{id}',
    id: 'deleteModel',
    summary: 'Delete a fine-tuned model of your own with its checkpoints',
    tag: 'Models',
    answer: 'Deleted',
  },
  {
    method: 'get',
    path: '/v1/limits',
    id: 'retrieveLimits',
    summary: 'Every limit that is enforced',
    tag: 'Models',
    answer: 'any',
  },
  {
    method: 'get',
    path: '/v1/usage',
    id: 'retrieveUsage',
    summary: 'What was used, in buckets of time',
    tag: 'Usage',
    answer: 'UsagePage',
    query: [
      'start_time',
      'end_time',
      'bucket_width',
      'group_by',
      'models',
      'api_key_ids',
      'limit:buckets',
      'page',
      'tenant:usage',
    ],
  },
  {
    method: 'post',
    path: '/v1/files',
    id: 'createFile',
    summary: 'Upload a file',
    tag: 'Files',
    body: 'multipart',
    answer: 'FileObject',
  },
  {
    method: 'get',
    path: '/v1/files',
    id: 'listFiles',
    summary: 'List files',
    tag: 'Files',
    answer: { list: 'FileObject' },
    query: ['limit', 'after', 'purpose', 'order'],
  },
  {
    method: 'get',
    path: '/v1/files/{id}',
    id: 'retrieveFile',
    summary: 'Retrieve a file',
    tag: 'Files',
    answer: 'FileObject',
  },
  {
    method: 'delete',
    path: '/v1/files/{id}',
    id: 'deleteFile',
    summary: 'Delete a file',
    tag: 'Files',
    answer: 'Deleted',
  },
  {
    method: 'get',
    path: '/v1/files/{id}/content',
    id: 'downloadFile',
    summary: "Download a file's bytes",
    tag: 'Files',
    answer: 'bytes',
  },
  {
    method: 'post',
    path: '/v1/uploads',
    id: 'createUpload',
    summary: 'Begin a file that is sent in parts',
    tag: 'Uploads',
    body: 'CreateUploadRequest',
    answer: 'Upload',
  },
  {
    method: 'get',
    path: '/v1/uploads/{id}',
    id: 'retrieveUpload',
    summary: 'Retrieve an upload',
    tag: 'Uploads',
    answer: 'Upload',
  },
  {
    method: 'post',
    path: '/v1/uploads/{id}/parts',
    id: 'addUploadPart',
    summary: 'Send a part, in any order',
    tag: 'Uploads',
    body: 'part',
    answer: 'UploadPart',
  },
  {
    method: 'post',
    path: '/v1/uploads/{id}/complete',
    id: 'completeUpload',
    summary: 'Put the parts together as a file',
    tag: 'Uploads',
    body: 'CompleteUploadRequest',
    answer: 'Upload',
  },
  {
    method: 'post',
    path: '/v1/uploads/{id}/cancel',
    id: 'cancelUpload',
    summary: 'Give an upload up',
    tag: 'Uploads',
    answer: 'Upload',
  },
  {
    method: 'post',
    path: '/v1/batches',
    id: 'createBatch',
    summary: 'Have a file of requests worked off',
    tag: 'Batches',
    body: 'CreateBatchRequest',
    answer: 'Batch',
  },
  {
    method: 'get',
    path: '/v1/batches',
    id: 'listBatches',
    summary: 'List batches',
    tag: 'Batches',
    answer: { list: 'Batch' },
    query: ['limit', 'after'],
  },
  {
    method: 'get',
    path: '/v1/batches/{id}',
    id: 'retrieveBatch',
    summary: 'Retrieve a batch',
    tag: 'Batches',
    answer: 'Batch',
  },
  {
    method: 'post',
    path: '/v1/batches/{id}/cancel',
    id: 'cancelBatch',
    summary: 'Cancel a batch; what is done stays',
    tag: 'Batches',
    answer: 'Batch',
  },
  {
    method: 'post',
    path: '/v1/fine_tuning/jobs',
    id: 'createFineTuningJob',
    summary: 'Validate a dataset and start a fine-tune',
    tag: 'Fine-tuning',
    body: 'CreateJobRequest',
    answer: 'FineTuningJob',
  },
  {
    method: 'get',
    path: '/v1/fine_tuning/jobs',
    id: 'listFineTuningJobs',
    summary: 'List fine-tuning jobs',
    tag: 'Fine-tuning',
    answer: { list: 'FineTuningJob' },
    query: ['limit', 'after'],
  },
  {
    method: 'get',
    path: '/v1/fine_tuning/jobs/{id}',
    id: 'retrieveFineTuningJob',
    summary: 'Retrieve a fine-tuning job',
    tag: 'Fine-tuning',
    answer: 'FineTuningJob',
  },
  {
    method: 'post',
    path: '/v1/fine_tuning/jobs/{id}/cancel',
    id: 'cancelFineTuningJob',
    summary: 'Cancel a fine-tuning job',
    tag: 'Fine-tuning',
    answer: 'FineTuningJob',
  },
  {
    method: 'get',
    path: '/v1/fine_tuning/jobs/{id}/events',
    id: 'listFineTuningEvents',
    summary: "List a job's events, or follow them",
    tag: 'Fine-tuning',
    answer: { list: 'JobEvent' },
    stream: 'JobEvent',
    query: ['limit', 'after'],
  },
  {
    method: 'get',
    path: '/v1/fine_tuning/jobs/{id}/checkpoints',
    id: 'listFineTuningJobCheckpoints',
    summary: "List a job's checkpoints",
    tag: 'Fine-tuning',
    answer: { list: 'JobCheckpoint' },
    query: ['limit', 'after'],
  },
  {
    method: 'post',
    path: '/v1/webhook_endpoints',
    id: 'createWebhookEndpoint',
    summary: 'Add a webhook endpoint; its secret is shown once',
    tag: 'Webhooks',
    body: 'CreateWebhookEndpointRequest',
    answer: 'WebhookEndpoint',
  },
  {
    method: 'get',
    path: '/v1/webhook_endpoints',
    id: 'listWebhookEndpoints',
    summary: 'List webhook endpoints',
    tag: 'Webhooks',
    answer: { list: 'WebhookEndpoint' },
    query: ['limit', 'after'],
  },
  {
    method: 'get',
    path: '/v1/webhook_endpoints/{id}',
    id: 'retrieveWebhookEndpoint',
    summary: 'Retrieve a webhook endpoint',
    tag: 'Webhooks',
    answer: 'WebhookEndpoint',
  },
  {
    method: 'delete',
    path: '/v1/webhook_endpoints/{id}',
    id: 'deleteWebhookEndpoint',
    summary: 'Delete a webhook endpoint',
    tag: 'Webhooks',
    answer: 'Deleted',
  },
  {
    method: 'post',
    path: '/v1/admin/tenants',
    id: 'createTenant',
    summary: 'Create a tenant',
    tag: 'Administration',
    body: 'CreateTenantRequest',
    answer: 'Tenant',
  },
  {
    method: 'get',
    path: '/v1/admin/tenants',
    id: 'listTenants',
    summary: 'List tenants',
    tag: 'Administration',
    answer: { list: 'Tenant' },
    query: ['limit', 'after'],
  },
  {
    method: 'get',
    path: '/v1/admin/tenants/{id}',
    id: 'retrieveTenant',
    summary: 'Retrieve a tenant',
    tag: 'Administration',
    answer: 'Tenant',
  },
  {
    method: 'post',
    path: '/v1/admin/tenants/{id}',
    id: 'updateTenant',
    summary: 'Change, disable or enable a tenant',
    tag: 'Administration',
    body: 'UpdateTenantRequest',
    answer: 'Tenant',
  },
  {
    method: 'post',
    path: '/v1/admin/keys',
    id: 'createKey',
    summary: 'Create an API key; its secret is shown once',
    tag: 'Administration',
    body: 'CreateKeyRequest',
    answer: 'ApiKey',
  },
  {
    method: 'get',
    path: '/v1/admin/keys',
    id: 'listKeys',
    summary: 'List API keys',
    tag: 'Administration',
    answer: { list: 'ApiKey' },
    query: ['limit', 'after', 'tenant'],
  },
  {
    method: 'get',
    path: '/v1/admin/keys/{id}',
    id: 'retrieveKey',
    summary: 'Retrieve an API key',
    tag: 'Administration',
    answer: 'ApiKey',
  },
  {
    method: 'post',
    path: '/v1/admin/keys/{id}',
    id: 'updateKey',
    summary: "Change a key's name, scopes, limits or expiry",
    tag: 'Administration',
    body: 'UpdateKeyRequest',
    answer: 'ApiKey',
  },
  {
    method: 'post',
    path: '/v1/admin/keys/{id}/rotate',
    id: 'rotateKey',
    summary: 'Make a successor with the same rights; the old secret works on for the overlap',
    tag: 'Administration',
    body: 'RotateKeyRequest',
    answer: 'ApiKey',
  },
  {
    method: 'post',
    path: '/v1/admin/keys/{id}/revoke',
    id: 'revokeKey',
    summary: 'End a key for good, everywhere within 5 s',
    tag: 'Administration',
    answer: 'ApiKey',
  },
  {
    method: 'get',
    path: '/v1/admin/audit',
    id: 'listAuditEntries',
    summary: 'Who changed what',
    tag: 'Administration',
    answer: { list: 'AuditEntry' },
    query: ['limit', 'after', 'tenant', 'target', 'action'],
  },
  {
    method: 'post',
    path: '/v1/admin/audit/verify',
    id: 'verifyAudit',
    summary: 'Compute the audit chain anew and compare',
    tag: 'Administration',
    answer: 'AuditVerdict',
  },
  {
    method: 'get',
    path: '/health',
    id: 'health',
    summary: 'State of the parts',
    tag: 'Health',
    answer: 'any',
    open: true,
  },
  {
    method: 'get',
    path: '/health/live',
    id: 'healthLive',
    summary: 'The process answers',
    tag: 'Health',
    answer: 'any',
    open: true,
  },
  {
    method: 'get',
    path: '/health/ready',
    id: 'healthReady',
    summary: 'All parts answer',
    tag: 'Health',
    answer: 'any',
    open: true,
  },
  {
    method: 'get',
    path: '/version',
    id: 'version',
    summary: "The product's name and version, and the edge's time",
    tag: 'Health',
    answer: 'any',
    open: true,
  },
  {
    method: 'get',
    path: '/metrics',
    id: 'metrics',
    summary: 'Counts and levels in the text format of Prometheus',
    tag: 'Health',
    answer: 'text',
  },
  {
    method: 'get',
    path: '/openapi.json',
    id: 'openapi',
    summary: 'This document',
    tag: 'Health',
    answer: 'any',
    open: true,
  },
];

/** Builds the whole document. */
export function openApiDocument(): Json {
  const paths: Record<string, Json> = {};
  for (const operation of OPERATIONS) {
    paths[operation.path] = { ...paths[operation.path], [operation.method]: describeOperation(operation) };
  }
  return {
    openapi: '3.1.0',
    info: {
      title: PRODUCT.name,
      version: PRODUCT.version,
      description:
        'Chat with several interleaved images, and fine-tune the model that answers. OpenAI-compatible where the paths are the same.',
      license: { name: 'Apache-2.0', identifier: 'Apache-2.0' },
    },
    servers: [{ url: '/' }],
    security: [{ apiKey: [] }],
    paths,
    webhooks: Object.fromEntries(
      WebhookEventType.options.map((type) => [type.replaceAll('.', '_'), describeWebhook(type)]),
    ),
    components: {
      securitySchemes: { apiKey: { type: 'http', scheme: 'bearer', description: 'An API key, `mk_…`.' } },
      headers: HEADERS,
      schemas: Object.fromEntries(Object.entries(SCHEMAS).map(([name, schema]) => [name, jsonSchema(schema, name)])),
    },
    'x-error-codes': ERRORS,
    'x-limits': LIMITS,
  };
}

function jsonSchema(schema: z.core.$ZodType, name: string): Json {
  const io = name.endsWith('Request') ? 'input' : 'output';
  const { $schema: _, ...rest } = z.toJSONSchema(schema, {
    target: 'draft-2020-12',
    io,
    unrepresentable: 'any',
  }) as Json;
  return rest;
}

const ref = (name: SchemaName) => ({ $ref: `#/components/schemas/${name}` });
const json = (schema: Json) => ({ 'application/json': { schema } });
/** With the example of that schema, where there is one. */
const named = (name: SchemaName) => ({
  'application/json': { schema: ref(name), ...(name in EXAMPLES ? { example: EXAMPLES[name] } : {}) },
});

function describeOperation(operation: Operation): Json {
  const { method, id, summary, tag, path, query = [], body, open, stream } = operation;
  const inPath = path.includes('{id}') ? [{ name: 'id', in: 'path', required: true, schema: { type: 'string' } }] : [];
  const codes = errorCodesOf({ id, method, path, body, hasQuery: query.length > 0, isOpen: open === true });
  const success = {
    description: stream === undefined ? 'Success' : (STREAMS[stream] ?? 'Success, or a stream of events'),
    headers: Object.fromEntries(SUCCESS_HEADERS.map((name) => [name, { $ref: `#/components/headers/${name}` }])),
    content: answerContent(operation),
  };
  return {
    operationId: id,
    summary,
    tags: [tag],
    parameters: [...inPath, ...query.map(describeQuery)],
    ...(body === undefined ? {} : { requestBody: { required: true, content: bodyContent(body) } }),
    responses: { 200: success, ...errorResponses(codes, ref('ErrorEnvelope')) },
    'x-error-codes': codes,
    ...(open ? { security: [] } : {}),
    ...requiredScopes(method, path),
  };
}

/** `x-required-scopes`: any one of them lets a key pass; an empty list = every key does. */
function requiredScopes(method: string, path: string): Json {
  const access = accessOf(path);
  if (access === null || access === 'open' || access === 'signature') return {};
  return { 'x-required-scopes': scopesFor(access, method.toUpperCase()) ?? [] };
}

function describeQuery(key: keyof typeof QUERY): Json {
  const [name] = key.split(':');
  return { name, in: 'query', required: key === 'start_time', schema: QUERY[key] };
}

function answerContent({ answer, stream }: Operation): Json {
  if (answer === 'bytes') return { 'application/octet-stream': {} };
  if (answer === 'text') return { 'text/plain': { schema: { type: 'string' } } };
  const whole = typeof answer === 'string' ? (answer === 'any' ? json({}) : named(answer)) : json(listOf(answer.list));
  if (stream === undefined) return whole;
  // The schema is that of one event's data; `[DONE]` is not JSON.
  return { ...whole, 'text/event-stream': { schema: { anyOf: [ref(stream), ref('ErrorEnvelope')] } } };
}

/** What a stream of these looks like, beside the schema of its events' data. */
const STREAMS: Partial<Record<SchemaName, string>> = {
  ChatChunk:
    'The completion, or (`stream: true`) server-sent events: each `data:` a ChatChunk, comments (`: ping`) while nothing happens, `data: [DONE]` at the end. What goes wrong on the way is an event with an ErrorEnvelope, and then nothing more comes.',
  JobEvent:
    'The list, or (`accept: text/event-stream`) server-sent events: each `data:` a JobEvent, its `id:` to be sent as `last-event-id` to go on after a break, and `event: end` with the job’s status as the last one.',
};

const SUCCESS_HEADERS = ['x-request-id', 'traceparent', 'server-timing', 'openai-processing-ms'] as const;

function listOf(name: SchemaName): Json {
  const id = { type: ['string', 'null'] };
  const properties = {
    object: { const: 'list' },
    data: { type: 'array', items: ref(name) },
    first_id: id,
    last_id: id,
    has_more: { type: 'boolean' },
  };
  return { type: 'object', properties, required: ['object', 'data', 'has_more'] };
}

const BUCKETS = BucketWidth.options
  .map(
    (width) => `${width}: at most ${LIMITS.usage.maxBuckets[width]}, ${LIMITS.usage.defaultBuckets[width]} if left out`,
  )
  .join('; ');

/** Parameters by name; what stands behind a colon tells two of the same name apart. */
const QUERY = {
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
  page: { type: 'string', description: '`next_page` of the page before' },
  'tenant:usage': { type: 'string', description: 'For admins: another tenant, or `all`' },
} as const;

function bodyContent(body: NonNullable<Operation['body']>): Json {
  if (body === 'multipart') return MULTIPART;
  if (body !== 'part') return named(body);
  const schema = { type: 'object', properties: { data: { type: 'string', format: 'binary' } }, required: ['data'] };
  return { 'multipart/form-data': { schema } };
}

const MULTIPART = {
  'multipart/form-data': {
    schema: {
      type: 'object',
      properties: {
        file: { type: 'string', format: 'binary' },
        purpose: { type: 'string', enum: UPLOAD_PURPOSES },
        'expires_after[anchor]': { type: 'string', const: 'created_at' },
        'expires_after[seconds]': {
          type: 'integer',
          minimum: LIMITS.files.minExpiryS,
          maximum: LIMITS.files.maxExpiryS,
        },
      },
      required: ['file', 'purpose'],
    },
  },
};

function describeWebhook(type: WebhookEventType): Json {
  return {
    post: {
      operationId: type.replaceAll('.', '_'),
      summary: `${type}: signed as Standard Webhooks 1.0 (webhook-id, webhook-timestamp, webhook-signature)`,
      requestBody: {
        required: true,
        content: {
          'application/json': {
            schema: { allOf: [ref('WebhookEvent'), { properties: { type: { const: type } } }] },
            example: { ...(EXAMPLES.WebhookEvent as Json), type },
          },
        },
      },
      responses: {
        '2XX': { description: 'Delivered' },
        410: { description: 'Disables the endpoint' },
        default: { description: 'Tried again on the schedule' },
      },
    },
  };
}
