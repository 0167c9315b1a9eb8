/** Checkpoints of a training backend: their files, the manifest that makes one visible, and what it answered right. Every write carries the fencing token of its lease. */
import type { Context } from 'hono';
import { CheckpointRequest, EvaluationRequest, LEASE_HEADER } from '../../shared/contract/backend.ts';
import { ApiError, errorMessage } from '../../shared/contract/errors.ts';
import type { EvaluationMetrics } from '../../shared/contract/jobs.ts';
import { LIMITS } from '../../shared/contract/limits.ts';
import { newId } from '../../shared/wire/ids.ts';
import { hex, UNSIGNED_PAYLOAD } from '../../shared/wire/signature.ts';
import { nowMs } from '../clock.ts';
import type { AppEnv, Env } from '../env.ts';
import { heardBy, jobId, must, staleLease, unknownJob } from '../jobs/leased.ts';
import { checkpointModelName, tunedModelName } from '../jobs/names.ts';
import { LEASED } from '../jobs/state.ts';
import { readSignedJson } from '../middleware/signed.ts';
import { resultFile } from '../schedules/comparison.ts';
import { deletePendingEval, getEval, insertEvaluation, insertPendingEval } from '../store/checkpointEvals.ts';
import {
  checkpointKey,
  getCheckpoint,
  insertCheckpoint,
  insertModel,
  manifestOf,
  noteUpload,
  pruneCheckpoints,
  recordCheckpointFile,
  strikeOwned,
  uploadedFiles,
} from '../store/checkpoints.ts';
import { insertEvent } from '../store/events.ts';
import { auditFile, insertFile } from '../store/files.ts';
import { applyToJob, findJob, type JobRow, type StoredMantisOptions } from '../store/jobs.ts';
import { insertDeliveries } from '../store/webhooks.ts';
import { percent } from './internalJobs.ts';

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
