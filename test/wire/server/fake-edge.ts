/**
 * The edge's inner wire for a few jobs: it shows what a backend sends and in which order, can take a lease away and damage what it stored. It checks every
 * signature. What the real edge makes of these calls is tested in `test/wire/e2e`.
 */
import { createHash } from 'node:crypto';
import { createServer, type IncomingMessage, type Server } from 'node:http';
import type { AddressInfo } from 'node:net';
import {
  type BackendReport,
  type CheckpointManifest,
  CheckpointRequest,
  ClaimRequest,
  EvaluationRequest,
  FinishRequest,
  type JobEvaluation,
  type JobSpec,
  type TrainerEvent,
  TrainerEventsRequest,
} from '../../../shared/contract/backend.ts';
import type { Stage } from '../../../shared/contract/training.ts';
import { verifyHeaders } from '../../../shared/wire/signature.ts';
import { SECRET } from './backend-process.ts';

const LEASE_MS = 15_000;
/** Tries without a new checkpoint; the edge's own limit is higher. */
export const MAX_TRIES = 3;

/** A job at the edge, as its tests see it. */
export class FakeJob {
  readonly blobs = new Map<string, Buffer>();
  readonly events = new Map<string, TrainerEvent>();
  readonly checkpoints: CheckpointManifest[] = [];
  /** Steps whose metrics had not come when a checkpoint behind them did: a job that goes on from it would never tell them. */
  readonly untold: number[] = [];
  readonly finishes: FinishRequest[] = [];
  /** By step of the checkpoint; null: it is still to be made. */
  readonly evaluations = new Map<number, EvaluationRequest['metrics']>();
  /** Token of the newest grant; 0 = never claimed. */
  token = 0;
  /** Whether it may be claimed. */
  isQueued = true;
  /** Answers every write with 409 as if somebody else had the lease. */
  isLeaseTaken = false;
  cancel = false;
  pause = false;
  /** Grants since the last new checkpoint; given back after so many, it is queued no more. */
  tries = 0;
  leaseMs = LEASE_MS;
  expiresAt = 0;
  /** Writes that came with a token that was not, or no longer, the newest, or after the lease had run out. All were refused. */
  staleWrites = 0;

  constructor(
    readonly spec: Omit<JobSpec, 'resume' | 'earlier' | 'tries'>,
    readonly training: Buffer,
  ) {}

  /** The newest grant has ended, and there will be no other. */
  get isOver(): boolean {
    const last = this.finishes.at(-1);
    return last?.token === this.token && (last.status !== 'released' || !this.isQueued);
  }

  /** Steps of the metrics that came, in order of arrival. */
  get steps(): { step: number; train_loss: number }[] {
    return [...this.events.values()]
      .filter(({ type, key }) => type === 'metrics' && key.startsWith('step-'))
      .map(({ data }) => data as { step: number; train_loss: number });
  }

  /** The name under which a checkpoint is served. */
  modelOf(step: number): string {
    return `ft:nano:org::${this.spec.id}:ckpt-step-${step}`;
  }

  /** What a claim says of the evaluations so far. */
  evaluation(): JobEvaluation | null {
    if (this.spec.evaluation == null) return null;
    const all = [...this.evaluations].sort(([a], [b]) => a - b);
    const done = all.flatMap(([step, found]) => (found === null ? [] : [{ step, accuracy: found.eval_accuracy }]));
    const pending = all.flatMap(([step, found]) => (found === null ? [{ step, model: this.modelOf(step) }] : []));
    return { ...this.spec.evaluation, done, pending };
  }

  /** Messages of a level. */
  messages(level: TrainerEvent['level']): string[] {
    return [...this.events.values()].filter((event) => event.level === level).map(({ message }) => message);
  }

  /** SHA-256 of a file of a checkpoint. */
  sha256(step: number, name: string): string | undefined {
    return this.checkpoints.find((c) => c.step === step)?.files.find((f) => f.name === name)?.sha256;
  }
}

/** One-stage jobs over one chat file, with what tests have no need to say. */
export function fakeJob(
  id: string,
  training: string,
  stage: Partial<Stage> = {},
  spec: Partial<JobSpec> = {},
): FakeJob {
  const bytes = Buffer.from(training);
  const sha256 = createHash('sha256').update(bytes).digest('hex');
  const file = { id: `file-${id}`, bytes: bytes.byteLength, sha256 };
  const data = { file_id: file.id, file, filename: 'lesson.jsonl' };
  return new FakeJob(
    {
      id,
      baseModel: 'nano',
      suffix: null,
      seed: 1,
      training: [{ files: [data], balancing: false }],
      validation: null,
      stages: [{ train: 'lora', n_epochs: 1, batch_size: 2, learning_rate_multiplier: 1, data: 0, ...stage }],
      checkpointEvery: 4,
      checkpointsKept: null,
      maxDurationS: null,
      leftOut: [],
      trainingExamples: [training.trim().split('\n').length],
      adapter: null,
      ...spec,
    } as Omit<JobSpec, 'resume' | 'earlier' | 'tries'>,
    bytes,
  );
}

export class FakeEdge {
  readonly #server: Server;
  url = '';
  readonly jobs: FakeJob[];
  /** Reports of backends, newest last. */
  readonly reports: BackendReport[] = [];
  /** Calls that were not signed as they must be. */
  readonly unsigned: string[] = [];
  readonly claims: ClaimRequest[] = [];

