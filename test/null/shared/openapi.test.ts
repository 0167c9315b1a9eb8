import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { describe, it } from 'node:test';
import Ajv2020 from 'ajv/dist/2020.js';
import { ERRORS, type ErrorCode } from '../../../shared/contract/errors.ts';
import { accessOf } from '../../../shared/contract/keys.ts';
import { PRODUCT } from '../../../shared/contract/version.ts';
import { NOT_PUBLIC } from '../../../shared/openapi/errors.ts';
import { EXAMPLES } from '../../../shared/openapi/examples.ts';
import { OPERATIONS } from '../../../shared/openapi/operations.ts';
import { openApiDocument } from '../../../shared/openapi.ts';

type Json = { [key: string]: unknown };
type Media = { schema?: Json; example?: unknown };
type Operation = {
  operationId: string;
  parameters: { name: string; in: string }[];
  requestBody?: { content: Record<string, Media> };
  responses: Record<string, { description: string; content?: Record<string, Media> }>;
  security?: unknown[];
  'x-error-codes': ErrorCode[];
  'x-required-scopes'?: string[];
};

// As a client gets it.
const document = JSON.parse(JSON.stringify(openApiDocument())) as Json & {
  paths: Record<string, Record<string, Operation>>;
  webhooks: Record<string, { post: { requestBody: { content: Record<string, Media> } } }>;
  components: { schemas: Record<string, Json>; headers: Json };
};
const ajv = new Ajv2020({ strict: false, allErrors: true, formats: { binary: true } });
ajv.addSchema(document, 'doc');
const validate = (schema: Json) => ajv.compile(rebased(schema) as Json);
/** References of the document, seen from outside of it. */
const rebased = (value: unknown): unknown =>
  JSON.parse(JSON.stringify(value), (key, inner: unknown) =>
    key === '$ref' && typeof inner === 'string' ? inner.replace(/^#/, 'doc#') : inner,
  );
const operations = Object.entries(document.paths).flatMap(([path, item]) =>
  Object.entries(item).map(([method, operation]) => ({ path, method, operation })),
);

describe('the OpenAPI document', () => {
  it('is of this version of the product', () => {
    const { name, version } = JSON.parse(readFileSync('package.json', 'utf8')) as { name: string; version: string };
    assert.deepEqual({ ...PRODUCT }, { name, version });
    assert.deepEqual((document.info as Json).version, version);
    assert.equal(document.openapi, '3.1.0');
  });

  it('has schemas that compile, and references that lead somewhere', () => {
    for (const [name, schema] of Object.entries(document.components.schemas))
      assert.doesNotThrow(() => validate(schema), name);
    const references = [...JSON.stringify(document).matchAll(/"\$ref":"#([^"]+)"/g)].map(([, path = '']) => path);
    assert.ok(references.length > 100);
    for (const path of new Set(references)) {
      const target = path
        .split('/')
        .slice(1)
        .reduce<unknown>((node, part) => (node as Json | undefined)?.[part], document);
      assert.notEqual(target, undefined, `#${path}`);
    }
  });

  it('has one operation an id, each with its path parameters', () => {
    const ids = operations.map(({ operation }) => operation.operationId);
    assert.equal(new Set(ids).size, ids.length);
    for (const { path, operation } of operations) {
      const named = [...path.matchAll(/\{(\w+)\}/g)].map(([, name]) => name);
      const described = operation.parameters.filter((one) => one.in === 'path').map(({ name }) => name);
      assert.deepEqual(described, named, path);
    }
  });

  it('gives examples that fit their schemas', () => {
    let seen = 0;
    const check = (where: string, { schema, example }: Media): void => {
      if (example === undefined || schema === undefined) return;
      seen++;
      const fits = validate(schema);
      assert.ok(fits(example), `${where}: ${ajv.errorsText(fits.errors)}`);
    };
    for (const { path, method, operation } of operations) {
      for (const media of Object.values(operation.requestBody?.content ?? {})) check(`${method} ${path}`, media);
      for (const [status, response] of Object.entries(operation.responses))
        for (const media of Object.values(response.content ?? {})) check(`${method} ${path} ${status}`, media);
    }
    for (const [name, { post }] of Object.entries(document.webhooks))
      for (const media of Object.values(post.requestBody.content)) check(`webhook ${name}`, media);
    assert.ok(seen > 20, `${seen} examples`);
    for (const [name, example] of Object.entries(EXAMPLES)) {
      const schema = document.components.schemas[name];
      assert.ok(schema !== undefined, `there is no schema ${name}`);
      check(name, { schema, example });
    }
  });

  it('has an example of every JSON request', () => {
    const without = operations.flatMap(({ path, method, operation }) => {
      const media = operation.requestBody?.content['application/json'];
      return media !== undefined && media.example === undefined ? [`${method} ${path}`] : [];
    });
    assert.deepEqual(without, []);
  });

  it('lists the codes of each operation by status, and every public code somewhere', () => {
    const listed = new Set<ErrorCode>();
    for (const { path, method, operation } of operations) {
      const codes = operation['x-error-codes'];
      for (const code of codes) {
        listed.add(code);
        const response = operation.responses[String(ERRORS[code].status)];
        assert.ok(response?.description.split(', ').includes(code), `${method} ${path}: ${code}`);
      }
      assert.ok(codes.includes('server_error'));
      const access = accessOf(path);
      assert.equal(operation.security !== undefined, access === 'open', `${method} ${path}: ${access}`);
      assert.equal(codes.includes('invalid_api_key'), access !== 'open', `${method} ${path}`);
      assert.equal(operation['x-required-scopes'] !== undefined, access !== 'open', `${method} ${path}`);
    }
    const missing = (Object.keys(ERRORS) as ErrorCode[]).filter((code) => !listed.has(code) && !NOT_PUBLIC.has(code));
    assert.deepEqual(missing, []);
    for (const code of NOT_PUBLIC) assert.ok(!listed.has(code), `${code} is not public, yet listed`);
  });

  it('describes what a stream consists of', () => {
    for (const { id, path, method, stream } of OPERATIONS) {
      if (stream === undefined) continue;
      const answer = document.paths[path]?.[method]?.responses['200'];
      assert.match(answer?.description ?? '', /server-sent events/, id);
      assert.ok(answer?.content?.['text/event-stream']?.schema !== undefined, id);
    }
  });
});
