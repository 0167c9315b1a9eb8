/**
 * Every route of the router × every kind of credential, as published; and guesses at what no router lists. The routes are those of the running code, so a
 * route that somebody adds is tested from then on.
 */
import assert from 'node:assert/strict';
import { Agent, request as httpRequest, type IncomingHttpHeaders } from 'node:http';
import { register } from 'node:module';
import { connect } from 'node:net';
import { after, before, describe, it } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import type { ErrorEnvelope } from '../../../shared/contract/errors.ts';
import { type Access, type ApiKey, accessOf, Scope, scopesFor, type Tenant } from '../../../shared/contract/keys.ts';
import { openApiDocument } from '../../../shared/openapi.ts';
import { newApiKey } from '../../../shared/wire/key.ts';
import { signatureHeaders } from '../../../shared/wire/signature.ts';
import { API_KEY, type Installation, SECRET, startInstallation } from './installation.ts';

// The router is read here, in Node, where the runtime's own module has no name; nothing of it is called.
const RUNTIME = `export class DurableObject {} export class WorkerEntrypoint {} export class WorkflowEntrypoint {} export const env = {};`;
register(
  `data:text/javascript,${encodeURIComponent(
    `export async function resolve(specifier, context, next) {
       if (specifier.startsWith('cloudflare:')) return { url: 'data:text/javascript,${encodeURIComponent(RUNTIME)}', shortCircuit: true };
       return next(specifier, context);
     }`,
  )}`,
);

type Route = { method: string; path: string; access: Access };
type Answer = { status: number; headers: IncomingHttpHeaders; text: string };

/** Requests under way at once. */
const LANES = 8;
const isLong = process.env.MANTIS_LONG_TESTS === '1';
const METHODS = ['GET', 'HEAD', 'POST', 'PUT', 'PATCH', 'DELETE'];
const CLOSED = new Set([401, 403, 404, 405]);

async function inLanes(tasks: (() => Promise<void>)[]): Promise<void> {
  const rest = tasks[Symbol.iterator]();
  await Promise.all(
    Array.from({ length: LANES }, async () => {
      for (const task of rest) await task();
    }),
  );
}

const codeOf = ({ text }: Answer) => (text === '' ? null : (JSON.parse(text) as ErrorEnvelope).error.code);

/** Whether an answer is the one that the access table promises. */
function isAsPublished(
  answer: Answer,
  asked: { access: Access; method: string; isRoute: boolean; signs: boolean; granted: boolean; isKey?: boolean },
): boolean {
  const { status } = answer;
  const { access, method, isRoute, signs, granted, isKey = false } = asked;
  const refusedWith = (expected: number, code: string) =>
    status === expected && (method === 'HEAD' || codeOf(answer) === code);
  if (access === 'open') return isRoute ? status !== 401 && status !== 403 : status === 405;
  if (access === 'signature') return signs ? status !== 401 && status < 500 : refusedWith(401, 'invalid_signature');
  if (!isKey) return refusedWith(401, 'invalid_api_key');
  if (!granted) return refusedWith(403, 'insufficient_scope');
  return status !== 401 && status !== 403 && (status < 500 || codeOf(answer) === 'no_backend');
}

