/** What every stream of server-sent events at the edge shares: the answer's form, and how often the database is looked at. */
import { encodeSse, SSE_PING } from '../shared/wire/sse.ts';

export const POLL_MS = 500;
export const PING_EVERY_MS = 15_000;

/** An answer that pulls blocks of text (`encodeSse`) as fast as its reader takes them; a reader that goes ends the generator. */
export function eventStream(blocks: AsyncGenerator<string, void, undefined>): Response {
  const encoder = new TextEncoder();
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

/**
 * An object as a stream: the whole of it each time that something has changed, the last time when it has ended.
 * @param event name of each event
 * @param again reads the row anew; null once it is deleted, which ends the stream
 */
export function objectStream<Row>(
  event: string,
  first: Row,
  how: { show(row: Row): object; hasEnded(row: Row): boolean; again(): Promise<Row | null> },
): Response {
  return eventStream(changes(event, first, how));
}

async function* changes<Row>(
  event: string,
  first: Row,
  { show, hasEnded, again }: Parameters<typeof objectStream<Row>>[2],
): AsyncGenerator<string, void, undefined> {
  let last = '';
  let quietMs = 0;
  for (let row: Row | null = first; row !== null; row = await again()) {
    const data = JSON.stringify(show(row));
    if (data !== last) {
      yield encodeSse({ event, data });
      quietMs = 0;
    }
    last = data;
    if (hasEnded(row)) return;
    quietMs += POLL_MS;
    if (quietMs >= PING_EVERY_MS) {
      quietMs = 0;
      yield SSE_PING;
    }
    await new Promise((resolve) => setTimeout(resolve, POLL_MS));
  }
}
