/**
 * The edge's inner wire, one job long: it shows what a backend sends and in which order, and can take a lease away. It checks
 * every signature. What the real edge makes of these calls is tested in `test/wire/e2e`.
 */
import { createHash } from 'node:crypto';
import { createServer, type IncomingMessage, type Server } from 'node:http';
import type { AddressInfo } from 'node:net';
import {
  type BackendReport,
  type CheckpointManifest,
  CheckpointRequest,
  FinishRequest,
  type JobSpec,
  type TrainerEvent,
  TrainerEventsRequest,
} from '../../../shared/contract/backend.ts';
import { verifyHeaders } from '../../../shared/wire/signature.ts';
import { SECRET } from './backend-process.ts';

export class FakeEdge {
  readonly #server: Server;
  readonly #training: Buffer;
  readonly #job: JobSpec;
  readonly #blobs = new Map<string, Buffer>();
  url = '';
  /** Reports of backends, newest last. */
  readonly reports: BackendReport[] = [];
  readonly events = new Map<string, TrainerEvent>();
  readonly checkpoints: CheckpointManifest[] = [];
  readonly finishes: FinishRequest[] = [];
  /** Token of the newest grant; 0 = never claimed. */
  token = 0;
  /** Whether the job may be claimed. */
  isQueued = false;
  /** Answers every write with 409 as if somebody else had the lease. */
  isLeaseTaken = false;
  cancel = false;
  /** Calls that were not signed as they must be. */
  readonly unsigned: string[] = [];

  constructor(training: string, job: Omit<JobSpec, 'trainingFile' | 'resume' | 'trainingExamples'>) {
    this.#training = Buffer.from(training);
    const sha256 = createHash('sha256').update(this.#training).digest('hex');
    this.#job = {
      ...job,
      trainingFile: { id: 'file-1', bytes: this.#training.byteLength, sha256 },
      trainingExamples: training.trim().split('\n').length,
      resume: null,
    };
    this.#server = createServer((request, response) => {
      void this.#answer(request).then(({ status, body }) => {
        response.writeHead(status, { 'content-type': 'application/json' });
        response.end(body === null ? undefined : Buffer.isBuffer(body) ? body : JSON.stringify(body));
      });
    });
  }

  async start(): Promise<void> {
    await new Promise<void>((resolve) => this.#server.listen(0, '127.0.0.1', resolve));
    this.url = `http://127.0.0.1:${(this.#server.address() as AddressInfo).port}`;
  }

  async stop(): Promise<void> {
    this.#server.closeAllConnections();
    await new Promise((resolve) => this.#server.close(resolve));
  }

  async #answer(request: IncomingMessage): Promise<{ status: number; body: object | Buffer | null }> {
    const chunks: Buffer[] = [];
    for await (const chunk of request) chunks.push(chunk as Buffer);
    const body = Buffer.concat(chunks);
    const path = request.url ?? '';
    const verdict = await verifyHeaders({
      secret: SECRET,
      method: request.method ?? '',
      target: path,
      header: (name) => request.headers[name] as string | undefined,
      nowS: Date.now() / 1000,
      toleranceS: 300,
    });
    if (!verdict.ok) this.unsigned.push(path);
    const json = (): unknown => JSON.parse(body.toString());
    const stale = { status: 409, body: { error: { message: 'taken', code: 'stale_lease' } } };
    if (path.startsWith('/internal/backends/')) {
      this.reports.push(json() as BackendReport);
      return { status: 200, body: { heartbeatEveryMs: 500, goneAfterMs: 5_000 } };
    }
    if (path === '/internal/jobs/claim') {
      if (!this.isQueued) return { status: 204, body: null };
      this.isQueued = false;
      this.token++;
      const checkpoint = this.checkpoints.at(-1);
      const resume = checkpoint === undefined ? null : { step: checkpoint.step, checkpoint };
      return {
        status: 200,
        body: { job: { ...this.#job, resume }, lease: { token: this.token, expiresAt: Date.now() + 15_000 } },
      };
    }
    if (path === '/internal/files/file-1/content') return { status: 200, body: this.#training };
    const blob = /^\/internal\/jobs\/job-1\/checkpoints\/(\d+)\/([\w.-]+)$/.exec(path);
    if (blob !== null) {
      const key = `${blob[1]}/${blob[2]}`;
      if (request.method === 'GET') return { status: 200, body: this.#blobs.get(key) ?? Buffer.alloc(0) };
      if (this.isLeaseTaken || request.headers['x-mantis-lease'] !== String(this.token)) return stale;
      this.#blobs.set(key, body);
      return { status: 200, body: {} };
    }
    if (this.isLeaseTaken || (json() as { token: number }).token !== this.token) return stale;
    switch (path) {
      case '/internal/jobs/job-1/heartbeat':
        return { status: 200, body: { cancel: this.cancel, expiresAt: Date.now() + 15_000 } };
      case '/internal/jobs/job-1/events':
        for (const event of TrainerEventsRequest.parse(json()).events) this.events.set(event.key, event);
        return { status: 200, body: {} };
      case '/internal/jobs/job-1/checkpoints': {
        const { step, metrics, files } = CheckpointRequest.parse(json());
        this.checkpoints.push({ step, metrics, files });
        return { status: 200, body: {} };
      }
      case '/internal/jobs/job-1/finish':
        this.finishes.push(FinishRequest.parse(json()));
        return { status: 200, body: {} };
      default:
        return { status: 404, body: { error: { message: path, code: 'not_found' } } };
    }
  }
}
