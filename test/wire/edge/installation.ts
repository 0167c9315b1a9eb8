/** Starts the real Worker (workerd through the product's own start code) and, where asked, the real backend with a tiny random model. */
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import OpenAI from 'openai';
import { BackendProcess } from '../../../deploy/backend.ts';
import { type RunningEdge, startEdge } from '../../../deploy/edge.ts';
import { signatureHeaders } from '../../../shared/wire/signature.ts';

export const API_KEY = 'mk_test_key_of_the_wire_tests';
export const SECRET = 'a secret between edge and backends';
export const MODEL = 'mantis-nano';
/** A start takes two seconds; on a machine with thirty times the work of its cores, a minute. */
const READY_TIMEOUT_MS = 150_000;

export type Installation = {
  url: string;
  dataDir: string;
  openai: OpenAI;
  edge: RunningEdge;
  backend: BackendProcess | null;
  /** An authenticated call; the body is JSON unless it is a string. */
  call(
    method: string,
    path: string,
    body?: unknown,
    headers?: Record<string, string>,
  ): Promise<{ status: number; headers: Headers; body: unknown }>;
  /** A call as a backend makes it. */
  signed(method: string, path: string, body?: unknown): Promise<{ status: number; body: unknown }>;
  close(): Promise<void>;
};

/**
 * Each call has a connection of its own: the door closes one that was idle for some seconds, on a busy machine in the very moment in which a test that was
 * held up uses it again.
 */
const OWN_CONNECTION = { connection: 'close' };

/** @param options.models id → folder of the models that the backend serves; default one tiny random nano, with `backend: true` */
export async function startInstallation(
  options: {
    backend?: boolean;
    models?: Readonly<Record<string, string>>;
    egressAllow?: string;
    vars?: Readonly<Record<string, string>>;
    testSeams?: boolean;
  } = {},
): Promise<Installation> {
  const dataDir = await mkdtemp(join(tmpdir(), 'mantis-wire-'));
  const edge = await startEdge({
    port: 0,
    dataDir,
    backendSecret: SECRET,
    apiKey: API_KEY,
    egressAllow: options.egressAllow ?? '',
    vars: options.vars ?? {},
    testSeams: options.testSeams === true,
  });
  let backend: BackendProcess | null = null;
  if (options.backend === true || options.models !== undefined) {
    const models = options.models ?? { [MODEL]: await randomNano(dataDir) };
    const named = Object.entries(models).map(([id, dir]) => `${id}=${dir}`);
    // Answers are held against each other: what a machine would choose by measuring, under whatever load, may round them.
    const exact = { MANTIS_PRECISION: 'f32', MANTIS_KV: 'f32' };
    const env = { MANTIS_MODELS: named.join(','), MANTIS_LOG_LEVEL: 'warn', ...exact };
    backend = new BackendProcess({ edgeUrl: edge.url, secret: SECRET, dataDir, env });
    const ready = until(
      async () => (await fetch(`${edge.url}/health/ready`, { headers: OWN_CONNECTION })).ok,
      READY_TIMEOUT_MS,
      'the backend is ready',
    );
    // What was started would keep the file running until its time is up.
    await ready.catch(async (error: unknown) => {
      await backend?.stop(15_000);
      await edge.dispose();
      throw error;
    });
  }
  const openai = new OpenAI({
    apiKey: API_KEY,
    baseURL: `${edge.url}/v1`,
    maxRetries: 0,
    defaultHeaders: OWN_CONNECTION,
  });
  return {
    url: edge.url,
    dataDir,
    openai,
    edge,
    backend,
    async call(method, path, body, headers = {}) {
      const response = await fetch(edge.url + path, {
        method,
        headers: {
          authorization: `Bearer ${API_KEY}`,
          ...OWN_CONNECTION,
          ...(body === undefined ? {} : { 'content-type': 'application/json' }),
          ...headers,
        },
        ...(body === undefined ? {} : { body: typeof body === 'string' ? body : JSON.stringify(body) }),
      });
      return { status: response.status, headers: response.headers, body: parse(await response.text()) };
    },
    async signed(method, path, body) {
      const text = body === undefined ? null : JSON.stringify(body);
      const headers = await signatureHeaders({
        secret: SECRET,
        method,
        target: path,
        body: text,
        nowS: Date.now() / 1000,
      });
      const response = await fetch(edge.url + path, {
        method,
        headers: { ...headers, ...OWN_CONNECTION, 'content-type': 'application/json' },
        body: text,
      });
      return { status: response.status, body: parse(await response.text()) };
    },
    async close() {
      await backend?.stop(15_000);
      await edge.dispose();
      await rm(dataDir, { recursive: true, force: true });
    },
  };
}

async function randomNano(dataDir: string): Promise<string> {
  // Pulls in the model code, which the tests of the door alone do without.
  const { writeRandomNano } = await import('../../fixtures/random-nano.ts');
  const dir = join(dataDir, 'random-nano');
  await writeRandomNano(dir);
  return dir;
}

function parse(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return text;
  }
}

/** Polls until true. */
export async function until(check: () => boolean | Promise<boolean>, timeoutMs: number, what: string): Promise<void> {
  const end = Date.now() + timeoutMs;
  while (!(await check())) {
    if (Date.now() > end) throw new Error(`waited ${timeoutMs} ms in vain until ${what}`);
    await sleep(50);
  }
}
