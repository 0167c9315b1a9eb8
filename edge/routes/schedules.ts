/** Fine-tuning jobs that start by themselves: `/v1/schedules`. */
import type { Context } from 'hono';
import { ApiError, describe, errorMessage, type Violation, violation } from '../../shared/contract/errors.ts';
import { LIMITS } from '../../shared/contract/limits.ts';
import {
  CreateScheduleRequest,
  type NextRuns,
  type Schedule,
  UpdateScheduleRequest,
} from '../../shared/contract/schedules.ts';
import { nowMs } from '../clock.ts';
import { dataSpecOf } from '../datasets/spec.ts';
import { type AppEnv, actorOf, scheduler } from '../env.ts';
import { knownModels } from '../fleet/registry.ts';
import { prepareJob } from '../jobs/create.ts';
import { readJson } from '../middleware/body.ts';
import { checkTiming, localTime, nextSlot, nextSlots } from '../schedules/cron.ts';
import { keyed } from '../store/keyed.ts';
import { findScheduleRun, insertManualRun, listRuns, showRun } from '../store/scheduleRuns.ts';
import {
  changeSchedule,
  findSchedule,
  getSchedule,
  insertSchedule,
  listSchedules,
  type ScheduleContent,
  type ScheduleRow,
  showSchedule,
  timingOf,
} from '../store/schedules.ts';
import { listQuery } from './query.ts';

const S = LIMITS.schedules;

/** `POST /v1/schedules`. */
export async function createSchedule(c: Context<AppEnv>): Promise<Response> {
  const asked = await readJson(c, CreateScheduleRequest);
  const content = contentOf(asked, asked.job);
  const atMs = nowMs();
  await check(c, content, true, atMs);
  const tenant = c.get('tenant');
  const find = (id: string) => findSchedule(c.env.DB, id);
  const { id, made } = await keyed('sched_', tenant, c.req.header('idempotency-key'), atMs, find);
  if (made !== null) return c.json(showSchedule(made, atMs));
  const row = await insertSchedule(c.env.DB, actorOf(c), content, {
    id,
    nowMs: atMs,
    nextAtMs: nextSlot(timingOf(content), atMs),
  });
  if (row === null)
    throw new ApiError(
      'invalid_value',
      errorMessage('schedules', {
        expected: `at most ${S.maxPerTenant}`,
        received: S.maxPerTenant + 1,
        remedy: 'Delete one first.',
      }),
      { param: 'name' },
    );
  c.executionCtx.waitUntil(scheduler(c.env).wake());
  return c.json(showSchedule(row, atMs));
}

export async function listAllSchedules(c: Context<AppEnv>): Promise<Response> {
  return c.json(await listSchedules(c.env.DB, c.get('tenant'), listQuery(c), nowMs()));
}

export async function retrieveSchedule(c: Context<AppEnv>): Promise<Response> {
  return c.json(showSchedule(await existingSchedule(c), nowMs()));
}

/** `POST /v1/schedules/{id}`. What is left out stays. */
export async function updateSchedule(c: Context<AppEnv>): Promise<Response> {
  const asked = await readJson(c, UpdateScheduleRequest);
  return await change(c, 'updated', async (row, atMs) => {
    const was = askedOf(row);
    // One of both: who names one means it.
    if (asked.cron !== undefined && asked.at === undefined) delete was.at;
    if (asked.at !== undefined && asked.cron === undefined) delete was.cron;
    const content = contentOf({ ...was, ...asked, name: asked.name ?? was.name }, asked.job ?? was.job);
    const isRetimed = asked.cron !== undefined || asked.at !== undefined || asked.time_zone !== undefined;
    await check(c, content, isRetimed, atMs);
    const isActive = row.status !== 'paused';
    const timing = isRetimed ? { nextAtMs: isActive ? nextSlot(timingOf(content), atMs) : null } : undefined;
    const status = row.status === 'ended' && isRetimed ? 'active' : row.status;
    return { content, status, ...(timing === undefined ? {} : { timing }) };
  });
}

/** `DELETE /v1/schedules/{id}`. A job that it has made goes on; no alias changes any more. */
export async function removeSchedule(c: Context<AppEnv>): Promise<Response> {
  const { id } = await existingSchedule(c);
  await change(c, 'deleted', () => ({ status: 'deleted', timing: { nextAtMs: null } }));
  return c.json({ id, object: 'schedule', deleted: true });
}

