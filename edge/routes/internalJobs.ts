/** What a training backend calls: claim, heartbeat, events, checkpoints, finish. Every write carries the fencing token of its lease. */
import type { Context } from 'hono';
import {
  CheckpointRequest,
  ClaimRequest,
  type ClaimResponse,
  type DataSpec,
  EvaluationRequest,
  FinishRequest,
  type JobEvaluation,
  JobHeartbeatRequest,
  type JobHeartbeatResponse,
  type JobSpec,
  LEASE_HEADER,
  type LeftOut,
  TrainerEventsRequest,
} from '../../shared/contract/backend.ts';
import { ApiError, errorMessage } from '../../shared/contract/errors.ts';
import type { EvaluationMetrics } from '../../shared/contract/jobs.ts';
import { LIMITS } from '../../shared/contract/limits.ts';
import type { Stage } from '../../shared/contract/training.ts';
import { newId } from '../../shared/wire/ids.ts';
import { hex, UNSIGNED_PAYLOAD } from '../../shared/wire/signature.ts';
import { nowMs } from '../clock.ts';
import { type AppEnv, type Env, scheduler } from '../env.ts';
import { stageBody } from '../files/stageBody.ts';
import { servedModels } from '../fleet/pick.ts';
import { liveBackends } from '../fleet/registry.ts';
import { checkpointModelName, tunedModelName } from '../jobs/names.ts';
import { estimatedFinish, PACE_EVENTS } from '../jobs/pace.ts';
import { resultFiles } from '../jobs/results.ts';
import { LEASED, TERMINAL } from '../jobs/state.ts';
import { readSignedJson } from '../middleware/signed.ts';
import { resultFile } from '../schedules/comparison.ts';
import {
  bestCheckpoint,
  deletePendingEval,
  evalsOf,
  getEval,
  insertEvaluation,
  insertPendingEval,
  kindOfStep,
} from '../store/checkpointEvals.ts';
import {
  checkpointKey,
  getCheckpoint,
  insertCheckpoint,
  insertModel,
  manifestOf,
  newestCheckpoints,
  noteUpload,
  pruneCheckpoints,
  recordCheckpointFile,
  releaseFiles,
  strikeOwned,
  uploadedFiles,
} from '../store/checkpoints.ts';
import { insertEvent, recentEvents } from '../store/events.ts';
import { auditFile, insertFile } from '../store/files.ts';
import {
  type Applied,
  applyToJob,
  type EndColumns,
  findJob,
  type HeldOutData,
  type JobRow,
  queuedJobs,
  type StoredMantisOptions,
  setEstimatedFinish,
} from '../store/jobs.ts';
import { findModel } from '../store/models.ts';
import { insertDeliveries } from '../store/webhooks.ts';

/** `POST /internal/jobs/claim`: the oldest queued job this backend can train, or 204. */
export async function claimJob(c: Context<AppEnv>): Promise<Response> {
  const { backendId, sharing } = await readSignedJson(c, ClaimRequest);
  const mine = (await liveBackends(c.env, true)).filter(
    ({ report }) => report.id === backendId && report.state === 'ready',
  );
  const models = [...servedModels(mine).keys()].filter((id) => sharing === undefined || id === sharing.baseModel);
  if (models.length === 0) return c.body(null, 204);
  for (const queued of await queuedJobs(c.env.DB, models, nowMs(), 8)) {
    if (sharing !== undefined && !mayShare(queued, sharing.stages)) continue;
    const { id } = queued;
    // Another backend may be quicker; then the next one is tried.
    const applied = await applyToJob(c.env.DB, id, { type: 'claim', backendId }, nowMs());
    if (applied?.job == null) continue;
    const { job } = applied;
    const answer: ClaimResponse = {
      job: await jobSpec(c.env, job),
      lease: { token: job.lease_token, expiresAt: job.lease_expires_at ?? 0 },
    };
    c.executionCtx.waitUntil(scheduler(c.env).wake());
    return c.json(answer);
  }
  return c.body(null, 204);
}

