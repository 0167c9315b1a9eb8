/** The OpenAPI 3.1 document, made from the schemas that validate. */
import * as z from 'zod/mini';
import { ERRORS } from './contract/errors.ts';
import { UPLOAD_PURPOSES } from './contract/files.ts';
import { accessOf, scopesFor } from './contract/keys.ts';
import { LIMITS } from './contract/limits.ts';
import { PRODUCT } from './contract/version.ts';
import { WEBHOOK_TEST, WebhookEventType } from './contract/webhooks.ts';
import { errorCodesOf, errorResponses, HEADERS } from './openapi/errors.ts';
import { EXAMPLES } from './openapi/examples.ts';
import type { Operation } from './openapi/operation.ts';
import { OPERATIONS } from './openapi/operations.ts';
import { QUERY } from './openapi/query.ts';
import { SCHEMAS, type SchemaName } from './openapi/schemas.ts';

type Json = { [key: string]: unknown };

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
      [...WebhookEventType.options, WEBHOOK_TEST].map((type) => [type.replaceAll('.', '_'), describeWebhook(type)]),
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
  const inPath = [...path.matchAll(/\{(\w+)\}/g)].map(([, name]) => ({
    name,
    in: 'path',
    required: true,
    schema: { type: 'string' },
  }));
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
  Batch:
    'The batch, or (`accept: text/event-stream`) server-sent events: each `data:` a Batch whenever it has gone on, the last one when it has ended.',
  EvalRun:
    'The run, or (`accept: text/event-stream`) server-sent events: each `data:` an EvalRun whenever it has gone on, the last one when it has ended.',
  JobEvent:
    'The list, or (`accept: text/event-stream`) server-sent events: each `data:` a JobEvent, its `id:` to be sent as `last-event-id` to go on after a break, and `event: end` with the job’s status as the last one.',
  WebhookEvent:
    'The list, or (`accept: text/event-stream`) server-sent events without end: each `data:` a WebhookEvent, its `id:` to be sent as `last-event-id` to go on after a break, comments (`: ping`) while nothing happens.',
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

function describeWebhook(type: string): Json {
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
