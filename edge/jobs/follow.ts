/** A job's events as a stream: replay from `Last-Event-ID`, then live until the job has ended. */
import { encodeSse, SSE_PING } from '../../shared/wire/sse.ts';
import { eventsSince, showEvent } from '../store/events.ts';
import { findJob } from '../store/jobs.ts';
import { TERMINAL } from './state.ts';

const POLL_MS = 500;
const PING_EVERY_MS = 15_000;
const PAGE = 200;

/** `id:` is the event's position, `event:` its type; the last block is `event: end` with the job's status. */
export function streamEvents(db: D1Database, jobId: string, lastEventId: string | null): Response {
  const encoder = new TextEncoder();
  const blocks = follow(db, jobId, /^\d{1,15}$/.test(lastEventId ?? '') ? Number(lastEventId) : 0);
  const body = new ReadableStream<Uint8Array>({
    async pull(controller) {
      const { done, value } = await blocks.next();
      if (done) controller.close();
      else controller.enqueue(encoder.encode(value));
    },
    async cancel() {
      await blocks.return();
    },
  });
  return new Response(body, {
    headers: { 'content-type': 'text/event-stream; charset=utf-8', 'cache-control': 'no-cache' },
  });
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