/** A job over an adapter has a base of its own, and one whose try has died may be what killed it. */
function mayShare(job: JobRow, stages: readonly string[]): boolean {
  const own = JSON.parse(job.stages) as Stage[];
  return job.model === job.base_model && job.fruitless_claims === 0 && own.every(({ train }) => stages.includes(train));
}

async function jobSpec(env: Env, job: JobRow): Promise<JobSpec> {
  const [checkpoint, ...earlier] = await newestCheckpoints(env.DB, job.id, 4);
  const mantis = JSON.parse(job.mantis) as StoredMantisOptions;
  return {
    id: job.id,
    baseModel: job.base_model,
    suffix: job.suffix,
    seed: job.seed,
    training: JSON.parse(job.training) as DataSpec[],
    validation: job.validation === null ? null : (JSON.parse(job.validation) as DataSpec),
    stages: JSON.parse(job.stages) as Stage[],
    checkpointEvery: mantis.checkpoint_every ?? null,
    checkpointsKept: mantis.checkpoints_kept ?? null,
    maxDurationS: mantis.max_duration_s ?? null,
    leftOut: JSON.parse(job.left_out) as LeftOut,
    trainingExamples: JSON.parse(job.examples) as number[],
    evaluation: await evaluationOf(env, job, mantis),
    adapter: job.model === job.base_model ? null : await findModel(env.DB, job.tenant, job.model),
    resume: checkpoint === undefined ? null : { step: checkpoint.step, checkpoint: manifestOf(checkpoint) },
    earlier: earlier.map(manifestOf),
    tries: job.fruitless_claims,
  };
}

/** What its checkpoints are asked; null where they are not. */
async function evaluationOf(env: Env, job: JobRow, { evaluation }: StoredMantisOptions): Promise<JobEvaluation | null> {
  const heldOut = job.held_out === null ? null : (JSON.parse(job.held_out) as HeldOutData).evaluation;
  if (evaluation === undefined || heldOut === null) return null;
  const J = LIMITS.jobs;
  const evals = await evalsOf(env.DB, job.id);
  return {
    tenant: job.tenant,
    heldOut,
    base: job.model,
    how: {
      maxExamples: evaluation.max_examples ?? J.maxEvaluationExamples,
      options: evaluation.options ?? null,
      imageOrders: evaluation.image_orders ?? 1,
      textOnly: evaluation.text_only ?? false,
      confidence: evaluation.confidence ?? J.defaultEvaluationConfidence,
    },
    every: evaluation.every ?? 'checkpoint',
    earlyStop:
      evaluation.early_stop === undefined
        ? null
        : { patience: evaluation.early_stop.patience, minDelta: evaluation.early_stop.min_delta ?? 0 },
    done: evals.flatMap(({ step, accuracy }) => (accuracy === null ? [] : [{ step, accuracy }])),
    pending: evals.flatMap(({ step, model, accuracy }) => (accuracy === null ? [{ step, model }] : [])),
  };
}

/** `POST /internal/jobs/{id}/heartbeat`. */
export async function heartbeatJob(c: Context<AppEnv>): Promise<Response> {
  const { token } = await readSignedJson(c, JobHeartbeatRequest);
  const { job, row } = must(c, await applyToJob(c.env.DB, jobId(c), { type: 'heartbeat', token }, nowMs()));
  return c.json(heardBy(job ?? row));
}

/** What a worker hears with every answer. */
function heardBy(job: JobRow): JobHeartbeatResponse {
  return {
    cancel: TERMINAL.has(job.status),
    pause: job.status === 'pausing' || job.status === 'paused',
    expiresAt: job.lease_expires_at ?? 0,
  };
}

