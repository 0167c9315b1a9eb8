/** What a training backend calls: claim, heartbeat, events, checkpoints, finish. Every write carries the fencing token of its lease. */
import type { Context } from 'hono';
import {
  ClaimRequest,
  type ClaimResponse,
  type DataSpec,
  FinishRequest,
  type JobEvaluation,
  JobHeartbeatRequest,
  type JobSpec,
  type LeftOut,
  TrainerEventsRequest,
} from '../../shared/contract/backend.ts';
import { ApiError, errorMessage } from '../../shared/contract/errors.ts';
import { LIMITS } from '../../shared/contract/limits.ts';
import type { Stage } from '../../shared/contract/training.ts';
import { nowMs } from '../clock.ts';
import { type AppEnv, type Env, scheduler } from '../env.ts';
import { stageBody } from '../files/stageBody.ts';
import { servedModels } from '../fleet/pick.ts';
import { liveBackends } from '../fleet/registry.ts';
import { heardBy, jobId, must, unknownJob } from '../jobs/leased.ts';
import { tunedModelName } from '../jobs/names.ts';
import { estimatedFinish, PACE_EVENTS } from '../jobs/pace.ts';
import { resultFiles } from '../jobs/results.ts';
import { LEASED } from '../jobs/state.ts';
import { readSignedJson } from '../middleware/signed.ts';
import { type BestCheckpoint, bestCheckpoint, evalsOf, kindOfStep, markBest } from '../store/checkpointEvals.ts';
import { getCheckpoint, insertModel, manifestOf, newestCheckpoints, releaseFiles } from '../store/checkpoints.ts';
import { insertEvent, recentEvents } from '../store/events.ts';
import {
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

/** `POST /internal/jobs/{id}/finish`: state, tuned model, result file and webhook outbox rows in one transaction. */
export async function finishJob(c: Context<AppEnv>): Promise<Response> {
  const body = await readSignedJson(c, FinishRequest);
  const id = jobId(c);
  const row = await findJob(c.env.DB, id);
  if (row === null) throw unknownJob(id);
  const atMs = nowMs();
  let end: EndColumns | undefined;
  let name = '';
  let best: BestCheckpoint | null = null;
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
                ? [
                    ...(best === null ? [] : [markBest(c.env.DB, id, best, sql)]),
                    keptEvent(c.env.DB, id, best, body.finalStep, atMs, revision),
                  ]
                : []),
            ]),
      ],
    },
  );
  const done = must(c, applied);
  c.executionCtx.waitUntil(scheduler(c.env).wake());
  return c.json({ status: (done.job ?? done.row).status });
}

/** Which checkpoint the job's model is made of, where the best one was asked for. */
function keptEvent(
  db: D1Database,
  jobId: string,
  best: BestCheckpoint | null,
  finalStep: number,
  atMs: number,
  revision: string,
): D1PreparedStatement {
  const message =
    best === null
      ? `No checkpoint was evaluated; the last one, of step ${finalStep}, becomes the model.`
      : `The checkpoint of step ${best.step} has the highest accuracy on the held-out examples, ${percent(best.accuracy)}, and becomes the model${best.step === finalStep ? '; it is the last one' : ''}.${flattered(best)}`;
  const data = {
    kept_step: best?.step ?? finalStep,
    final_step: finalStep,
    eval_accuracy: best?.accuracy ?? null,
    eval_best_of: best?.of ?? null,
  };
  const event = { jobId, key: 'kept', createdAtMs: atMs, level: best === null ? ('warn' as const) : ('info' as const) };
  return insertEvent(db, { ...event, message, type: 'message', data }, revision);
}

/** The highest of several looks at the same questions is high by luck too. */
function flattered({ of }: BestCheckpoint): string {
  if (of < 2) return '';
  return ` Chosen as the best of ${of} by these same examples, its accuracy is likely to be lower on new ones: measure it on others.`;
}

export const percent = (share: number) => `${(100 * share).toFixed(1)} %`;

/** `PUT /internal/jobs/{id}/staged`: a stream under the lease; its bytes belong to nobody until a call names them. */
export async function stageJobFile(c: Context<AppEnv>): Promise<Response> {
  const id = jobId(c);
  const row = await findJob(c.env.DB, id);
  if (row === null) throw unknownJob(id);
  return c.json(await stageBody(c, row.tenant, 'outcomes'));
}
