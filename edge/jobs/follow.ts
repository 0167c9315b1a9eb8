/** A job's events as a stream: replay from `Last-Event-ID`, then live until the job has ended. */
import { encodeSse, SSE_PING } from '../../shared/wire/sse.ts';
import { eventStream, PING_EVERY_MS, POLL_MS } from '../eventStream.ts';
import { eventsSince, showEvent } from '../store/events.ts';
import { findJob } from '../store/jobs.ts';
import { TERMINAL } from './state.ts';

const PAGE = 200;

/** `id:` is the event's position, `event:` its type; the last block is `event: end` with the job's status. */
export function streamEvents(db: D1Database, jobId: string, lastEventId: string | null): Response {
  return eventStream(follow(db, jobId, /^\d{1,15}$/.test(lastEventId ?? '') ? Number(lastEventId) : 0));
}

async function* follow(db: D1Database, jobId: string, from: number): AsyncGenerator<string, void, undefined> {
  let seq = from;
  let quietMs = 0;
  for (;;) {
    // The status is read first: events written before it changed are then all seen.
    const job = await findJob(db, jobId);
    const rows = await eventsSince(db, jobId, seq, PAGE);
    for (const row of rows) {
      seq = row.seq;
      yield encodeSse({ id: String(row.seq), event: row.type, data: JSON.stringify(showEvent(row)) });
    }
    if (rows.length === PAGE) continue;
    if (job === null || TERMINAL.has(job.status)) {
      yield encodeSse({
        event: 'end',
        data: JSON.stringify({
          id: jobId,
          status: job?.status ?? 'cancelled',
          fine_tuned_model: job?.fine_tuned_model ?? null,
        }),
      });
      return;
    }
    quietMs = rows.length > 0 ? 0 : quietMs + POLL_MS;
    if (quietMs >= PING_EVERY_MS) {
      quietMs = 0;
      yield SSE_PING;
    }
    await new Promise((resolve) => setTimeout(resolve, POLL_MS));
  }
}
