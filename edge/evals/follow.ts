import type { EvalRun } from '../../shared/contract/evals.ts';
import { encodeSse, SSE_PING } from '../../shared/wire/sse.ts';
import { findRun, type WholeRun } from '../store/evalRuns.ts';

const POLL_MS = 500;
const PING_EVERY_MS = 15_000;
const ENDED: ReadonlySet<WholeRun['status']> = new Set(['succeeded', 'failed', 'cancelled']);

/** A run as server-sent events: the whole object each time that something has changed (`event: eval.run`), the last time when it has ended. */
export function streamRun(db: D1Database, run: WholeRun, show: (row: WholeRun) => EvalRun): Response {
  const encoder = new TextEncoder();
  const blocks = follow(db, run, show);
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

async function* follow(
  db: D1Database,
  first: WholeRun,
  show: (row: WholeRun) => EvalRun,
): AsyncGenerator<string, void, undefined> {
  let last = '';
  let quietMs = 0;
  for (let row: WholeRun | null = first; row !== null; row = await findRun(db, first.id)) {
    const data = JSON.stringify(show(row));
    if (data !== last) {
      yield encodeSse({ event: 'eval.run', data });
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
