import { mkdir } from 'node:fs/promises';
import type { AddressInfo } from 'node:net';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { serve as listen } from '@hono/node-server';
import { type Logger, pino } from 'pino';
import { ApiError } from '../../shared/contract/errors.ts';
import { LIMITS } from '../../shared/contract/limits.ts';
import type { AdapterMode } from '../engine/adapter-mode.ts';
import { FeatureStore, type FeatureTier } from '../engine/feature-store.ts';
import { DiskTier } from '../engine/feature-store-disk.ts';
import { ModelPool, type ServedModel } from '../engine/model-pool.ts';
import { EngineModelService } from '../engine/model-service.ts';
import type { PrecisionRequest } from '../engine/precision.ts';
import { choosePrecision } from '../engine/precision-choice.ts';
import { capacityFor } from '../engine/scheduler/capacity.ts';
import type { ServiceStats } from '../engine/service.ts';
import type { DeviceChoice } from '../runtime/device.ts';
import { describeDevice, openDevice } from '../runtime/device-open.ts';
import { DecodePool } from '../vision/pool.ts';
import { createApp } from './app.ts';
import { BlobCache } from './blob-cache.ts';
import { addDecoderMetrics } from './decoder-metrics.ts';
import { EdgeClient } from './edge-client.ts';
import { ObjectTier } from './feature-objects.ts';
import { JobRunner } from './job-runner.ts';
import { createMetrics } from './metrics.ts';
import { OutsideFiles, sweepOutside } from './outside-files.ts';
import { OverlayStore } from './overlay-store.ts';
import { Registration } from './registration.ts';
import { TaskRunner } from './task-runner.ts';
import { taskHandlers } from './tasks/handlers.ts';

/** What a backend needs to know; `config.ts` reads it from the environment. */
export interface ServeOptions {
  /** What this backend registers as. */
  readonly id: string;
  /** Origin of the edge to register with; `null` = alone: no registration, no jobs, no `ft:` models. */
  readonly edgeUrl: string | null;
  /** Shared by edge and backends; signs every call both ways. */
  readonly secret: string;
  readonly host: string;
  /** 0 = a free one, printed when listening. */
  readonly port: number;
  /** How the edge reaches this backend; `null` = http://host:port. */
  readonly publicUrl: string | null;
  /** Caches and work folders of jobs. */
  readonly dataDir: string;
  readonly models: readonly ServedModel[];
  /** Where models run. */
  readonly device: DeviceChoice;
  /** Threads of one ONNX Runtime session. */
  readonly threads: number;
  readonly maxRows: number;
  readonly kvTokens: number;
  /** Image features in the engine's memory. */
  readonly featureCacheBytes: number;
  /** Weights of the models that are no imports, and keys and values of all. */
  readonly precision: PrecisionRequest;
  /** Keys and values kept of prompts and answers, for each model. */
  readonly prefixCacheBytes: number;
  /** Picture files in memory, so that a picture sent lately need not travel again; 0 = none. */
  readonly blobCacheBytes: number;
  /** Image features in `dataDir`; 0 = none. */
  readonly featureDiskBytes: number;
  /** Whether image features are kept in the edge's object store too. */
  readonly storesFeatures: boolean;
  /** A tier that takes longer to read a picture's features is passed over, and the picture encoded. */
  readonly featureReadMs: number;
  /** What pictures that are being decoded may take, bytes, and the processes that decode them. */
  readonly decodeBytes: number;
  readonly decodeProcesses: number;
  /** How adapters are served: folded into copies of weights, or beside the base's own. */
  readonly adapters: AdapterMode;
  /** Whether this backend takes fine-tuning jobs. */
  readonly takesJobs: boolean;
  /** Jobs over the same base that train in one process. */
  readonly jobsPerProcess: number;
  /** Least time after which a step of a job is taken for stuck, and its process ended. */
  readonly jobStallMs: number;
  /** `s3://bucket/prefix` for checkpoints of jobs. Default: they go through the edge. */
  readonly checkpointStore?: string | null;
  /** After SIGTERM, running answers may take this long to end. */
  readonly drainMs: number;
  readonly logLevel: string;
}

export interface RunningServer {
  readonly url: string;
  /** Finishes what runs, within `drainMs`; gives the running job back; then closes everything. Safe to call twice. */
  close(): Promise<void>;
}

