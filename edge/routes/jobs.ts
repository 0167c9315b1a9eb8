import type { Context } from 'hono';
import { ApiError, describe, errorMessage, violation } from '../../shared/contract/errors.ts';
import { CreateJobRequest, type Hyperparameters } from '../../shared/contract/jobs.ts';
import { LIMITS } from '../../shared/contract/limits.ts';
import { newId } from '../../shared/wire/ids.ts';
import { type AppEnv, actorOf, scheduler } from '../env.ts';
import { type KnownModel, resolveModel } from '../fleet/models.ts';
import { validateDataset } from '../jobs/dataset.ts';
import { streamEvents } from '../jobs/follow.ts';
import { wakeBackends } from '../jobs/sweep.ts';
import { readJson } from '../middleware/body.ts';
import { auditEntry } from '../store/audit.ts';
import { listCheckpoints } from '../store/checkpoints.ts';
import { insertEvent, listEvents } from '../store/events.ts';
import { type FileRow, fileKey } from '../store/files.ts';
import {
  applyToJob,
  getJob,
  insertJob,
  type JobRow,
  listJobs,
  type StoredMantisOptions,
  showJob,
} from '../store/jobs.ts';
import { existingFile } from './files.ts';
import { listQuery } from './query.ts';

/** `POST /v1/fine_tuning/jobs`. The files are validated here, so a job that exists can be trained. */
export async function createJob(c: Context<AppEnv>): Promise<Response> {
  const body = await readJson(c, CreateJobRequest);
  const model = await resolveModel(c.env, c.get('tenant'), body.model);
  const mantis = trainOptions(body, model);
  const training = await existingFile(c, body.training_file, 'training_file');
  const validation =
    body.validation_file == null ? null : await existingFile(c, body.validation_file, 'validation_file');
  const store = { db: c.env.DB, blobs: c.env.BLOBS, tenant: c.get('tenant') };
  const examples = await count('training_file', training);
  if (validation !== null) await count('validation_file', validation);

  const id = newId('ftjob-');
  const nowMs = Date.now();
  await c.env.DB.batch([
    insertJob(c.env.DB, {
      id,
      tenant: c.get('tenant'),
      created_at: nowMs,
      model: body.model,
      base_model: model.card.id,
      suffix: body.suffix ?? null,
      seed: body.seed ?? crypto.getRandomValues(new Uint32Array(1))[0]! >>> 1,
      hyperparameters: resolveHyperparameters(body, examples),
      mantis,
      metadata: body.metadata == null ? null : JSON.stringify(body.metadata),
      training_file: training.id,
      validation_file: validation?.id ?? null,
      training_examples: examples,
    }),
    insertEvent(c.env.DB, {
      jobId: id,
      key: 'created',
      createdAtMs: nowMs,
      level: 'info',
      message: `Created fine-tuning job: ${id}`,
      type: 'message',
      data: null,
    }),
    insertEvent(c.env.DB, {
      jobId: id,
      key: 'validated',
      createdAtMs: nowMs,
      level: 'info',
      message: `Training file validated: ${examples} examples.`,
      type: 'message',
      data: { examples },
    }),
    auditEntry(c.env.DB, actorOf(c), { action: 'fine_tuning.job.created', object: id, data: { model: body.model } }),
  ]);
  c.executionCtx.waitUntil(wakeBackends(c.env));
  return c.json(showJob(await existingJob(c, id)));

  async function count(field: 'training_file' | 'validation_file', file: FileRow): Promise<number> {
    const object = await c.env.BLOBS.get(fileKey(file));
    if (object === null) throw new Error(`file ${file.id} has a row but no bytes`);
    return validateDataset(object.body, field, model.card, store);
  }
}

function trainOptions(body: CreateJobRequest, { card, id }: KnownModel): StoredMantisOptions {
  const asked = body.method?.supervised?.mantis ?? {};
  const stage = asked.stage ?? 'lora';
  const offered = card.capabilities.fineTune;
  if (offered.length === 0) {
    const expected = 'a model that can be tuned; one that was imported or is served with an adapter cannot';
    throw ApiError.from([violation('invalid_value', 'model', { expected, received: id })]);
  }
  if (!offered.includes(stage)) {
    const expected = `one of ${offered.join(', ')} for ${id}`;
    const received = describe(stage);
    throw ApiError.from([violation('invalid_value', 'method.supervised.mantis.stage', { expected, received })]);
  }
  if (asked.lora !== undefined && stage !== 'lora') {
    throw ApiError.from([
      violation('invalid_value', 'method.supervised.mantis.lora', {
        expected: '"stage": "lora" beside it',
        received: describe(stage),
      }),
    ]);
  }
  return { ...asked, stage, ...(stage === 'lora' ? { lora: asked.lora ?? { r: 16, alpha: 32 } } : {}) };
}

/** `auto`: three epochs; batches of at most 8 that give every epoch at least eight steps where there are examples for it; the recipe's own rate. */
function resolveHyperparameters(body: CreateJobRequest, examples: number): Hyperparameters {
  const asked = { ...body.hyperparameters, ...body.method?.supervised?.hyperparameters };
  const or = (value: number | 'auto' | undefined, fallback: number) =>
    value === undefined || value === 'auto' ? fallback : value;
  return {
    n_epochs: or(asked.n_epochs, 3),
    batch_size: or(asked.batch_size, Math.min(8, Math.max(1, Math.floor(examples / 8)))),
    learning_rate_multiplier: or(asked.learning_rate_multiplier, 1),
  };
}

export async function listAllJobs(c: Context<AppEnv>): Promise<Response> {
  return c.json(await listJobs(c.env.DB, c.get('tenant'), listQuery(c)));
}

export async function retrieveJob(c: Context<AppEnv>): Promise<Response> {
  return c.json(showJob(await existingJob(c)));
}

/** At once and final: the worker learns it from its next heartbeat, and its lease is worth nothing any more. */
export async function cancelJob(c: Context<AppEnv>): Promise<Response> {
  const { id } = await existingJob(c);
  const applied = await applyToJob(c.env.DB, id, { type: 'cancel' }, Date.now(), { actor: actorOf(c) });
  if (applied?.outcome.kind === 'refused') {
    throw new ApiError('invalid_state', `Job ${id} cannot be cancelled: ${applied.outcome.reason}.`, { param: 'id' });
  }
  c.executionCtx.waitUntil(scheduler(c.env).wake());
  return c.json(showJob(await existingJob(c)));
}

/** A list, or with `Accept: text/event-stream` the events as they come. */
export async function jobEvents(c: Context<AppEnv>): Promise<Response> {
  const { id } = await existingJob(c);
  if ((c.req.header('accept') ?? '').includes('text/event-stream')) {
    return streamEvents(c.env.DB, id, c.req.header('last-event-id') ?? null);
  }
  return c.json(await listEvents(c.env.DB, id, listQuery(c)));
}

export async function jobCheckpoints(c: Context<AppEnv>): Promise<Response> {
  const { id } = await existingJob(c);
  return c.json(await listCheckpoints(c.env.DB, id, listQuery(c, LIMITS.lists.defaultCheckpointLimit)));
}

async function existingJob(c: Context<AppEnv>, id: string = c.req.param('id') ?? ''): Promise<JobRow> {
  const job = await getJob(c.env.DB, c.get('tenant'), id);
  if (job !== null) return job;
  throw new ApiError(
    'job_not_found',
    errorMessage('id', {
      expected: 'the id of a fine-tuning job',
      received: describe(id),
      remedy: 'GET /v1/fine_tuning/jobs lists yours.',
    }),
    { param: 'id' },
  );
}
