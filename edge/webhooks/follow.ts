/** A tenant's events as a stream: replay from `Last-Event-ID`, then live until the client hangs up. */
import { encodeSse, SSE_PING } from '../../shared/wire/sse.ts';
import { webhookEventPosition, webhookEventsSince } from '../store/webhooks.ts';

const POLL_MS = 500;
const PING_EVERY_MS = 15_000;
const PAGE = 200;

/** `id:` and the data's `id` are the event's, `event:` is its type. Without `lastEventId` it begins with what happens next. */
export async function streamWebhookEvents(
  db: D1Database,
  tenant: string,
  lastEventId: string | null,
  filters: string | null,
): Promise<Response> {
  const encoder = new TextEncoder();
  const from = await webhookEventPosition(db, tenant, lastEventId);
  const blocks = follow(db, tenant, from, filters);
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
  tenant: string,
  from: number,
  filters: string | null,
): AsyncGenerator<string, void, undefined> {
  let seq = from;
  // At once, so that the client knows that it is being told from now on.
  let quietMs = PING_EVERY_MS;
  for (;;) {
    const rows = await webhookEventsSince(db, tenant, seq, filters, PAGE);
    for (const row of rows) {
      seq = row.seq;
      yield encodeSse({ id: row.id, event: row.type, data: row.body });
    }
    if (rows.length === PAGE) continue;
    if (rows.length > 0) quietMs = 0;
    if (quietMs >= PING_EVERY_MS) {
      quietMs = 0;
      yield SSE_PING;
    }
    await new Promise((resolve) => setTimeout(resolve, POLL_MS));
    quietMs += POLL_MS;
  }
}
