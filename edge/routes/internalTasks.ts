/** What a backend calls about tasks: claim, heartbeat, finish. Every write carries the fencing token of its lease. */
import type { Context } from 'hono';
import {
  ClaimRequest,
  JobHeartbeatRequest,
  type TaskClaim,
  TaskFinishRequest,
  TaskProgressRequest,
  type TaskSpec,
} from '../../shared/contract/backend.ts';
import { ApiError } from '../../shared/contract/errors.ts';
import type { EvaluateTask } from '../../shared/contract/evalTask.ts';
import { LIMITS } from '../../shared/contract/limits.ts';
import { nowMs } from '../clock.ts';
import { type AppEnv, scheduler } from '../env.ts';
import { stageBody } from '../files/stageBody.ts';
import { servedModels } from '../fleet/pick.ts';
import { liveBackends } from '../fleet/registry.ts';
import { readSignedJson } from '../middleware/signed.ts';
import { insertEvent } from '../store/events.ts';
import { leaseOwedReport, owedReports } from '../store/owedReports.ts';
import {
  type AppliedTask,
  applyToTask,
  findTask,
  keepResult,
  noteProgress,
  noteResult,
  queuedTasks,
  type TaskRow,
  taskResultKey,
} from '../store/tasks.ts';
import { advanceAll } from '../tasks/advance.ts';
import { taskEnd } from '../tasks/end.ts';

/** Evaluations that want several bases may stand before one that this backend can take. */
const MAX_LOOKED_AT = 64;

/** Base models of a backend that takes work now. */
async function modelsOf(c: Context<AppEnv>, backendId: string): Promise<string[]> {
  const mine = (await liveBackends(c.env, true)).filter(
    ({ report }) => report.id === backendId && report.state === 'ready',
  );
  return [...servedModels(mine).keys()];
}

/** Queued tasks that a backend with these models can do now, the next one first. */
async function takeable(c: Context<AppEnv>, models: readonly string[], kinds: readonly TaskRow['kind'][] | null) {
  if (models.length === 0) return [];
  const queued = await queuedTasks(c.env.DB, models, nowMs(), MAX_LOOKED_AT, kinds);
  // Whoever evaluates asks judges too.
  return queued.filter(
    ({ kind, spec }) =>
      kind !== 'evaluate' || (JSON.parse(spec) as EvaluateTask).bases.every((base) => models.includes(base)),
  );
}

/** `POST /internal/tasks/claim`: a report that is owed, else the next queued task that this backend can do, or 204. */
export async function claimTask(c: Context<AppEnv>): Promise<Response> {
  const { backendId, kinds = null } = await readSignedJson(c, ClaimRequest);
  const models = await modelsOf(c, backendId);
  const owed = models.length > 0 && (kinds === null || kinds.includes('evaluate'));
  for (const row of owed ? await owedReports(c.env.DB, models, nowMs(), MAX_LOOKED_AT) : []) {
    const task = await leaseOwedReport(c.env.DB, row, backendId, nowMs());
    if (task !== null) return c.json({ ...claimOf(task), reportOnly: task.status } satisfies TaskClaim);
  }
  for (const { id } of await takeable(c, models, kinds)) {
    const applied = await applyToTask(c.env.DB, id, { type: 'claim', backendId }, nowMs());
    if (applied?.task == null) continue;
    c.executionCtx.waitUntil(scheduler(c.env).wake());
    return c.json(claimOf(applied.task));
  }
  return c.body(null, 204);
}

function claimOf(task: TaskRow): TaskClaim {
  return {
    id: task.id,
    tenant: task.tenant,
    spec: JSON.parse(task.spec) as TaskSpec,
    lease: { token: task.lease_token, expiresAt: task.lease_expires_at ?? 0 },
  };
}

/** `POST /internal/tasks/{id}/heartbeat`. */
export async function heartbeatTask(c: Context<AppEnv>): Promise<Response> {
  const { token } = await readSignedJson(c, JobHeartbeatRequest);
  const { task, row } = must(c, await applyToTask(c.env.DB, taskId(c), { type: 'heartbeat', token }, nowMs()));
  const now = task ?? row;
  const hadItsTurn = now.kind === 'evaluate' && nowMs() - now.claimed_at >= LIMITS.evals.turnMs;
  const othersWait =
    hadItsTurn &&
    now.lease_backend !== null &&
    (await takeable(c, await modelsOf(c, now.lease_backend), ['evaluate'])).length > 0;
  return c.json({ cancel: now.status === 'cancelled', othersWait, expiresAt: now.lease_expires_at ?? 0 });
}