/** `POST /v1/schedules/{id}/pause`. Slots that pass until it is resumed have no effect; a run that has begun goes on. */
export async function pauseSchedule(c: Context<AppEnv>): Promise<Response> {
  return await change(c, 'paused', (row) => {
    if (row.status === 'ended') throw overAlready(row, 'paused');
    return row.status === 'paused' ? null : { status: 'paused', timing: { nextAtMs: null } };
  });
}

/** `POST /v1/schedules/{id}/resume`. */
export async function resumeSchedule(c: Context<AppEnv>): Promise<Response> {
  return await change(c, 'resumed', (row, atMs) => {
    if (row.status === 'ended') throw overAlready(row, 'resumed');
    if (row.status === 'active') return null;
    const nextAtMs = nextSlot(timingOf(row), Math.max(atMs, row.decided_until));
    return { status: nextAtMs === null ? 'ended' : 'active', timing: { nextAtMs } };
  });
}

/** `POST /v1/schedules/{id}/run`: now, whatever its condition says; also while it is paused. Its slots are not touched. */
export async function runSchedule(c: Context<AppEnv>): Promise<Response> {
  const schedule = await existingSchedule(c);
  const run = await insertManualRun(c.env.DB, actorOf(c), schedule, nowMs());
  if (run === null)
    throw new ApiError(
      'invalid_state',
      `Schedule ${schedule.id} has a run that has not ended, and its overlap policy is "${schedule.overlap}". GET /v1/schedules/${schedule.id}/runs shows it.`,
      { param: 'id' },
    );
  await scheduler(c.env).wake();
  return c.json(showRun(run));
}

/** `GET /v1/schedules/{id}/runs`, newest first. */
export async function scheduleRuns(c: Context<AppEnv>): Promise<Response> {
  const { id } = await existingSchedule(c);
  return c.json(await listRuns(c.env.DB, id, listQuery(c)));
}

/** `GET /v1/schedules/{id}/runs/{run}`. */
export async function retrieveScheduleRun(c: Context<AppEnv>): Promise<Response> {
  const { id } = await existingSchedule(c);
  const runId = c.req.param('run') ?? '';
  const run = await findScheduleRun(c.env.DB, id, runId);
  if (run === null)
    throw new ApiError(
      'schedule_run_not_found',
      errorMessage('run', { expected: `the id of a run of ${id}`, received: describe(runId) }),
      { param: 'run' },
    );
  return c.json(showRun(run));
}

/** `GET /v1/schedules/{id}/next?count=`: its next slots, also while it is paused, with the local time of its zone. */
export async function nextScheduleRuns(c: Context<AppEnv>): Promise<Response> {
  const row = await existingSchedule(c);
  const text = c.req.query('count');
  const count = text === undefined ? 10 : Number(text);
  if (!Number.isInteger(count) || count < 1 || count > S.maxNextRuns)
    throw ApiError.from([
      violation('invalid_value', 'count', {
        expected: `an integer from 1 to ${S.maxNextRuns}`,
        received: describe(text),
      }),
    ]);
  const slots = nextSlots(timingOf(row), Math.max(row.decided_until, nowMs()), count);
  const body: NextRuns = {
    object: 'schedule.next_runs',
    schedule: row.id,
    time_zone: row.time_zone,
    next_runs: slots.map((at) => ({ at: Math.floor(at / 1000), local: localTime(at, row.time_zone) })),
  };
  return c.json(body);
}

type Asked = Omit<CreateScheduleRequest, 'job'>;

function contentOf(asked: Asked, job: CreateScheduleRequest['job']): ScheduleContent {
  const json = (value: unknown) => (value == null ? null : JSON.stringify(value));
  return {
    name: asked.name,
    cron: asked.cron ?? null,
    time_zone: asked.time_zone ?? 'UTC',
    at: asked.at === undefined ? null : asked.at * 1000,
    job: JSON.stringify(job),
    condition: json(asked.condition),
    overlap: asked.overlap ?? 'skip',
    misfire: asked.misfire ?? 'run_once',
    keep_models: asked.keep_models ?? null,
    alias: asked.alias ?? null,
    starts_from: asked.starts_from ?? 'base',
    gate: json(asked.gate),
    metadata: json(asked.metadata),
  };
}

/** The row as the request that would make it. */
function askedOf(row: ScheduleRow): CreateScheduleRequest {
  const parsed = <T>(json: string | null): T | null => (json === null ? null : (JSON.parse(json) as T));
  return {
    name: row.name,
    ...(row.cron === null ? {} : { cron: row.cron }),
    ...(row.at === null ? {} : { at: Math.floor(row.at / 1000) }),
    time_zone: row.time_zone,
    job: JSON.parse(row.job) as CreateScheduleRequest['job'],
    condition: parsed<Schedule['condition']>(row.condition),
    overlap: row.overlap,
    misfire: row.misfire,
    keep_models: row.keep_models,
    alias: row.alias,
    starts_from: row.starts_from,
    gate: parsed<Schedule['gate']>(row.gate),
    metadata: parsed<Schedule['metadata']>(row.metadata),
  };
}

