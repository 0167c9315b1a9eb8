/** The OpenAPI 3.1 document, made from the schemas that validate. */
import * as z from 'zod/mini';
import { ChatChunk, ChatCompletion, ChatRequest, InputTokens } from './contract/chat.ts';
import { ERRORS, ErrorEnvelope } from './contract/errors.ts';
import { Deleted, FileObject, FilePurpose } from './contract/files.ts';
import { CreateJobRequest, FineTuningJob, JobCheckpoint, JobEvent } from './contract/jobs.ts';
import { LIMITS } from './contract/limits.ts';
import { Model } from './contract/models.ts';
import { ScoreRequest, ScoreResponse } from './contract/score.ts';
import { CreateWebhookEndpointRequest, WebhookEndpoint, WebhookEvent, WebhookEventType } from './contract/webhooks.ts';

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
  CreateJobRequest,
  FineTuningJob,
  JobEvent,
  JobCheckpoint,
  CreateWebhookEndpointRequest,
  WebhookEndpoint,
  WebhookEvent,
  ErrorEnvelope,
} as const;
type SchemaName = keyof typeof SCHEMAS;

type Operation = {
  method: 'get' | 'post' | 'delete';
  path: string;
  id: string;
  summary: string;
  tag: string;
  body?: SchemaName | 'multipart';
  /** What 200 answers with: a schema, a list of it, or something else. */
  answer: SchemaName | { list: SchemaName } | 'bytes' | 'text' | 'any';
  /** Also answers as server-sent events of this schema. */
  stream?: SchemaName;
  query?: readonly ('limit' | 'after' | 'purpose' | 'order')[];
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
    method: 'get',
    path: '/v1/limits',
    id: 'retrieveLimits',
    summary: 'Every limit that is enforced',
    tag: 'Models',
    answer: 'any',
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
      title: 'mantis-edge',
      version: '0.1.0',
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

function describeOperation(operation: Operation): Json {
  const { id, summary, tag, path, query = [], body, open } = operation;
  const inPath = path.includes('{id}') ? [{ name: 'id', in: 'path', required: true, schema: { type: 'string' } }] : [];
  const errors = {
    description: 'An error in the OpenAI envelope; `x-error-codes` lists the codes',
    content: json(ref('ErrorEnvelope')),
  };
  return {
    operationId: id,
    summary,
    tags: [tag],
    parameters: [...inPath, ...query.map((name) => ({ name, in: 'query', schema: QUERY[name] }))],
    ...(body === undefined
      ? {}
      : { requestBody: { required: true, content: body === 'multipart' ? MULTIPART : json(ref(body)) } }),
    responses: { 200: { description: 'Success', content: answerContent(operation) }, default: errors },
    ...(open ? { security: [] } : {}),
  };
}

function answerContent({ answer, stream }: Operation): Json {
  if (answer === 'bytes') return { 'application/octet-stream': {} };
  if (answer === 'text') return { 'text/plain': { schema: { type: 'string' } } };
  const schema = answer === 'any' ? {} : typeof answer === 'string' ? ref(answer) : listOf(answer.list);
  return { ...json(schema), ...(stream === undefined ? {} : { 'text/event-stream': { schema: ref(stream) } }) };
}

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

const QUERY = {
  limit: { type: 'integer', minimum: 1, maximum: LIMITS.lists.maxLimit, default: LIMITS.lists.defaultLimit },
  after: { type: 'string', description: 'Id of the last item of the page before' },
  purpose: { type: 'string', enum: FilePurpose.options },
  order: { type: 'string', enum: ['asc', 'desc'], default: 'desc' },
} as const;

const MULTIPART = {
  'multipart/form-data': {
    schema: {
      type: 'object',
      properties: {
        file: { type: 'string', format: 'binary' },
        purpose: { type: 'string', enum: FilePurpose.options.filter((name) => name !== 'fine-tune-results') },
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
        content: json({ allOf: [ref('WebhookEvent'), { properties: { type: { const: type } } }] }),
      },
      responses: {
        '2XX': { description: 'Delivered' },
        410: { description: 'Disables the endpoint' },
        default: { description: 'Tried again on the schedule' },
      },
    },
  };
}