  constructor(...jobs: FakeJob[]) {
    this.jobs = jobs;
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
    const notFound = { status: 404, body: { error: { message: path, code: 'not_found' } } };
    if (path.startsWith('/internal/backends/')) {
      this.reports.push(json() as BackendReport);
      return { status: 200, body: { heartbeatEveryMs: 500, goneAfterMs: 5_000 } };
    }
    if (path === '/internal/tasks/claim') return { status: 204, body: null };
    if (path === '/internal/jobs/claim') return this.#claim(ClaimRequest.parse(json()));
    const file = /^\/internal\/files\/file-([\w-]+)\/content$/.exec(path);
    if (file !== null) return { status: 200, body: this.#job(file[1])?.training ?? Buffer.alloc(0) };
    const model = /^\/internal\/models\/([^/]+)(?:\/files\/([\w.-]+))?$/.exec(path);
    if (model !== null) return this.#model(decodeURIComponent(model[1] ?? ''), model[2]) ?? notFound;
    const at = /^\/internal\/jobs\/([\w-]+)\/(.*)$/.exec(path);
    const job = this.#job(at?.[1]);
    if (at === null || job === undefined) return notFound;
    return this.#onJob(job, at[2] ?? '', request, body, json) ?? notFound;
  }

  /** The manifest of a checkpoint that is served, or one of its files. */
  #model(id: string, name: string | undefined): { status: number; body: object | Buffer } | undefined {
    for (const job of this.jobs)
      for (const { step, files } of job.checkpoints) {
        if (job.modelOf(step) !== id) continue;
        if (name !== undefined) return { status: 200, body: job.blobs.get(`${step}/${name}`) ?? Buffer.alloc(0) };
        const listed = files.map((file) => ({ ...file, url: '' }));
        return { status: 200, body: { id, base: 'nano', kind: 'lora', files: listed } };
      }
    return undefined;
  }

  #job(id: string | undefined): FakeJob | undefined {
    return this.jobs.find(({ spec }) => spec.id === id);
  }

  #claim(claim: ClaimRequest): { status: number; body: object | null } {
    this.claims.push(claim);
    const { sharing } = claim;
    const job = this.jobs.find(
      ({ isQueued, tries, spec }) =>
        isQueued && (sharing === undefined || (tries === 0 && spec.baseModel === sharing.baseModel)),
    );
    if (job === undefined) return { status: 204, body: null };
    job.isQueued = false;
    job.token++;
    job.tries++;
    job.expiresAt = Date.now() + job.leaseMs;
    const [checkpoint, ...earlier] = job.checkpoints.toReversed();
    const resume = checkpoint === undefined ? null : { step: checkpoint.step, checkpoint };
    return {
      status: 200,
      body: {
        job: { ...job.spec, resume, earlier: earlier.slice(0, 3), tries: job.tries, evaluation: job.evaluation() },
        lease: { token: job.token, expiresAt: job.expiresAt },
      },
    };
  }

  #onJob(
    job: FakeJob,
    rest: string,
    request: IncomingMessage,
    body: Buffer,
    json: () => unknown,
  ): { status: number; body: object | Buffer } | undefined {
    const isStale = (token: unknown): boolean => {
      const stale = job.isLeaseTaken || token !== job.token || Date.now() > job.expiresAt;
      if (stale) job.staleWrites++;
      return stale;
    };
    const stale = { status: 409, body: { error: { message: 'taken', code: 'stale_lease' } } };
    if (rest === 'staged')
      return { status: 200, body: { key: 'blobs/x', bytes: body.byteLength, sha256: 'f'.repeat(64) } };
    const evaluated = /^checkpoints\/(\d+)\/evaluation$/.exec(rest);
    if (evaluated !== null) {
      const { token, metrics } = EvaluationRequest.parse(json());
      if (isStale(token)) return stale;
      if (metrics === null) job.evaluations.delete(Number(evaluated[1]));
      else job.evaluations.set(Number(evaluated[1]), metrics);
      return { status: 200, body: {} };
    }
    const blob = /^checkpoints\/(\d+)\/([\w.-]+)$/.exec(rest);
    if (blob !== null) {
      const key = `${blob[1]}/${blob[2]}`;
      if (request.method === 'GET') return { status: 200, body: job.blobs.get(key) ?? Buffer.alloc(0) };
      if (isStale(Number(request.headers['x-mantis-lease']))) return stale;
      job.blobs.set(key, body);
      return { status: 200, body: {} };
    }
    if (isStale((json() as { token: number }).token)) return stale;
    switch (rest) {
      case 'heartbeat':
        job.expiresAt = Date.now() + job.leaseMs;
        return { status: 200, body: { cancel: job.cancel, pause: job.pause, expiresAt: job.expiresAt } };
      case 'events':
        for (const event of TrainerEventsRequest.parse(json()).events)
          if (!job.events.has(event.key)) job.events.set(event.key, event);
        return { status: 200, body: {} };
      case 'checkpoints': {
        const { step, metrics, files, evaluates } = CheckpointRequest.parse(json());
        if (evaluates === true) job.evaluations.set(step, null);
        const told = new Set(job.steps.map((metrics) => metrics.step));
        for (let before = 1; before <= step; before++) if (!told.has(before)) job.untold.push(before);
        const at = job.checkpoints.findIndex((c) => c.step === step);
        if (at >= 0) job.checkpoints.splice(at, 1);
        job.checkpoints.push({ step, metrics, files });
        job.tries = 0;
        return { status: 200, body: { model: job.modelOf(step) } };
      }
      case 'finish': {
        const finish = FinishRequest.parse(json());
        job.finishes.push(finish);
        if (finish.status === 'released') job.isQueued = job.tries < MAX_TRIES;
        return { status: 200, body: {} };
      }
      default:
        return undefined;
    }
  }
}
