/** The contract, the route table and the documents that derive from them say the same. */
import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { ERRORS } from '../../shared/contract/errors.ts';
import { openApiDocument } from '../../shared/openapi.ts';
import { refuse, repositoryFiles, root } from './sources.ts';

const OPEN_ELSEWHERE = new Set(['get /openapi.json']);

test('the OpenAPI document describes exactly the public routes', () => {
  const app = readFileSync(join(root, 'edge/app.ts'), 'utf8');
  const served = [...app.matchAll(/app\.(get|post|put|delete)\('(\/(?!internal)[^']*)'/g)]
    .map(([, method, path = '']) => `${method} ${path.replace(/:(\w+)(\{[^}]*\})?/g, '{$1}')}`)
    .filter((route) => !OPEN_ELSEWHERE.has(route));
  assert.ok(served.length > 10, 'the route table was found');
  const { paths } = openApiDocument() as { paths: Record<string, object> };
  const described = Object.entries(paths).flatMap(([path, item]) =>
    Object.keys(item)
      .filter((method) => /^(get|post|put|delete)$/.test(method))
      .map((method) => `${method} ${path}`),
  );
  assert.deepEqual(described.filter((route) => !OPEN_ELSEWHERE.has(route)).sort(), served.sort());
});

test('every error code of the table is used, and no other code is thrown', () => {
  const sources = repositoryFiles()
    .filter((path) => /^(edge|gpu-backend|shared)\/.*\.ts$/.test(path) && path !== 'shared/contract/errors.ts')
    .map((path) => readFileSync(join(root, path), 'utf8'))
    .concat(readFileSync(join(root, 'shared/contract/errors.ts'), 'utf8').split('} as const')[1] ?? '')
    .join('\n');
  refuse(
    Object.keys(ERRORS)
      .filter((code) => !sources.includes(`'${code}'`))
      .map((code) => `${code} is used nowhere`),
  );
});
