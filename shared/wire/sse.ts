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
 */
export async function* decodeSse(stream: ByteStream): AsyncGenerator<SseEvent, void, undefined> {
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
      const { done, value } = await reader.read();
      ended = done;
      parser.feed(value === undefined ? decoder.decode() : decoder.decode(value, { stream: !done }));
      for (let event = queue.shift(); event !== undefined; event = queue.shift()) yield event;
    }
  } finally {
    if (!ended) await reader.cancel().catch(() => {});
    reader.releaseLock();
  }
}
