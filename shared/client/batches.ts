import type { Batch, BatchResult, CreateBatchRequest } from '../contract/batches.ts';
import type { List } from '../contract/files.ts';
import type { Http } from './http.ts';

const ENDED: ReadonlySet<Batch['status']> = new Set(['completed', 'failed', 'expired', 'cancelled']);
const POLL_MS = 1_000;

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

  /** Asks once a second until the batch has ended, however it ends. @param call.onChange told every time something has changed */
  async ended(id: string, call: { signal?: AbortSignal; onChange?: (batch: Batch) => void } = {}): Promise<Batch> {
    let last = '';
    for (;;) {
      call.signal?.throwIfAborted();
      const batch = await this.retrieve(id);
      const now = `${batch.status} ${JSON.stringify(batch.request_counts)}`;
      if (now !== last) call.onChange?.(batch);
      last = now;
      if (ENDED.has(batch.status)) return batch;
      await new Promise((resolve) => setTimeout(resolve, POLL_MS));
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