/** `POST /internal/jobs/{id}/events`. Checked and written under the lease; repeats are dropped by their keys. */
export async function addEvents(c: Context<AppEnv>): Promise<Response> {
  const { token, events } = await readSignedJson(c, TrainerEventsRequest);
  const id = jobId(c);
  const isPaced = events.some(({ type }) => type === 'metrics');
  const finishMs = isPaced
    ? estimatedFinish([...(await recentEvents(c.env.DB, id, PACE_EVENTS)), ...events], nowMs())
    : null;
  const applied = await applyToJob(c.env.DB, id, { type: 'heartbeat', token }, nowMs(), {
    along: ({ revision }) => [
      ...(finishMs === null ? [] : [setEstimatedFinish(c.env.DB, id, finishMs, revision)]),
      ...events.map(({ key, level, message, type, data, createdAt }) =>
        insertEvent(
          c.env.DB,
          {
            jobId: id,
            key,
            createdAtMs: createdAt,
            level,
            message: message.slice(0, LIMITS.jobs.maxEventMessageChars),
            type,
            data,
          },
          revision,
        ),
      ),
    ],
  });
  const { job, row } = must(c, applied);
  return c.json(heardBy(job ?? row));
}

/** `PUT /internal/jobs/{id}/checkpoints/{step}/{name}`: one blob, streamed to the store and hashed on the way. */
export async function putCheckpointFile(c: Context<AppEnv>): Promise<Response> {
  const token = Number(c.req.header(LEASE_HEADER) ?? Number.NaN);
  const { id, step, name } = checkpointPath(c);
  const row = await findJob(c.env.DB, id);
  if (row === null) throw unknownJob(id);
  if (row.lease_token !== token || !LEASED.has(row.status)) throw staleLease(id);
  const bytes = Number(c.req.header('content-length') ?? Number.NaN);
  if (!Number.isInteger(bytes) || bytes < 1 || bytes > LIMITS.jobs.maxCheckpointFileBytes || c.req.raw.body === null) {
    throw new ApiError(
      'request_too_large',
      errorMessage('content-length', {
        expected: `1 to ${LIMITS.jobs.maxCheckpointFileBytes} bytes`,
        received: c.req.header('content-length') ?? 'nothing',
      }),
    );
  }
  const [stored, hashed] = c.req.raw.body.tee();
  const hasher = new crypto.DigestStream('SHA-256');
  const sized = new FixedLengthStream(bytes);
  const key = checkpointKey(id, step, token, name);
  // Written down before the bytes are: whatever breaks in between is found and deleted.
  await noteUpload(c.env.DB, { jobId: id, step, token, name }, key, nowMs()).run();
  await Promise.all([stored.pipeTo(sized.writable), hashed.pipeTo(hasher), c.env.BLOBS.put(key, sized.readable)]);
  const sha256 = hex(new Uint8Array(await hasher.digest));
  const signedDigest = c.req.header('x-mantis-body-sha256');
  if (signedDigest !== UNSIGNED_PAYLOAD && signedDigest !== sha256) {
    await c.env.BLOBS.delete(key);
    throw new ApiError(
      'digest_mismatch',
      errorMessage(name, { expected: `sha256 ${signedDigest}`, received: sha256, remedy: 'Send it again.' }),
    );
  }
  const [recorded] = await c.env.DB.batch([
    recordCheckpointFile(c.env.DB, { jobId: id, step, token, name, bytes, sha256 }),
    strikeOwned(c.env.DB, { jobId: id, step, token, name }, key),
  ]);
  // The lease may have gone while the bytes came.
  if ((recorded?.meta.changes ?? 0) === 0) throw staleLease(id);
  return c.json({ name, bytes, sha256 });
}

/** `GET` of the same path: for a resume. The newest complete checkpoint of that step is served. */
export async function getCheckpointFile(c: Context<AppEnv>): Promise<Response> {
  const { id, step, name } = checkpointPath(c);
  return checkpointFile(c.env, id, step, name);
}

export async function checkpointFile(env: Env, id: string, step: number, name: string): Promise<Response> {
  const row = await getCheckpoint(env.DB, id, step);
  const outside = row === null ? undefined : manifestOf(row).files.find((file) => file.name === name)?.location;
  if (outside !== undefined)
    throw new ApiError(
      'not_found',
      `Job ${id}: ${JSON.stringify(name)} of step ${step} is not here but at ${outside}. Fetch it from there.`,
    );
  const object = row === null ? null : await env.BLOBS.get(checkpointKey(id, step, row.token, name));
  if (object === null)
    throw new ApiError('not_found', `Job ${id}: no file ${JSON.stringify(name)} in a checkpoint of step ${step}.`);
  return new Response(object.body, {
    headers: { 'content-type': 'application/octet-stream', 'content-length': String(object.size) },
  });
}

