import { createParser } from 'eventsource-parser';

/** Last block of an OpenAI stream. */
export const SSE_DONE = 'data: [DONE]\n\n';
/** A comment; keeps proxies from closing a quiet stream. */
export const SSE_PING = ': ping\n\n';

export type SseEvent = { id?: string; event?: string; data: string };

/** One event block. `data` may hold newlines; they become several `data:` lines, as the specification wants. */
export function encodeSse(event: { data: string; id?: string; event?: string; retryMs?: number }): string {
  let block = '';
  if (event.id !== undefined) block += `id: ${event.id}\n`;
  if (event.event !== undefined) block += `event: ${event.event}\n`;
  if (event.retryMs !== undefined) block += `retry: ${event.retryMs}\n`;
  for (const line of event.data.split(/\r\n|\r|\n/)) block += `data: ${line}\n`;
  return `${block}\n`;
}

/** `data: <json>` block. */
export function encodeSseJson(value: unknown): string {
  return `data: ${JSON.stringify(value)}\n\n`;
}

/** The byte stream's shape that is read here: what `fetch` gives in workerd, Node and browsers alike. */
export type ByteStream = {
  getReader(): {
    read(): Promise<{ done: boolean; value?: Uint8Array | undefined }>;
    cancel(reason?: unknown): Promise<void>;
    releaseLock(): void;
  };
};

/**
 * Events of a byte stream, in order. UTF-8 split over chunks, CRLF and comments are handled. Leaving the loop early cancels the stream, which closes
 * the connection.
 * @param signal of the request that gave the stream. Node's `fetch` leaves a read without an end about once in 300 aborts: with the signal given, reading ends whatever it does
 * @throws the signal's reason
 */
export async function* decodeSse(
  stream: ByteStream,
  signal?: AbortSignal | undefined,
): AsyncGenerator<SseEvent, void, undefined> {
  const queue: SseEvent[] = [];
  const parser = createParser({
    onEvent: ({ id, event, data }) =>
      queue.push({ data, ...(id === undefined ? {} : { id }), ...(event === undefined ? {} : { event }) }),
  });
  const decoder = new TextDecoder();
  const reader = stream.getReader();
  let ended = false;
  try {
    while (!ended) {
      const { done, value } = await (signal === undefined ? reader.read() : endingWith(signal, reader.read()));
      ended = done;
      parser.feed(value === undefined ? decoder.decode() : decoder.decode(value, { stream: !done }));
      for (let event = queue.shift(); event !== undefined; event = queue.shift()) yield event;
    }
  } finally {
    if (!ended) {
      const cancelled = reader.cancel().catch(() => {});
      if (signal?.aborted !== true) await cancelled;
    }
    reader.releaseLock();
  }
}

/** What comes, unless the signal aborts before. Its listener goes with each piece: a stream may run for days. */
function endingWith<T>(signal: AbortSignal, coming: Promise<T>): Promise<T> {
  return new Promise<T>((resolve, reject) => {
    const stop = () => reject(signal.reason);
    if (signal.aborted) stop();
    else signal.addEventListener('abort', stop, { once: true });
    coming.then(resolve, reject).finally(() => signal.removeEventListener('abort', stop));
  });
}
