import type { JobEvent } from '../../shared/contract/jobs.ts';
import { newId } from '../../shared/wire/ids.ts';
import { page } from './sequence.ts';

export type EventRow = {
  seq: number;
  id: string;
  job_id: string;
  key: string;
  created_at: number;
  level: JobEvent['level'];
  message: string;
  type: JobEvent['type'];
  data: string | null;
};

export type NewEvent = {
  jobId: string;
  /** The same key of a job is stored once. */
  key: string;
  createdAtMs: number;
  level: JobEvent['level'];
  message: string;
  type: JobEvent['type'];
  data: Record<string, unknown> | null;
};

/** @param revision if given, the row is written only where the job has this revision now. */
export function insertEvent(db: D1Database, event: NewEvent, revision?: string): D1PreparedStatement {
  const columns = '(id, job_id, key, created_at, level, message, type, data)';
  const values = [
    newId('ftevent-'),
    event.jobId,
    event.key,
    event.createdAtMs,
    event.level,
    event.message,
    event.type,
    event.data === null ? null : JSON.stringify(event.data),
  ];
  if (revision === undefined) {
    return db.prepare(`INSERT OR IGNORE INTO job_events ${columns} VALUES (?, ?, ?, ?, ?, ?, ?, ?)`).bind(...values);
  }
  return db
    .prepare(
      `INSERT OR IGNORE INTO job_events ${columns} SELECT ?, ?, ?, ?, ?, ?, ?, ? FROM jobs WHERE id = ? AND revision = ?`,
    )
    .bind(...values, event.jobId, revision);
}

/** Newest first, as OpenAI lists them. */
export async function listEvents(db: D1Database, jobId: string, query: { limit: number; after: string | null }) {
  const { results } = await db
    .prepare(
      `SELECT * FROM job_events WHERE job_id = ?1 AND (?2 IS NULL OR seq < (SELECT seq FROM job_events WHERE id = ?2))
       ORDER BY seq DESC LIMIT ?3`,
    )
    .bind(jobId, query.after, query.limit + 1)
    .all<EventRow>();
  return page(results, query.limit, showEvent);
}

/** Oldest first, from after `seq`: for streams. */
export async function eventsSince(db: D1Database, jobId: string, seq: number, limit: number): Promise<EventRow[]> {
  const { results } = await db
    .prepare('SELECT * FROM job_events WHERE job_id = ? AND seq > ? ORDER BY seq LIMIT ?')
    .bind(jobId, seq, limit)
    .all<EventRow>();
  return results;
}

/** The newest so many, oldest first: what a job's pace is read from. */
export async function recentEvents(db: D1Database, jobId: string, limit: number) {
  const { results } = await db
    .prepare('SELECT key, created_at, data FROM job_events WHERE job_id = ? ORDER BY seq DESC LIMIT ?')
    .bind(jobId, limit)
    .all<Pick<EventRow, 'key' | 'created_at' | 'data'>>();
  return results.reverse().map(({ key, created_at, data }) => ({
    key,
    createdAt: created_at,
    data: data === null ? null : (JSON.parse(data) as Record<string, unknown>),
  }));
}

export function showEvent(row: EventRow): JobEvent {
  return {
    id: row.id,
    object: 'fine_tuning.job.event',
    created_at: Math.floor(row.created_at / 1000),
    level: row.level,
    message: row.message,
    type: row.type,
    data: row.data === null ? null : (JSON.parse(row.data) as Record<string, unknown>),
  };
}