/** `POST /internal/jobs/{id}/checkpoints`: the manifest, last. Makes the checkpoint visible and servable in one transaction with the lease. */
export async function addCheckpoint(c: Context<AppEnv>): Promise<Response> {
  const body = await readSignedJson(c, CheckpointRequest);
  const id = jobId(c);
  const row = await findJob(c.env.DB, id);
  if (row === null) throw unknownJob(id);
  const stored = new Map((await uploadedFiles(c.env.DB, id, body.step, body.token)).map((file) => [file.name, file]));
  for (const { name, bytes, sha256, location } of body.files) {
    const file = stored.get(name);
    if (file?.bytes !== bytes || file.sha256 !== sha256 || file.location !== location) {
      const received = file === undefined ? 'nothing' : `${file.bytes} bytes, sha256 ${file.sha256}`;
      throw new ApiError(
        'digest_mismatch',
        errorMessage(name, { expected: `${bytes} bytes, sha256 ${sha256} uploaded before`, received }),
        { param: 'files' },
      );
    }
  }
  const atMs = nowMs();
  const checkpoint = newId('ftckpt_');
  const { checkpoints_kept: kept } = JSON.parse(row.mantis) as StoredMantisOptions;
  const model = checkpointModelName(tunedModelName(row, c.env.ORGANIZATION), body.step);
  const applied = await applyToJob(c.env.DB, id, { type: 'checkpoint', token: body.token }, atMs, {
    along: ({ sql }) => [
      insertCheckpoint(
        c.env.DB,
        {
          id: checkpoint,
          job_id: id,
          step: body.step,
          token: body.token,
          created_at: atMs,
          metrics: JSON.stringify(body.metrics),
          files: JSON.stringify(body.files),
          model,
        },
        sql,
      ),
      insertModel(
        c.env.DB,
        {
          id: model,
          base: row.base_model,
          kind: body.kind,
          jobId: id,
          step: body.step,
          createdAtMs: atMs,
          listed: false,
        },
        sql,
      ),
      // Receivers fetch its metrics: they hear of it when all of them are there.
      ...(body.evaluates === true
        ? [insertPendingEval(c.env.DB, { jobId: id, step: body.step, checkpoint, model, createdAtMs: atMs }, sql)]
        : checkpointEvent(c.env, row, checkpoint, sql, atMs)),
      ...(kept === undefined ? [] : pruneCheckpoints(c.env.DB, { id, step: body.step, keep: kept }, sql, atMs)),
    ],
  });
  must(c, applied);
  return c.json({ model });
}

function checkpointEvent(env: Env, job: JobRow, checkpoint: string, guard: string, atMs: number) {
  const event = {
    id: newId('evt_'),
    tenant: job.tenant,
    type: 'fine_tuning.job.checkpoint' as const,
    objectId: job.id,
    createdAtMs: atMs,
    data: { checkpoint },
  };
  return insertDeliveries(env.DB, event, guard, atMs);
}

