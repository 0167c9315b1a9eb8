/** Schedules in this process: the real code over the real SQL engine, with jobs that a test ends as it likes. */
import type { Env } from '../../../../edge/env.ts';
import { nextSlot } from '../../../../edge/schedules/cron.ts';
import type { PrepareJob } from '../../../../edge/schedules/start.ts';
import { tickSchedules } from '../../../../edge/schedules/tick.ts';
import { insertJob } from '../../../../edge/store/jobs.ts';
import type { RunRow } from '../../../../edge/store/scheduleRuns.ts';
import { insertSchedule, type ScheduleContent, type ScheduleRow } from '../../../../edge/store/schedules.ts';
import { DEFAULT_TENANT } from '../../../../shared/contract/keys.ts';
import { newId } from '../../../../shared/wire/ids.ts';
import { type MemoryD1, openD1 } from '../../../fixtures/d1.ts';
import { MemoryR2 } from '../../../fixtures/r2.ts';

export const TENANT = DEFAULT_TENANT;
export const ACTOR = { tenant: TENANT, keyId: 'key_test', requestId: null };
const FILE = 'file-training';

export type World = {
  sqlite: MemoryD1;
  env: Env;
  blobs: MemoryR2;
  /** Jobs that were made, in order. */
  jobs: string[];
  prepare: PrepareJob;
  tick(nowMs: number): Promise<void>;
  schedule(content: Partial<ScheduleContent>, nowMs: number): Promise<ScheduleRow>;
  runs(scheduleId: string): RunRow[];
  /** Ends a job; a success leaves a model behind. @returns its name */
  endJob(id: string, status?: 'succeeded' | 'failed' | 'cancelled', nowMs?: number): string;
  /** Gives the training file other content with so many lines. */
  write(lines: number, seed?: string, id?: string): Promise<void>;
};

export async function makeWorld(options: { endsAtOnce?: boolean } = {}): Promise<World> {
  const sqlite = await openD1();
  const blobs = new MemoryR2();
  const env = { DB: sqlite as unknown as Env['DB'], BLOBS: blobs as unknown as Env['BLOBS'] } as Env;
  const jobs: string[] = [];
  const prepare: PrepareJob = async (_env, actor, request, { scheduleId, guard }) => {
    const id = newId('ftjob-');
    jobs.push(id);
    const row = insertJob(
      env.DB,
      {
        id,
        tenant: actor.tenant,
        created_at: 0,
        model: request.model,
        base_model: 'mantis-nano',
        suffix: null,
        seed: 1,
        metadata: null,
        training_file: request.training_file,
        validation_file: null,
        schedule_id: scheduleId,
        hyperparameters: { n_epochs: 1, batch_size: 1, learning_rate_multiplier: 1 },
        mantis: { stage: 'lora' },
        training: [],
        validation: null,
        stages: [],
        validation_task: 'dsval_none',
        revision: crypto.randomUUID(),
      },
      guard,
    );
    const atOnce =
      options.endsAtOnce === true
        ? [env.DB.prepare(`UPDATE jobs SET status = 'succeeded', fine_tuned_model = 'ft:x' WHERE id = ?`).bind(id)]
        : [];
    return { id, statements: [row, ...atOnce] };
  };
  const world: World = {
    sqlite,
    env,
    blobs,
    jobs,
    prepare,
    tick: async (nowMs) => {
      await tickSchedules(env, prepare, nowMs);
    },
    schedule: async (content, nowMs) => {
      const whole: ScheduleContent = {
        name: 'nightly',
        cron: '*/5 * * * *',
        time_zone: 'UTC',
        at: null,
        job: JSON.stringify({ model: 'mantis-nano', training_file: FILE }),
        condition: null,
        overlap: 'skip',
        misfire: 'run_once',
        keep_models: null,
        alias: null,
        starts_from: 'base',
        gate: null,
        metadata: null,
        ...content,
      };
      const timing = whole.cron === null ? { atMs: whole.at ?? 0 } : { cron: whole.cron, timeZone: whole.time_zone };
      const row = await insertSchedule(env.DB, ACTOR, whole, { nowMs, nextAtMs: nextSlot(timing, nowMs) });
      if (row === null) throw new Error('the tenant has as many schedules as it may');
      return row;
    },
    runs: (id) => sqlite.rows<RunRow>('SELECT * FROM schedule_runs WHERE schedule_id = ? ORDER BY seq', id),
    endJob: (id, status = 'succeeded', nowMs = 0) => {
      const model = `ft:mantis-nano:org::${id.slice(-8)}`;
      sqlite.rows(
        'UPDATE jobs SET status = ?, finished_at = ?, fine_tuned_model = ?, error = ? WHERE id = ?',
        status,
        nowMs,
        status === 'succeeded' ? model : null,
        status === 'failed'
          ? JSON.stringify({ code: 'diverged', message: 'The loss is no number.', param: null })
          : null,
        id,
      );
      if (status === 'succeeded')
        sqlite.rows(
          `INSERT OR IGNORE INTO models (id, base, kind, job_id, step, created_at, listed, tenant) VALUES (?, 'mantis-nano', 'lora', ?, 1, ?, 1, ?)`,
          model,
          id,
          nowMs,
          TENANT,
        );
      return model;
    },
    write: async (lines, seed = '', id = FILE) => {
      const text = Array.from({ length: lines }, (_, at) => `${JSON.stringify({ line: at, seed })}\n`).join('');
      const digest = Buffer.from(await crypto.subtle.digest('SHA-256', new TextEncoder().encode(text))).toString('hex');
      await blobs.put(`files/${id}`, text);
      sqlite.rows('DELETE FROM files WHERE id = ?', id);
      sqlite.rows(
        `INSERT INTO files (id, seq, tenant, filename, purpose, mime, bytes, sha256, created_at, object_key)
         VALUES (?, (SELECT COALESCE(MAX(seq), 0) + 1 FROM files), ?, 'train.jsonl', 'fine-tune', 'application/jsonl', ?, ?, 0, ?)`,
        id,
        TENANT,
        text.length,
        digest,
        `files/${id}`,
      );
    },
  };
  await world.write(10);
  return world;
}

/** A small generator, so that a failure can be repeated. Marsaglia's xorshift32. */
export function randomOf(seed: number): () => number {
  let state = seed >>> 0 || 1;
  return () => {
    state ^= state << 13;
    state >>>= 0;
    state ^= state >>> 17;
    state ^= state << 5;
    state >>>= 0;
    return state / 2 ** 32;
  };
}
