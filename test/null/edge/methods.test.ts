import assert from 'node:assert/strict';
import { test } from 'node:test';
import { Hono } from 'hono/tiny';
import type { AppEnv } from '../../../edge/env.ts';
import { methodsFor, notFound } from '../../../edge/middleware/errors.ts';

// A table of the shapes that edge/app.ts has; the app itself needs the Worker runtime.
const app = new Hono<AppEnv>();
const ok = (): Response => new Response('ok');
app.use(async (_c, next) => next());
app.notFound((c) => notFound(app.routes)(c));
app.get('/health', ok);
app.post('/v1/chat/completions', ok).get('/v1/models/:id{.+}', ok);
app.post('/v1/files', ok).get('/v1/files', ok).get('/v1/files/:id', ok).delete('/v1/files/:id', ok);
app.get('/v1/files/:id/content', ok);
const { routes } = app;

test('a known path knows its methods', () => {
  const rows: [path: string, methods: string[]][] = [
    ['/v1/chat/completions', ['POST']],
    ['/v1/files', ['GET', 'POST']],
    ['/v1/files/file-1', ['DELETE', 'GET']],
    ['/v1/files/file-1/content', ['GET']],
    ['/v1/models/ft:mantis-nano:local:x:ftjob-1', ['GET']],
    ['/v1/nothing', []],
    ['/v1/files/a/b/c', []],
  ];
  for (const [path, methods] of rows) assert.deepEqual(methodsFor(path, routes), methods, path);
});

test('another method is answered 405 with what is allowed', async () => {
  const response = await app.request('/health', { method: 'DELETE' });
  assert.equal(response.status, 405);
  assert.equal(response.headers.get('allow'), 'GET');
  const body = (await response.json()) as { error: { code: string; message: string } };
  assert.equal(body.error.code, 'method_not_allowed');
  assert.match(body.error.message, /DELETE \/health: expected GET/);
});