describe('the door', () => {
  let door: Installation;
  let routes: Route[];
  let port: number;
  const agent = new Agent({ keepAlive: true, maxSockets: LANES });

  before(async () => {
    const { createApp } = await import('../../../edge/app.ts');
    routes = createApp()
      .routes.filter(({ method }) => method !== 'ALL')
      .map(({ method, path }) => {
        const access = accessOf(path);
        assert.ok(access !== null, `${method} ${path}: no row of the access table names it, so nobody can reach it`);
        return { method, path, access };
      });
    door = await startInstallation();
    port = Number(new URL(door.url).port);
  });
  after(async () => {
    agent.destroy();
    await door.close();
  });

  /** As it stands: neither client nor URL parser tidies the path up. */
  const raw = (method: string, path: string, headers: Record<string, string> = {}, body?: string): Promise<Answer> =>
    new Promise((resolve, reject) => {
      const sent = httpRequest({ host: '127.0.0.1', port, method, path, headers, agent }, (response) => {
        const chunks: Buffer[] = [];
        response.on('data', (chunk: Buffer) => chunks.push(chunk));
        response.on('end', () =>
          resolve({
            status: response.statusCode ?? 0,
            headers: response.headers,
            text: Buffer.concat(chunks).toString(),
          }),
        );
      });
      sent.on('error', reject);
      sent.end(body);
    });
  const bearer = (key: string) => ({ authorization: `Bearer ${key}` });
  const admin = async <T>(path: string, body: object): Promise<T> => {
    const answer = await door.call('POST', `/v1/admin${path}`, body);
    assert.equal(answer.status, 200, JSON.stringify(answer.body));
    return answer.body as T;
  };
  const newKey = (body: object) => admin<ApiKey & { secret: string }>('/keys', { name: 'matrix', ...body });
  /** A path with values in the places of its parameters that belong to nothing. */
  const filled = (path: string) => path.replace(/:id(\{[^}]*\})?/g, 'none-000000').replace(/:\w+(\{[^}]*\})?/g, '1');

  it('publishes for each operation what the router asks for', () => {
    const { paths } = openApiDocument() as {
      paths: Record<string, Record<string, { security?: unknown[]; 'x-required-scopes'?: string[] }>>;
    };
    for (const { method, path, access } of routes.filter(({ access }) => access !== 'signature')) {
      const name = path.replace(/:(\w+)(\{[^}]*\})?/g, '{$1}');
      const operation = paths[name]?.[method.toLowerCase()];
      assert.ok(operation !== undefined, `${method} ${name} is not published`);
      if (access === 'open') assert.deepEqual(operation.security, [], `${method} ${name}`);
      else {
        assert.equal(operation.security, undefined, `${method} ${name}`);
        assert.deepEqual(operation['x-required-scopes'], scopesFor(access as Scope, method) ?? [], `${method} ${name}`);
      }
    }
  });

  it('answers every route and method as published, for every kind of credential', async () => {
    const tenant = await admin<Tenant>('/tenants', { name: 'other' });
    const disabled = await admin<Tenant>('/tenants', { name: 'disabled' });
    const expiresAtS = Math.floor(Date.now() / 1000) + 2;
    const [revoked, expired, rotated, ofDisabled] = await Promise.all([
      newKey({}),
      newKey({ expires_at: expiresAtS }),
      newKey({}),
      newKey({ tenant: disabled.id }),
    ]);
    await admin(`/keys/${revoked.id}/revoke`, {}).catch(() => {});
    await admin(`/keys/${rotated.id}/rotate`, { overlap_s: 0 });
    await admin(`/tenants/${disabled.id}`, { disabled: true });
    const scoped = new Map<string, string>();
    for (const scope of Scope.options) scoped.set(scope, (await newKey({ scopes: [scope] })).secret);
    const foreign = (await newKey({ tenant: tenant.id })).secret;
    await sleep(Math.max(0, expiresAtS * 1000 + 50 - Date.now()));

    const good = newApiKey();
    const refused: [name: string, headers: Record<string, string>][] = [
      ['none', {}],
      ['malformed', { authorization: 'Bearer' }],
      ['another scheme', { authorization: `Basic ${Buffer.from(`user:${API_KEY}`).toString('base64')}` }],
      ['wrong checksum', bearer(good.slice(0, -1) + (good.endsWith('0') ? '1' : '0'))],
      ['unknown', bearer(good)],
      ['revoked', bearer(revoked.secret)],
      ['expired', bearer(expired.secret)],
      ['rotated without overlap', bearer(rotated.secret)],
      ['of a disabled tenant', bearer(ofDisabled.secret)],
      [
        'the key elsewhere',
        { 'x-api-key': API_KEY, cookie: `key=${API_KEY}`, 'proxy-authorization': `Bearer ${API_KEY}` },
      ],
      ["a backend's signature", {}],
    ];
    let cells = 0;
    const wrong: string[] = [];
    const check = (cell: string, isRight: boolean, answer: Answer) => {
      cells++;
      if (!isRight) wrong.push(`${cell}: ${answer.status} ${answer.text.slice(0, 160)}`);
    };
    const tasks: (() => Promise<void>)[] = [];
    const paths = [...new Set(routes.map(({ path }) => path))];
    for (const path of paths) {
      const access = accessOf(path) as Access;
      const target = filled(path);
      const known = new Set(routes.filter((route) => route.path === path).map(({ method }) => method));
      for (const method of METHODS) {
        const isRoute = known.has(method) || (method === 'HEAD' && known.has('GET'));
        const at = `${method} ${target}`;
        // Methods that a path does not have are refused by the same code; the whole matrix is for long runs.
        const some = isRoute || isLong;
        for (const [name, headers] of some ? refused : refused.slice(0, 1)) {
          const signs = name === "a backend's signature";
          tasks.push(async () => {
            const signature = signs
              ? await signatureHeaders({ secret: SECRET, method, target, body: null, nowS: Date.now() / 1000 })
              : {};
            const answer = await raw(method, target, { ...headers, ...signature });
            check(
              `${at} with ${name}`,
              isAsPublished(answer, { access, method, isRoute, signs, granted: false }),
              answer,
            );
          });
        }
        if (access === 'open') continue;
        const wanted = access === 'signature' ? [] : scopesFor(access, method);
        const keys: [name: string, secret: string, granted: boolean][] = [...scoped].map(([scope, secret]) => [
          `the scope ${scope}`,
          secret,
          wanted === null || wanted.includes(scope as Scope),
        ]);
        if (access === 'admin') keys.push(['all scopes of another tenant', foreign, false]);
        for (const [name, secret, granted] of some ? keys : keys.slice(0, 1)) {
          tasks.push(async () => {
            const answer = await raw(method, target, bearer(secret));
            const isRight = isAsPublished(answer, { access, method, isRoute, signs: false, granted, isKey: true });
            check(`${at} with ${name}`, isRight, answer);
          });
        }
      }
    }
    await inLanes(tasks);
    console.log(JSON.stringify({ routes: routes.length, cells, wrong: wrong.length }));
    assert.deepEqual(wrong, []);
    assert.ok(cells > 1_000);
  });

  it('is closed at every other spelling of its paths, and to headers that name another route', async () => {
    const segments = [
      '',
      '.env',
      '.git/config',
      'admin',
      'debug',
      'debug/pprof',
      'api',
      'v0/files',
      'v2/files',
      'v1',
      'v1/',
      'V1/files',
      'v1/FILES',
      'v1/file',
      'v1/files/',
      'v1/files.',
      'v1/files..',
      'v1/files;x=1',
      'v1/files%20',
      'v1/files%00',
      'v1/files/%2e%2e/limits',
      '/v1/files',
      '//v1/files',
      '/v1//files',
      'v1//files',
      'v1///files',
      'v1/./files',
      'v1/../v1/files',
      'v1%2ffiles',
      'v1/%66iles',
      '%76%31/files',
      'v1%252ffiles',
      'v1\\files',
      'v1/files%2f',
      'v1/files%2f..%2f..%2finternal',
      'health/../v1/files',
      'health/%2e%2e/v1/files',
      'health/..;/v1/files',
      'health;/../v1/files',
      'health/v1/files',
      'health%2f..%2fv1%2ffiles',
      'openapi.json/../v1/files',
      'openapi.json%2f..%2fv1/files',
      'openapi.json/v1/files',
      'health/live/..%2f..%2fv1/files',
      'v1/admin',
      'v1/admin/',
      'v1/Admin/keys',
      'v1/%61dmin/keys',
      'v1/admin%2fkeys',
      'v1/admin//keys',
      'v1/admin/keys/',
      'v1/files/../admin/keys',
      'v1/files/..%2fadmin%2fkeys',
      'v1/admin/keys/%2e%2e/audit',
      'v1/admin/keys.json',
      'v1/admin/users',
      'v1/admin/config',
      'v1/admin/tenants/default',
      'v1/keys',
      'v1/tenants',
      'v1/audit',
      'v1/organization/admin_api_keys',
      'internal',
      'internal/',
      'Internal/jobs/claim',
      'internal//jobs/claim',
      '/internal/jobs/claim',
      'internal%2fjobs%2fclaim',
      '%69nternal/jobs/claim',
      'internal/jobs/claim/',
      'internal/jobs/../backends/register',
      'v1/../internal/jobs/claim',
      'health/../internal/jobs/claim',
      'internal/health',
      'internal/backends',
      'internal/files/x/content',
      'internal/models/x',
      'internal/debug',
      'metrics',
      'metrics/',
      'Metrics',
      'metrics.',
      '/metrics',
      'metrics%20',
      'metrics/..',
      'v1/metrics',
      'actuator',
      'actuator/env',
      'server-status',
      'cdn-cgi/trace',
      'cdn-cgi/mf/scheduled',
      'cdn-cgi/handler/scheduled',
      '__scheduled',
      '__debug',
      '_internal',
      'v1/chat',
      'v1/chat/',
      'v1/completions',
      'v1/embeddings',
      'v1/responses',
      'v1/tokenize',
      'v1/detokenize',
      'v1/load_lora_adapter',
      'v1/unload_lora_adapter',
      'tokenize',
      'detokenize',
      'invocations',
      'pause',
      'resume',
      'sleep',
      'wake_up',
      'update_weights',
      'reset_prefix_cache',
      'collective_rpc',
      'ping',
      'version',
      'load',
      'v1/generate',
      'v1/count',
      'v1/wake',
      'v1/fine_tuning',
      'v1/fine_tuning/',
      'v1/fine_tuning/jobs/',
      'v1/fine_tuning/jobs/x/lease',
      'v1/webhook_endpoints/',
      'v1/webhooks',
      'v1/storage',
      'favicon.ico',
      'robots.txt',
      'index.html',
      'swagger.json',
      'docs',
      'graphql',
      'login',
      'console/../v1/files',
    ];
    // Each route's own path, spelled in ways that a lenient router would take for it.
    for (const { path } of routes.filter(({ access }) => access !== 'open')) {
      const plain = filled(path).slice(1);
      const [first = '', ...rest] = plain.split('/');
      segments.push(
        `${plain}/`,
        `${plain}.`,
        `/${plain}`,
        plain.toUpperCase(),
        plain.replaceAll('/', '//'),
        plain.replace('/', '%2f'),
        `health/..%2f${plain}`,
        [`%${first.charCodeAt(0).toString(16)}${first.slice(1)}`, ...rest].join('/'),
      );
    }
    const overrides: Record<string, string>[] = [
      { 'x-http-method-override': 'GET' },
      { 'x-original-url': '/health' },
      { 'x-rewrite-url': '/openapi.json' },
      { 'x-forwarded-prefix': '/health' },
      { host: 'localhost' },
      {
        'x-forwarded-host': 'internal',
        'x-forwarded-for': '127.0.0.1',
        'x-real-ip': '127.0.0.1',
        'cf-connecting-ip': '127.0.0.1',
      },
      { 'mf-original-url': 'http://x/health', 'mf-route-override': 'core:entry' },
      { 'x-middleware-subrequest': 'middleware', 'x-mantis-tenant': '0'.repeat(32), 'x-mantis-key': API_KEY },
    ];
    const open = (path: string) => {
      const access = accessOf(path);
      return access === 'open';
    };
    const wrong: string[] = [];
    let tried = 0;
    const tryOut = async (method: string, path: string, headers: Record<string, string>) => {
      const answer = await raw(method, path, headers);
      tried++;
      // workerd tidies some paths up before anybody sees them; what then names an open route is one.
      const seen = new URL(path.startsWith('//') ? `http://x/.${path}` : path, 'http://x').pathname;
      if (open(seen) || (answer.status === 400 && answer.text === '')) return;
      if (!CLOSED.has(answer.status))
        wrong.push(`${method} ${path} ${JSON.stringify(headers)}: ${answer.status} ${answer.text.slice(0, 100)}`);
    };
    const methods = isLong ? ['GET', 'POST', 'HEAD', 'DELETE'] : ['GET'];
    await inLanes(segments.flatMap((segment) => methods.map((method) => () => tryOut(method, `/${segment}`, {}))));
    for (const headers of overrides)
      for (const path of ['/v1/files', '/v1/admin/keys', '/internal/jobs/claim', '/metrics', '/v1/nothing'])
        for (const method of ['GET', 'POST', 'DELETE', 'TRACE', 'PROPFIND'])
          await tryOut(method, path, headers).catch(() => {});
    console.log(JSON.stringify({ spellings: segments.length, tried, wrong: wrong.length }));
    assert.deepEqual(wrong, []);
    assert.ok(segments.length >= 200);
  });

  it('takes credentials that no client library can send for what they are', async () => {
    const values = [
      `Bearer ${API_KEY}\0`,
      `Bearer \0${API_KEY}`,
      `Bearer ${API_KEY}\r\n X`,
      'Bearer \xff\xfe\xfd',
      `Bearer ${'é'.repeat(50)}`,
      `Bearer ${'a'.repeat(1_000_000)}`,
      `Bearer\x0b${API_KEY}`,
      `${' '.repeat(10_000)}Bearer mk_x`,
    ];
    for (const value of values) {
      const head = await new Promise<string>((resolve) => {
        const socket = connect(port, '127.0.0.1', () => {
          socket.write(
            Buffer.from(
              `GET /v1/files HTTP/1.1\r\nhost: x\r\nconnection: close\r\nauthorization: ${value}\r\n\r\n`,
              'utf8',
            ),
          );
        });
        let text = '';
        socket.setTimeout(2_000, () => socket.destroy());
        socket.on('data', (chunk) => {
          text += chunk.toString('latin1');
          socket.destroy();
        });
        socket.on('error', () => resolve(text));
        socket.on('close', () => resolve(text));
      });
      assert.match(
        head,
        /^(HTTP\/1\.1 (400|401|413|431) |$)/,
        `${JSON.stringify(value.slice(0, 60))}: ${head.slice(0, 200)}`,
      );
    }
    assert.equal((await raw('GET', '/v1/files', bearer(API_KEY))).status, 200, 'it still works');
  });
});
