import type { Batch, BatchResult, CreateBatchRequest } from '../contract/batches.ts';
import type { List } from '../contract/files.ts';
import { decodeSse } from '../wire/sse.ts';
import type { Http } from './http.ts';

const ENDED: ReadonlySet<Batch['status']> = new Set(['completed', 'failed', 'expired', 'cancelled']);

/** Files of requests that are worked off when there is room. */
export class Batches {
  readonly #http: Http;

  constructor(http: Http) {
    this.#http = http;
  }

  create(request: CreateBatchRequest): Promise<Batch> {
    return this.#http.json('/v1/batches', { method: 'POST', json: request });
  }

  list(query: { limit?: number; after?: string } = {}): Promise<List<Batch>> {
    return this.#http.json('/v1/batches', { query });
  }

  retrieve(id: string): Promise<Batch> {
    return this.#http.json(`/v1/batches/${encodeURIComponent(id)}`);
  }

  cancel(id: string): Promise<Batch> {
    return this.#http.json(`/v1/batches/${encodeURIComponent(id)}/cancel`, { method: 'POST' });
  }

  /** Every change until the batch has ended, however it ends; a cut connection is taken up again. */
  async *follow(id: string, call: { signal?: AbortSignal } = {}): AsyncGenerator<Batch, void, undefined> {
    const path = `/v1/batches/${encodeURIComponent(id)}`;
    for (;;) {
      const response = await this.#http.response(path, { accept: 'text/event-stream', ...call });
      try {
        for await (const { data } of decodeSse(response.body ?? new ReadableStream(), call.signal)) {
          const batch = JSON.parse(data) as Batch;
          yield batch;
          if (ENDED.has(batch.status)) return;
        }
      } catch (error) {
        if (call.signal?.aborted || !(error instanceof TypeError)) throw error;
      }
    }
  }

  /** The lines of an output or error file as they come. */
  async *results(fileId: string): AsyncGenerator<BatchResult, void, undefined> {
    const response = await this.#http.response(`/v1/files/${encodeURIComponent(fileId)}/content`);
    const decoder = new TextDecoder();
    let held = '';
    const reader = response.body?.getReader();
    for (;;) {
      const { done, value } = (await reader?.read()) ?? { done: true, value: undefined };
      held += decoder.decode(value, { stream: !done });
      const lines = held.split('\n');
      held = lines.pop() ?? '';
      for (const line of lines) if (line !== '') yield JSON.parse(line) as BatchResult;
      if (done) return;
    }
  }
}