/** `POST /internal/jobs/{id}/checkpoints/{step}/evaluation`: what a checkpoint answered right, for its metrics, the events, and receivers. */
export async function addEvaluation(c: Context<AppEnv>): Promise<Response> {
  const body = await readSignedJson(c, EvaluationRequest);
  const { id, step } = checkpointPath(c, 'evaluation');
  const row = await findJob(c.env.DB, id);
  if (row === null) throw unknownJob(id);
  const pending = await getEval(c.env.DB, id, step);
  // The answer to the first report may have been lost.
  if (pending === null && body.metrics === null) return c.json(heardBy(row));
  if (pending === null)
    throw new ApiError('not_found', `Job ${id}: no checkpoint of step ${step} waits for an evaluation.`);
  const atMs = nowMs();
  const { metrics } = body;
  const file = body.outcomes === null ? null : resultFile(row.tenant, id, body.outcomes);
  const applied = await applyToJob(c.env.DB, id, { type: 'heartbeat', token: body.token }, atMs, {
    along: ({ sql, revision }) => [
      ...(file === null
        ? []
        : [
            ...insertFile(c.env.DB, file, sql),
            auditFile(c.env.DB, { tenant: row.tenant, keyId: 'system', requestId: null }, file, sql),
          ]),
      ...(metrics === null
        ? [deletePendingEval(c.env.DB, id, step, sql)]
        : [
            ...insertEvaluation(c.env.DB, { jobId: id, step, metrics, fileId: file?.id ?? null, atMs }, sql),
            insertEvent(
              c.env.DB,
              {
                jobId: id,
                key: `eval-${step}`,
                createdAtMs: atMs,
                level: 'info',
                message: evaluationMessage(step, metrics),
                type: 'metrics',
                data: { step, total_steps: body.totalSteps, ...metrics },
              },
              revision,
            ),
          ]),
      ...(pending.evaluated_at === null ? checkpointEvent(c.env, row, pending.checkpoint, sql, atMs) : []),
    ],
  });
  const { job } = must(c, applied);
  return c.json(heardBy(job ?? row));
}

/** `POST /internal/jobs/{id}/finish`: state, tuned model, result file and webhook outbox rows in one transaction. */
export async function finishJob(c: Context<AppEnv>): Promise<Response> {
  const body = await readSignedJson(c, FinishRequest);
  const id = jobId(c);
  const row = await findJob(c.env.DB, id);
  if (row === null) throw unknownJob(id);
  const atMs = nowMs();
  let end: EndColumns | undefined;
  let name = '';
  let best: Awaited<ReturnType<typeof bestCheckpoint>> = null;
  const { stage, evaluation } = JSON.parse(row.mantis) as StoredMantisOptions;
  // A checkpoint of an earlier stage may be the one that is kept; it is served as what that stage trains.
  let kind: string = stage;
  if (body.status === 'succeeded' && LEASED.has(row.status) && row.lease_token === body.token) {
    if (body.finalStep === null || (await getCheckpoint(c.env.DB, id, body.finalStep)) === null) {
      throw new ApiError(
        'invalid_value',
        errorMessage('finalStep', {
          expected: 'the step of a checkpoint posted before',
          received: String(body.finalStep),
        }),
        { param: 'finalStep' },
      );
    }
    name = tunedModelName(row, c.env.ORGANIZATION);
    const files = await resultFiles(c.env, row);
    end = { trainedTokens: body.trainedTokens, fineTunedModel: name, resultFiles: files };
    if (evaluation?.keep_best === true) best = await bestCheckpoint(c.env.DB, id);
    const chosen = best?.step ?? body.finalStep;
    const own = await kindOfStep(c.env.DB, id, chosen);
    kind = own === null || own === (JSON.parse(row.stages) as Stage[]).at(-1)?.train ? stage : own;
  }
  const applied = await applyToJob(
    c.env.DB,
    id,
    { type: 'finish', token: body.token, status: body.status, error: body.error },
    atMs,
    {
      ...(end === undefined ? {} : { end }),
      along: ({ sql, revision }) => [
        // Nobody uploads under this lease any more; the next one's files have its number in their path.
        ...releaseFiles(c.env.DB, { jobId: id, throughStep: null }, sql, atMs),
        ...(end === undefined || body.finalStep === null
          ? []
          : [
              insertModel(
                c.env.DB,
                {
                  id: name,
                  base: row.base_model,
                  kind,
                  jobId: id,
                  step: best?.step ?? body.finalStep,
                  createdAtMs: atMs,
                  listed: true,
                },
                sql,
              ),
              ...(evaluation?.keep_best === true
                ? [keptEvent(c.env.DB, id, best, body.finalStep, atMs, revision)]
                : []),
            ]),
      ],
    },
  );
  const done = must(c, applied);
  c.executionCtx.waitUntil(scheduler(c.env).wake());
  return c.json({ status: (done.job ?? done.row).status });
}

