/** A tenant's events as a stream: replay from `Last-Event-ID`, then live until the client hangs up. */
import { encodeSse, SSE_PING } from '../../shared/wire/sse.ts';
import { eventStream, PING_EVERY_MS, POLL_MS } from '../eventStream.ts';
import { webhookEventPosition, webhookEventsSince } from '../store/webhooks.ts';

const PAGE = 200;

/** `id:` and the data's `id` are the event's, `event:` is its type. Without `lastEventId` it begins with what happens next. */
export async function streamWebhookEvents(
  db: D1Database,
  tenant: string,
  lastEventId: string | null,
  filters: string | null,
): Promise<Response> {
  const from = await webhookEventPosition(db, tenant, lastEventId);
  return eventStream(follow(db, tenant, from, filters));
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
