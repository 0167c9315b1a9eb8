import { availableParallelism, tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import * as z from 'zod/mini';
import { violationsOf } from '../shared/contract/errors.ts';
import { LIMITS } from '../shared/contract/limits.ts';
import { ADAPTER_MODES } from './engine/adapter-mode.ts';
import { KV_CHOICES, PRECISION_SYNTAX, parsePrecision } from './engine/precision.ts';
import { DEVICE_CHOICES } from './runtime/device.ts';
import type { BindingChoice } from './runtime/native/choose-binding.ts';
import type { ServeOptions } from './server/serve.ts';

/** Everything a backend can be told, read from the environment once at start. */
export interface Config extends Omit<ServeOptions, 'id'> {
  /** `null` = it finds one for itself. */
  readonly id: string | null;
  /** Process whose end ends the backend too; `null` = none. */
  readonly parentPid: number | null;
}

/** Not imported from where it is read: that would load the runtime. */
const BINDING_CHOICES: readonly BindingChoice[] = ['auto', 'node', 'native'];

const bundledModel = fileURLToPath(new URL('./models/nano', import.meta.url));

const integer = (least: number, most: number, byDefault: number) =>
  z._default(
    z.pipe(
      z.string().check(z.regex(/^\d+$/, 'a whole number')),
      z.pipe(z.transform(Number), z.int().check(z.minimum(least), z.maximum(most))),
    ),
    byDefault,
  );

function isPrecision(text: string): boolean {
  try {
    parsePrecision(text);
    return true;
  } catch {
    return false;
  }
}

/** Every variable, for the page that lists them. */
export const Environment = z.object({
  MANTIS_EDGE_URL: z.optional(z.url()),
  // What the starter calls it; without one it finds a name for itself (`server/backend-id.ts`).
  MANTIS_BACKEND_ID: z.optional(
    z.string().check(z.regex(/^[\w.-]{1,128}$/, 'letters, digits, ".", "_" and "-", at most 128')),
  ),
  MANTIS_BACKEND_SECRET: z.string().check(z.minLength(16, 'at least 16 characters')),
  MANTIS_BACKEND_HOST: z._default(z.string(), '127.0.0.1'),
  MANTIS_BACKEND_PORT: integer(0, 65_535, 0),
  MANTIS_BACKEND_URL: z.optional(z.url()),
  MANTIS_DATA_DIR: z.optional(z.string()),
  MANTIS_MODELS: z._default(z.string(), `mantis-nano=${bundledModel}`),
  MANTIS_DEVICE: z._default(z.enum(DEVICE_CHOICES), 'auto'),
  MANTIS_THREADS: integer(1, 256, 1),
  MANTIS_MAX_ROWS: integer(1, 1024, 16),
  MANTIS_KV_TOKENS: integer(64, 2 ** 30, 32_768),
  MANTIS_FEATURE_CACHE_MIB: integer(0, 2 ** 20, 64),
  MANTIS_BLOB_CACHE_MIB: integer(0, 2 ** 20, 64),
  MANTIS_PREFIX_CACHE_MIB: integer(0, 2 ** 20, 128),
  MANTIS_PRECISION: z._default(z.string().check(z.refine(isPrecision, PRECISION_SYNTAX)), 'auto'),
  MANTIS_KV: z._default(z.enum(KV_CHOICES), 'auto'),
  // Read where sessions are opened, in every thread and process; here it is only checked before anything starts.
  MANTIS_BINDING: z._default(z.enum(BINDING_CHOICES), 'auto'),
  MANTIS_FEATURE_DISK_MIB: integer(0, 2 ** 20, 1024),
  MANTIS_FEATURE_OBJECTS: z._default(z.enum(['on', 'off']), 'on'),
  MANTIS_FEATURE_READ_MS: integer(1, 60_000, 500),
  MANTIS_DECODE_MIB: integer(64, 2 ** 20, 1024),
  MANTIS_DECODE_PROCESSES: integer(1, 64, Math.min(2, availableParallelism())),
  MANTIS_ADAPTERS: z._default(z.enum(ADAPTER_MODES), 'auto'),
  MANTIS_JOBS: z._default(z.enum(['on', 'off']), 'on'),
  MANTIS_JOBS_PER_PROCESS: integer(1, 64, 4),
  MANTIS_CHECKPOINT_STORE: z.optional(
    z.string().check(z.regex(/^s3:\/\/[a-z0-9][a-z0-9.-]{1,61}[a-z0-9](\/[\w.\-/]+)?$/, 's3://bucket/prefix')),
  ),
  MANTIS_JOB_STALL_MS: integer(1_000, 86_400_000, LIMITS.jobs.stallMs),
  MANTIS_DRAIN_MS: integer(0, 3_600_000, 10_000),
  MANTIS_PARENT_PID: z.optional(z.string().check(z.regex(/^\d+$/, 'a process id'))),
  MANTIS_LOG_LEVEL: z._default(z.enum(['trace', 'debug', 'info', 'warn', 'error', 'fatal', 'silent']), 'info'),
});

/** @throws Error that names every variable at fault, what was expected and what came (never the secret) */
export function parseConfig(environment: Readonly<Record<string, string | undefined>>): Config {
  const parsed = Environment.safeParse(environment);
  if (!parsed.success) {
    const faults = violationsOf(parsed.error.issues, environment).map(({ message }) => `  ${message}`);
    throw new Error(`The environment of the backend is not usable:\n${faults.join('\n')}`);
  }
  const env = parsed.data;
  return {
    id: env.MANTIS_BACKEND_ID ?? null,
    edgeUrl: env.MANTIS_EDGE_URL ?? null,
    secret: env.MANTIS_BACKEND_SECRET,
    host: env.MANTIS_BACKEND_HOST,
    port: env.MANTIS_BACKEND_PORT,
    publicUrl: env.MANTIS_BACKEND_URL ?? null,
    dataDir: join(env.MANTIS_DATA_DIR ?? join(tmpdir(), 'mantis'), 'backend'),
    models: env.MANTIS_MODELS.split(',').map(parseModel),
    device: env.MANTIS_DEVICE,
    threads: env.MANTIS_THREADS,
    maxRows: env.MANTIS_MAX_ROWS,
    kvTokens: env.MANTIS_KV_TOKENS,
    featureCacheBytes: env.MANTIS_FEATURE_CACHE_MIB * 2 ** 20,
    blobCacheBytes: env.MANTIS_BLOB_CACHE_MIB * 2 ** 20,
    prefixCacheBytes: env.MANTIS_PREFIX_CACHE_MIB * 2 ** 20,
    precision: { weights: parsePrecision(env.MANTIS_PRECISION), kv: env.MANTIS_KV },
    featureDiskBytes: env.MANTIS_FEATURE_DISK_MIB * 2 ** 20,
    storesFeatures: env.MANTIS_FEATURE_OBJECTS === 'on',
    featureReadMs: env.MANTIS_FEATURE_READ_MS,
    decodeBytes: env.MANTIS_DECODE_MIB * 2 ** 20,
    decodeProcesses: env.MANTIS_DECODE_PROCESSES,
    adapters: env.MANTIS_ADAPTERS,
    takesJobs: env.MANTIS_JOBS === 'on',
    jobsPerProcess: env.MANTIS_JOBS_PER_PROCESS,
    checkpointStore: env.MANTIS_CHECKPOINT_STORE?.replace(/\/+$/, '') ?? null,
    jobStallMs: env.MANTIS_JOB_STALL_MS,
    drainMs: env.MANTIS_DRAIN_MS,
    parentPid: env.MANTIS_PARENT_PID === undefined ? null : Number(env.MANTIS_PARENT_PID),
    logLevel: env.MANTIS_LOG_LEVEL,
  };
}

/** `id=folder`, or `id=folder::adapter` for a checkpoint with a PEFT adapter. */
function parseModel(text: string): { id: string; dir: string; adapterDir?: string } {
  const [id, ...rest] = text.trim().split('=');
  const [dir, adapterDir, ...more] = rest.join('=').split('::');
  if (id === undefined || id === '' || dir === undefined || dir === '' || adapterDir === '' || more.length > 0)
    throw new Error(
      `MANTIS_MODELS: expected "id=folder" or "id=folder::adapter" separated by commas, received ${JSON.stringify(text)}`,
    );
  return { id, dir, ...(adapterDir === undefined ? {} : { adapterDir }) };
}