/** Refuses now what would fail each time: timing, what contradicts itself, and the job as a job would be refused. */
async function check(c: Context<AppEnv>, content: ScheduleContent, isTimed: boolean, atMs: number): Promise<void> {
  const wrong: Violation[] = [];
  if ((content.cron === null) === (content.at === null))
    wrong.push(
      violation(content.cron === null ? 'missing_required_parameter' : 'invalid_value', 'cron', {
        expected: 'either cron or at',
        received: content.cron === null ? 'neither' : 'both',
      }),
    );
  if (content.gate !== null && content.alias === null)
    wrong.push(
      violation('missing_required_parameter', 'alias', {
        expected: 'the alias that the gate promotes to',
        received: 'nothing',
      }),
    );
  if (content.starts_from === 'alias' && content.alias === null)
    wrong.push(
      violation('missing_required_parameter', 'alias', {
        expected: 'the alias whose model each run starts from',
        received: 'nothing',
      }),
    );
  if (content.alias !== null && (await knownModels(c.env)).has(content.alias))
    wrong.push(
      violation('invalid_value', 'alias', {
        expected: 'a name that no served model has',
        received: describe(content.alias),
      }),
    );
  if (wrong.length > 0) throw ApiError.from(wrong);
  if (isTimed) checkTiming(timingOf(content), atMs);
  const gate = content.gate === null ? null : (JSON.parse(content.gate) as NonNullable<Schedule['gate']>);
  if (gate !== null) await dataSpecOf(c.env, c.get('tenant'), gate.held_out_file, 'gate.held_out_file');
  await checkJob(c, JSON.parse(content.job) as CreateScheduleRequest['job']);
}

/** Prepared as it will be, and thrown away. */
async function checkJob(c: Context<AppEnv>, job: CreateScheduleRequest['job']): Promise<void> {
  try {
    await prepareJob(c.env, actorOf(c), job);
  } catch (error) {
    // Who is away now will be back by the time.
    if (!(error instanceof ApiError) || error.code === 'no_backend') {
      if (error instanceof ApiError) return;
      throw error;
    }
    const inJob = (param: string | null | undefined) => (param == null ? 'job' : `job.${param}`);
    throw new ApiError(error.code, error.message, {
      ...error.options,
      param: inJob(error.options.param),
      ...(error.options.details === undefined
        ? {}
        : { details: error.options.details.map((detail) => ({ ...detail, param: inJob(detail.param) })) }),
    });
  }
}

type Change = Parameters<typeof changeSchedule>[3];

const MAX_ROUNDS = 8;

async function change(
  c: Context<AppEnv>,
  action: Change['action'],
  decide: (row: ScheduleRow, atMs: number) => Omit<Change, 'action'> | null | Promise<Omit<Change, 'action'> | null>,
): Promise<Response> {
  for (let round = 0; round < MAX_ROUNDS; round++) {
    const row = await existingSchedule(c);
    const atMs = nowMs();
    const wanted = await decide(row, atMs);
    if (wanted === null) return c.json(showSchedule(row, atMs));
    const written = await changeSchedule(c.env.DB, actorOf(c), row, { action, ...wanted }, atMs);
    if (written === null) continue;
    c.executionCtx.waitUntil(scheduler(c.env).wake());
    return c.json(showSchedule(written, atMs));
  }
  throw new ApiError('overloaded', 'The schedule is being changed by others at the same time. Try again.', {
    retryAfterMs: 1_000,
  });
}

function overAlready(row: ScheduleRow, what: string): ApiError {
  const words = `Schedule ${row.id} cannot be ${what}: no further slot will come. POST /v1/schedules/${row.id} can give it another time.`;
  return new ApiError('invalid_state', words, { param: 'id' });
}

async function existingSchedule(c: Context<AppEnv>): Promise<ScheduleRow> {
  const id = c.req.param('id') ?? '';
  const row = await getSchedule(c.env.DB, c.get('tenant'), id);
  if (row !== null) return row;
  throw new ApiError(
    'schedule_not_found',
    errorMessage('id', {
      expected: 'the id of a schedule',
      received: describe(id),
      remedy: 'GET /v1/schedules lists yours.',
    }),
    { param: 'id' },
  );
}
