/** Being called back: endpoints, what was sent to them, and the events themselves. */
import type { Deleted, List } from '../contract/files.ts';
import type {
  CreateWebhookEndpointRequest,
  RedeliverWebhooksRequest,
  UpdateWebhookEndpointRequest,
  WebhookDelivery,
  WebhookDeliveryStatus,
  WebhookEndpoint,
  WebhookEvent,
  WebhookEventFilter,
  WebhookEventType,
  WebhookRedelivery,
  WebhookTest,
} from '../contract/webhooks.ts';
import { decodeSse } from '../wire/sse.ts';
import type { Http } from './http.ts';

type Page = { limit?: number; after?: string };
/** `secret` is in this answer only. */
export type NewWebhookEndpoint = WebhookEndpoint & { secret: string };

export class WebhookEndpoints {
  readonly #http: Http;

  constructor(http: Http) {
    this.#http = http;
  }

  /** @param events types and patterns such as `fine_tuning.job.*`; left out: all */
  create(url: string, events?: WebhookEventFilter[], description?: string): Promise<NewWebhookEndpoint> {
    const json: CreateWebhookEndpointRequest = {
      url,
      ...(events === undefined ? {} : { events }),
      ...(description === undefined ? {} : { description }),
    };
    return this.#http.json('/v1/webhook_endpoints', { method: 'POST', json });
  }

  list(query: Page = {}): Promise<List<WebhookEndpoint>> {
    return this.#http.json('/v1/webhook_endpoints', { query });
  }

  retrieve(id: string): Promise<WebhookEndpoint> {
    return this.#http.json(path(id));
  }

  update(id: string, request: UpdateWebhookEndpointRequest): Promise<WebhookEndpoint> {
    return this.#http.json(path(id), { method: 'POST', json: request });
  }

  delete(id: string): Promise<Deleted> {
    return this.#http.json(path(id), { method: 'DELETE' });
  }

  /** The old secret signs beside the new one for `overlapS` more (24 h if left out). */
  rotateSecret(id: string, overlapS?: number): Promise<NewWebhookEndpoint> {
    const json = overlapS === undefined ? {} : { overlap_s: overlapS };
    return this.#http.json(`${path(id)}/rotate_secret`, { method: 'POST', json });
  }

  /** One call, and what the receiver said. */
  test(id: string): Promise<WebhookTest> {
    return this.#http.json(`${path(id)}/test`, { method: 'POST' });
  }

  /** Sends the events of a time range again, or for the first time. */
  redeliver(id: string, request: RedeliverWebhooksRequest): Promise<WebhookRedelivery> {
    return this.#http.json(`${path(id)}/redeliver`, { method: 'POST', json: request });
  }
}

export class WebhookDeliveries {
  readonly #http: Http;

  constructor(http: Http) {
    this.#http = http;
  }

  /** Newest first; `status: 'failed'` are the dead letters. */
  list(
    query: Page & {
      endpoint_id?: string;
      event_id?: string;
      status?: WebhookDeliveryStatus;
      type?: WebhookEventType;
    } = {},
  ): Promise<List<WebhookDelivery>> {
    return this.#http.json('/v1/webhook_deliveries', { query });
  }

  /** With the log of its attempts. */
  retrieve(id: string): Promise<WebhookDelivery> {
    return this.#http.json(`/v1/webhook_deliveries/${encodeURIComponent(id)}`);
  }

  redeliver(id: string): Promise<WebhookDelivery> {
    return this.#http.json(`/v1/webhook_deliveries/${encodeURIComponent(id)}/redeliver`, { method: 'POST' });
  }
}

export class WebhookEvents {
  readonly #http: Http;

  constructor(http: Http) {
    this.#http = http;
  }

  list(query: Page & { events?: WebhookEventFilter[]; object_id?: string } = {}): Promise<List<WebhookEvent>> {
    const { events, ...rest } = query;
    return this.#http.json('/v1/webhook_events', { query: { ...rest, events: events?.join(',') } });
  }

  retrieve(id: string): Promise<WebhookEvent> {
    return this.#http.json(`/v1/webhook_events/${encodeURIComponent(id)}`);
  }

  /**
   * What happens from now on, or after the event `lastEventId`; a cut connection is taken up where it broke.
   * @param options.onOpen is called whenever the stream stands: what happens from then on is told
   */
  async *follow(
    options: { events?: WebhookEventFilter[]; lastEventId?: string; signal?: AbortSignal; onOpen?: () => void } = {},
  ): AsyncGenerator<WebhookEvent, void, undefined> {
    const { events, signal, onOpen } = options;
    let { lastEventId } = options;
    for (;;) {
      const response = await this.#http.response('/v1/webhook_events', {
        accept: 'text/event-stream',
        query: { events: events?.join(',') },
        ...(lastEventId === undefined ? {} : { headers: { 'last-event-id': lastEventId } }),
        ...(signal === undefined ? {} : { signal }),
      });
      onOpen?.();
      try {
        for await (const { id, data } of decodeSse(response.body ?? new ReadableStream(), signal)) {
          if (id !== undefined) lastEventId = id;
          yield JSON.parse(data) as WebhookEvent;
        }
      } catch (error) {
        // The connection broke; the next request says where we were. Its own failure is the caller's.
        if (signal?.aborted || !(error instanceof TypeError)) throw error;
      }
    }
  }
}

function path(id: string): string {
  return `/v1/webhook_endpoints/${encodeURIComponent(id)}`;
}
