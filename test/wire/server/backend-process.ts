import { type ChildProcess, spawn } from 'node:child_process';
import { createHash } from 'node:crypto';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { backendArguments } from '../../../deploy/bundle-backend.ts';
import type { GenerateEvent, GenerateRequest } from '../../../shared/contract/backend.ts';
import { encodeFrame, FRAME_TYPE } from '../../../shared/wire/frame.ts';
import { signatureHeaders } from '../../../shared/wire/signature.ts';
import { decodeSse } from '../../../shared/wire/sse.ts';
import { writeRandomNano } from '../../fixtures/random-nano.ts';

const MAIN = fileURLToPath(new URL('../../../gpu-backend/main.ts', import.meta.url));
export const SECRET = 'a secret for tests, long enough';

/** A real backend process on a free port, with a random nano model, and signed calls to it. */
export class TestBackend {
  private constructor(
    readonly child: ChildProcess,
    readonly url: string,
    readonly dir: string,
  ) {}

  static async start(environment: Readonly<Record<string, string>> = {}): Promise<TestBackend> {
    const dir = await mkdtemp(join(tmpdir(), 'mantis-backend-'));
    await writeRandomNano(join(dir, 'nano'));
    // As the product starts it; places where things can be made to fail are in the sources only.
    const fromSources = environment.MANTIS_FAULT_POINTS !== undefined;
    const args = fromSources ? ['--import', import.meta.resolve('tsx'), MAIN] : await backendArguments();
    const child = spawn(process.execPath, args, {
      stdio: ['ignore', 'inherit', 'inherit', 'ipc'],
      env: {
        ...process.env,
        MANTIS_BACKEND_SECRET: SECRET,
        MANTIS_MODELS: `nano=${join(dir, 'nano')}`,
        MANTIS_DATA_DIR: join(dir, 'data'),
        MANTIS_BACKEND_PORT: '0',
        MANTIS_LOG_LEVEL: 'warn',
        // Answers are compared word by word: rows alone and in batches, in one process and the next.
        MANTIS_PRECISION: 'f32',
        MANTIS_KV: 'f32',
        ...environment,
      },
    });
    const url = await new Promise<string>((resolve, reject) => {
      child.once('message', (message: { url: string }) => resolve(message.url));
      child.once('exit', (code, signal) => reject(new Error(`the backend ended at start: ${signal ?? code}`)));
    });
    return new TestBackend(child, url, dir);
  }

  /** Its id, where an edge knows it: it takes calls that are for it only. */
  audience = '';

  /** Exit code, or the signal's name. */
  get exited(): Promise<number | string> {
    const { exitCode, signalCode } = this.child;
    if (exitCode !== null || signalCode !== null) return Promise.resolve(signalCode ?? exitCode ?? -1);
    return new Promise((resolve) => this.child.once('exit', (code, signal) => resolve(signal ?? code ?? -1)));
  }

  async stop(): Promise<void> {
    const exited = this.exited;
    this.child.kill('SIGKILL');
    await exited;
    await rm(this.dir, { recursive: true, force: true });
  }

  async post(path: string, header: object, images: readonly Uint8Array[], signal?: AbortSignal): Promise<Response> {
    const blobs = images.map((bytes) => ({
      digest: `sha256:${createHash('sha256').update(bytes).digest('hex')}`,
      bytes: bytes.byteLength,
      mime: 'image/png',
    }));
    const body = encodeFrame({ ...header, blobs }, images);
    const signed = await signatureHeaders({
      secret: SECRET,
      audience: this.audience,
      method: 'POST',
      target: path,
      body,
      nowS: Date.now() / 1000,
    });
    return await fetch(this.url + path, {
      method: 'POST',
      body,
      headers: { ...signed, 'content-type': FRAME_TYPE },
      ...(signal === undefined ? {} : { signal }),
    });
  }

  /** Sum over labels of one metric. */
  async metric(name: string): Promise<number> {
    const text = await (await fetch(`${this.url}/metrics`)).text();
    const values = text.split('\n').filter((line) => line.startsWith(`${name} `) || line.startsWith(`${name}{`));
    return values.reduce((sum, line) => sum + Number(line.split(' ').at(-1)), 0);
  }
}

export function makeRequest(images: number, changes: Partial<GenerateRequest['sampling']> = {}): GenerateRequest {
  return {
    requestId: `req_${Math.random()}`,
    model: 'nano',
    messages: [
      {
        role: 'user',
        parts: [
          ...Array.from({ length: images }, (_, blob) => ({ type: 'image' as const, blob })),
          { type: 'text', text: 'How many blue squares?' },
        ],
      },
    ],
    sampling: { maxTokens: 12, temperature: 0, topP: 1, stop: [], ...changes },
    deadlineMs: 60_000,
  };
}

/** @param signal of the request: reading ends with it */
export async function* eventsOf(response: Response, signal?: AbortSignal): AsyncGenerator<GenerateEvent> {
  if (!response.ok) throw new Error(`${response.status}: ${await response.text()}`);
  for await (const { data } of decodeSse(response.body!, signal)) yield JSON.parse(data) as GenerateEvent;
}

export async function textOf(response: Response): Promise<string> {
  let text = '';
  for await (const event of eventsOf(response)) if (event.type === 'delta') text += event.text;
  return text;
}