function jobId(c: Context<AppEnv>): string {
  return c.req.param('id') ?? '';
}

/** Which checkpoint the job's model is made of, where the best one was asked for. */
function keptEvent(
  db: D1Database,
  jobId: string,
  best: Awaited<ReturnType<typeof bestCheckpoint>>,
  finalStep: number,
  atMs: number,
  revision: string,
): D1PreparedStatement {
  const message =
    best === null
      ? `No checkpoint was evaluated; the last one, of step ${finalStep}, becomes the model.`
      : `The checkpoint of step ${best.step} has the highest accuracy on the held-out examples, ${percent(best.accuracy)}, and becomes the model${best.step === finalStep ? '; it is the last one' : ''}.`;
  const data = { kept_step: best?.step ?? finalStep, final_step: finalStep, eval_accuracy: best?.accuracy ?? null };
  const event = { jobId, key: 'kept', createdAtMs: atMs, level: best === null ? ('warn' as const) : ('info' as const) };
  return insertEvent(db, { ...event, message, type: 'message', data }, revision);
}

const percent = (share: number) => `${(100 * share).toFixed(1)} %`;

function evaluationMessage(step: number, metrics: EvaluationMetrics): string {
  const [low, high] = metrics.eval_interval;
  const [worst, most] = metrics.eval_difference_interval;
  const points = (share: number) => `${share < 0 ? '−' : '+'}${Math.abs(100 * share).toFixed(1)}`;
  const groups = metrics.eval_groups === metrics.eval_examples ? '' : ` in ${metrics.eval_groups} groups`;
  const textOnly =
    metrics.eval_text_only_accuracy === undefined
      ? ''
      : ` Without pictures ${percent(metrics.eval_text_only_accuracy)}.`;
  return (
    `Step ${step}: ${percent(metrics.eval_accuracy)} of ${metrics.eval_examples} held-out examples${groups} right (${percent(low)} … ${percent(high)}), ` +
    `${points(metrics.eval_difference)} points (${points(worst)} … ${points(most)}) to the model before it.${textOnly}`
  );
}

/** `PUT /internal/jobs/{id}/staged`: a stream under the lease; its bytes belong to nobody until a call names them. */
export async function stageJobFile(c: Context<AppEnv>): Promise<Response> {
  const id = jobId(c);
  const row = await findJob(c.env.DB, id);
  if (row === null) throw unknownJob(id);
  return c.json(await stageBody(c, row.tenant, 'outcomes'));
}

function checkpointPath(c: Context<AppEnv>, fixedName?: string): { id: string; step: number; name: string } {
  const step = Number(c.req.param('step'));
  const name = fixedName ?? c.req.param('name') ?? '';
  if (!Number.isInteger(step) || step < 0)
    throw new ApiError(
      'invalid_value',
      errorMessage('step', { expected: 'an integer from 0', received: c.req.param('step') ?? '' }),
    );
  if (!/^[A-Za-z0-9_][\w.-]{0,127}$/.test(name))
    throw new ApiError(
      'invalid_value',
      errorMessage('name', { expected: 'a plain file name', received: JSON.stringify(name.slice(0, 64)) }),
    );
  return { id: jobId(c), step, name };
}

function must(c: Context<AppEnv>, applied: Applied | null): Applied {
  if (applied === null) throw unknownJob(jobId(c));
  if (applied.outcome.kind === 'stale') throw staleLease(jobId(c));
  if (applied.outcome.kind === 'refused')
    throw new ApiError('invalid_state', `Job ${jobId(c)}: ${applied.outcome.reason}.`);
  return applied;
}

function unknownJob(id: string): ApiError {
  return new ApiError('job_not_found', `No job ${JSON.stringify(id.slice(0, 64))}.`);
}

function staleLease(id: string): ApiError {
  return new ApiError('stale_lease', `Job ${id}: the lease is not the newest one. Stop working on it.`);
}