/** Requests that may wait for a row, for each row there is. */
const QUEUE_PER_ROW = 8;
/** What the edge sends at once for each row: the one being decoded and one being made ready, so that no row waits. */
const READY_PER_ROW = 2;
const MAX_OVERLAYS = 4;
/** At the end, features that are still being written may take this long. */
const FLUSH_MS = 5_000;
/** After the edge has heard that this backend drains, what it had already sent arrives within this time and is still taken. */
const SETTLE_MS = 250;
/** The last bytes of answers that are complete may take this long to leave. */
const LAST_BYTES_MS = 1_000;
const NO_STATS: ServiceStats = {
  models: [],
  cache: { bytes: 0, entries: 0, queries: 0, hits: 0, evictions: 0 },
  pictures: { asked: 0, memory: 0, disk: 0, objects: 0, decoded: 0 },
  featureTiers: [],
};

/** Tiers of image features below the engine's memory; `null` = none. */
async function openFeatures(
  { dataDir, featureDiskBytes, storesFeatures, featureReadMs }: ServeOptions,
  edge: EdgeClient | null,
  log: Logger,
): Promise<FeatureStore | null> {
  const tiers: FeatureTier[] = [];
  if (featureDiskBytes > 0) tiers.push(await DiskTier.open(join(dataDir, 'features'), featureDiskBytes));
  if (edge !== null && storesFeatures) tiers.push(new ObjectTier(edge));
  if (tiers.length === 0) return null;
  return new FeatureStore({
    tiers,
    readTimeoutMs: featureReadMs,
    onError: (tier, error) => log.warn({ err: error, tier }, 'a tier of image features failed; pictures are encoded'),
  });
}

