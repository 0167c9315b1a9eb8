import { encodeSse, SSE_PING } from '../../shared/wire/sse.ts';
import { type BatchRow, getBatch, showBatch } from '../store/batches.ts';

const POLL_MS = 500;
const PING_EVERY_MS = 15_000;
const ENDED: ReadonlySet<BatchRow['status']> = new Set(['completed', 'failed', 'expired', 'cancelled']);

/** A batch as server-sent events: the whole object each time that something has changed (`event: batch`), the last time when it has ended. */
export function streamBatch(db: D1Database, batch: BatchRow): Response {
  const encoder = new TextEncoder();
  const blocks = follow(db, batch);
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

async function* follow(db: D1Database, first: BatchRow): AsyncGenerator<string, void, undefined> {
  let last = '';
  let quietMs = 0;
  for (let row: BatchRow | null = first; row !== null; row = await getBatch(db, first.tenant, first.id)) {
    const data = JSON.stringify(showBatch(row));
    if (data !== last) {
      yield encodeSse({ event: 'batch', data });
      quietMs = 0;
    }
    last = data;
    if (ENDED.has(row.status)) return;
    quietMs += POLL_MS;
    if (quietMs >= PING_EVERY_MS) {
      quietMs = 0;
      yield SSE_PING;
    }
    await new Promise((resolve) => setTimeout(resolve, POLL_MS));
  }
}