/** `POST /internal/tasks/{id}/finish`: the result is stored first, under the lease's own key; then the row says so. Repeats are harmless. */
export async function finishTask(c: Context<AppEnv>): Promise<Response> {
  const body = await readSignedJson(c, TaskFinishRequest);
  const id = taskId(c);
  const row = await findTask(c.env.DB, id);
  if (row === null) throw unknownTask(id);
  const act = { type: 'finish' as const, token: body.token, status: body.status, error: body.error };
  const isOurs = row.status === 'running' && row.lease_token === body.token;
  const end = isOurs ? await taskEnd(c.env, row, body) : null;
  const resultKey = taskResultKey(id, body.token);
  const isSuccess = body.status === 'succeeded';
  if (end !== null && isSuccess) {
    // Written down before the bytes are: where the row is never written, the sweeper deletes them.
    await noteResult(c.env.DB, id, resultKey).run();
    await c.env.BLOBS.put(resultKey, JSON.stringify(end.result));
  }
  const applied = await applyToTask(c.env.DB, id, act, nowMs(), {
    ...(isSuccess ? { resultKey } : {}),
    along: (status, guard) => [
      ...(end?.along(status, guard) ?? []),
      ...(isSuccess ? [keepResult(c.env.DB, resultKey, guard)] : []),
    ],
  });
  const { task } = must(c, applied);
  // Whoever waits for it hears of it now; the sweeper finds those that do not.
  if (task !== null) await advanceAll(c.env);
  c.executionCtx.waitUntil(scheduler(c.env).wake());
  return c.json({ status: (task ?? row).status });
}

/** `POST /internal/tasks/{id}/progress`. A job that waits for it tells of every tenth of the reading. */
export async function reportProgress(c: Context<AppEnv>): Promise<Response> {
  const { token, progress } = await readSignedJson(c, TaskProgressRequest);
  const id = taskId(c);
  const row = await findTask(c.env.DB, id);
  if (row === null) throw unknownTask(id);
  const isOurs = await noteProgress(c.env.DB, id, token, progress);
  const { phase, done, total, problems } = progress;
  const tenths = total === 0 ? 0 : Math.floor((10 * done) / total);
  if (isOurs && phase === 'reading' && tenths > 0 && row.subject?.startsWith('ftjob-') === true)
    await insertEvent(c.env.DB, {
      jobId: row.subject,
      key: `validating-${tenths}`,
      createdAtMs: nowMs(),
      level: 'info',
      message: `Validating files: ${10 * tenths} % read, ${problems} problems so far.`,
      type: 'message',
      data: progress,
    }).run();
  return c.body(null, 204);
}

/** `PUT /internal/tasks/{id}/problems`: a stream; its bytes belong to nobody until the result that names them has come. */
export async function putTaskProblems(c: Context<AppEnv>): Promise<Response> {
  const id = taskId(c);
  const row = await findTask(c.env.DB, id);
  if (row === null) throw unknownTask(id);
  return c.json(await stageBody(c, row.tenant, 'problems'));
}

function taskId(c: Context<AppEnv>): string {
  return c.req.param('id') ?? '';
}

function must(c: Context<AppEnv>, applied: AppliedTask | null): AppliedTask {
  if (applied === null) throw unknownTask(taskId(c));
  if (applied.outcome.kind === 'stale')
    throw new ApiError('stale_lease', `Task ${taskId(c)}: the lease is not the newest one. Stop working on it.`);
  if (applied.outcome.kind === 'refused')
    throw new ApiError('invalid_state', `Task ${taskId(c)}: ${applied.outcome.reason}.`);
  return applied;
}

function unknownTask(id: string): ApiError {
  return new ApiError('job_not_found', `No task ${JSON.stringify(id.slice(0, 64))}.`);
}