/** Starts a backend: models, HTTP, registration, jobs. Resolves when it answers. @throws Error when a model cannot be served */
export async function serve(options: ServeOptions): Promise<RunningServer> {
  const log = pino({ level: options.logLevel, base: { part: 'backend' } });
  const id = options.id;
  const capacity = capacityFor(options);
  await mkdir(options.dataDir, { recursive: true });
  const device = await openDevice(options.device, join(options.dataDir, 'devices'));
  for (const line of describeDevice(device)) log.info(line);
  const { storage, kv, lines } = await choosePrecision(options.precision, {
    dirs: options.models.map(({ dir }) => dir),
    device: device.placement.device,
    threads: options.threads,
    maxRows: options.maxRows,
    tables: join(options.dataDir, 'precision'),
  });
  // The choice; what it was chosen from is for who asks (`mantis precision` prints it too).
  for (const [i, line] of lines.entries()) log[i === 0 ? 'info' : 'debug'](line);
  const edge = options.edgeUrl === null ? null : new EdgeClient({ url: options.edgeUrl, secret: options.secret });
  const outside = new OutsideFiles(options.checkpointStore ?? null);
  const overlays = edge === null ? null : new OverlayStore(edge, options.dataDir, outside);
  const pool = new ModelPool({
    models: options.models,
    capacity,
    compile: {
      threads: options.threads,
      kv,
      ...(device.placement.device === 'cpu' ? {} : { placement: device.placement }),
      ...(storage === undefined ? {} : { storage }),
    },
    prefixCacheBytes: options.prefixCacheBytes,
    featureCacheBytes: options.featureCacheBytes,
    adapters: options.adapters,
    maxOverlays: MAX_OVERLAYS,
    fetchOverlay: async (request) => {
      if (overlays === null)
        throw new ApiError('model_not_found', `model: this backend runs without an edge and has no ${request.model}.`, {
          param: 'model',
        });
      return await overlays.fetch(request);
    },
    onEngineDeath: (error) => log.error({ err: error }, 'the engine thread died; starting another'),
  });
  const decoders = new DecodePool({ processes: options.decodeProcesses, budgetBytes: options.decodeBytes });
  decoders.warm();
  const features = await openFeatures(options, edge, log);
  const service = new EngineModelService(pool, capacity, decoders, features);
  // While the engine thread is being replaced there is nothing to read; the rest of the metrics still counts.
  const blobs = new BlobCache(options.blobCacheBytes);
  const metrics = createMetrics(
    () => service.stats().catch(() => NO_STATS),
    () => blobs.stats(),
  );
  addDecoderMetrics(metrics.registry, decoders);
  let draining = false;
  let refusing = false;
  let hasJob = false;
  let jobs: JobRunner | null = null;
  let tasks: readonly TaskRunner[] = [];
  let jobsRunning = 0;
  let tasksRunning = 0;
  const maxInFlight = options.maxRows * (1 + QUEUE_PER_ROW);
  let registration: Registration | null = null;
  const app = createApp({
    service,
    metrics,
    log,
    edge,
    blobs,
    secret: options.secret,
    audience: edge === null ? undefined : id,
    knownSinceMs: edge === null ? undefined : () => registration?.firstAckMs ?? null,
    maxInFlight,
    isDraining: () => refusing,
    onWake: () => {
      jobs?.wake();
      for (const lane of tasks) lane.wake();
    },
  });

  await pool.start();
  const server = listen({ fetch: app.fetch, hostname: options.host, port: options.port });
  // The edge closes idle connections after 5 s; a server that does the same may close one on which a request is just coming.
  if ('keepAliveTimeout' in server) server.keepAliveTimeout = LIMITS.backends.keepAliveMs;
  await new Promise<void>((resolve, reject) => {
    server.once('listening', resolve);
    server.once('error', reject);
  });
  const { port } = server.address() as AddressInfo;
  const url = options.publicUrl ?? `http://${options.host.includes(':') ? `[${options.host}]` : options.host}:${port}`;
  const startedAtMs = Math.round(performance.timeOrigin);
  const coldStartMs = Math.round(performance.now());
  log.info({ url, models: service.cards().map((card) => card.id), coldStartMs }, 'listening');

  if (edge !== null) {
    registration = new Registration({
      edge,
      log,
      onFailure: () => metrics.edgeHeartbeatFailures.inc(),
      report: () => ({
        id,
        url,
        models: [...service.cards()],
        capacity: options.maxRows * READY_PER_ROW,
        startedAtMs,
        coldStartMs,
        inFlight: service.inFlight,
        hasJob,
        state: draining ? 'draining' : 'ready',
      }),
    });
    registration.start();
    if (options.takesJobs) {
      // At once: who has work is not to be ended for want of it.
      const observeWork = () => {
        if (hasJob === jobsRunning + tasksRunning > 0) return;
        hasJob = !hasJob;
        void registration?.beatNow();
      };
      // Evaluations take as long as they have questions: nobody's validation waits for one, and no short one for a long one.
      const { evaluate, ...short } = taskHandlers(service, options.secret, (status, seconds) => {
        metrics.evalQuestions.inc({ status });
        metrics.evalQuestionTime.observe(seconds);
      });
      const perLane = [0, 0];
      tasks = [short, evaluate === undefined ? {} : { evaluate }].map(
        (handlers, lane) =>
          new TaskRunner({
            edge,
            backendId: id,
            log,
            dataDir: options.dataDir,
            threads: options.threads,
            baseDirOf: (model) => pool.baseDirOf(model),
            handlers,
            atOnce: lane === 0 ? 1 : LIMITS.evals.runsAtOnce,
            observe: (running) => {
              perLane[lane] = running;
              if (lane === 1) metrics.evalRunsRunning.set(running);
              tasksRunning = perLane.reduce((sum, one) => sum + one, 0);
              observeWork();
            },
          }),
      );
      for (const lane of tasks) lane.start();
      jobs = new JobRunner({
        edge,
        secret: options.secret,
        backendId: id,
        log,
        dataDir: options.dataDir,
        threads: options.threads,
        stopGraceMs: options.drainMs,
        jobsPerProcess: options.jobsPerProcess,
        stallMs: options.jobStallMs,
        checkpointStore: outside.url,
        service,
        isBusy: () => service.inFlight > 0,
        baseDirOf: (model) => pool.baseDirOf(model),
        observe: ({ running, step, outcome }) => {
          metrics.jobsRunning.set(running);
          jobsRunning = running;
          observeWork();
          metrics.trainStep.set(step);
          if (outcome !== undefined) metrics.jobs.inc({ outcome });
        },
      });
      jobs.start();
      if (outside.url !== null) sweepOutside(outside, edge, log);
    }
  }

  const drain = async (): Promise<void> => {
    draining = true;
    log.info({ inFlight: service.inFlight }, 'draining');
    const deadline = performance.now() + options.drainMs;
    const jobsGone = Promise.all([jobs?.drain(), ...tasks.map((lane) => lane.drain())]);
    // The edge first, so that nothing is refused that it could have sent elsewhere.
    if (await registration?.beatNow()) await sleep(Math.min(SETTLE_MS, options.drainMs));
    refusing = true;
    while (service.inFlight > 0 && performance.now() < deadline) await sleep(20);
    await jobsGone;
    registration?.stop();
    // Streams that outlived the grace are cut; their clients see a broken connection, never a finished answer.
    const cut = setTimeout(
      () => 'closeAllConnections' in server && server.closeAllConnections(),
      service.inFlight > 0 ? 0 : LAST_BYTES_MS,
    );
    await new Promise((resolve) => server.close(resolve));
    clearTimeout(cut);
    await features?.flush(FLUSH_MS);
    // In this order: the decoders are unreferenced, so the engine thread must still keep the process alive while they end.
    await decoders.close();
    await pool.close();
    log.info('closed');
  };
  let closing: Promise<void> | null = null;
  return { url, close: () => (closing ??= drain()) };
}
