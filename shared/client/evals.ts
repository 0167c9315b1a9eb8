import type {
  CreateEvalRequest,
  CreateEvalRunRequest,
  DeletedEval,
  DeletedEvalRun,
  Eval,
  EvalItemStatus,
  EvalOutputItem,
  EvalRun,
  EvalRunStatus,
  UpdateEvalRequest,
} from '../contract/evals.ts';
import type { List } from '../contract/files.ts';
import { decodeSse } from '../wire/sse.ts';
import type { Http } from './http.ts';

type Page = { limit?: number; after?: string; order?: 'asc' | 'desc' };

const ENDED: ReadonlySet<EvalRunStatus> = new Set(['completed', 'failed', 'canceled']);

/** What is asked and how it is judged, doing it with a model, and what came of each item. */
export class Evals {
  readonly #http: Http;

  constructor(http: Http) {
    this.#http = http;
  }

  create(request: CreateEvalRequest): Promise<Eval> {
    return this.#http.json('/v1/evals', { method: 'POST', json: request });
  }

  list(query: Page & { order_by?: 'created_at' | 'updated_at' } = {}): Promise<List<Eval>> {
    return this.#http.json('/v1/evals', { query });
  }

  retrieve(id: string): Promise<Eval> {
    return this.#http.json(of(id));
  }

  /** What is left out stays. */
  update(id: string, request: UpdateEvalRequest): Promise<Eval> {
    return this.#http.json(of(id), { method: 'POST', json: request });
  }

  /** With its runs, which stop, and their results. */
  delete(id: string): Promise<DeletedEval> {
    return this.#http.json(of(id), { method: 'DELETE' });
  }

  readonly runs = {
    create: (id: string, request: CreateEvalRunRequest): Promise<EvalRun> =>
      this.#http.json(`${of(id)}/runs`, { method: 'POST', json: request }),
    list: (id: string, query: Page & { status?: EvalRunStatus } = {}): Promise<List<EvalRun>> =>
      this.#http.json(`${of(id)}/runs`, { query }),
    retrieve: (id: string, run: string): Promise<EvalRun> => this.#http.json(of(id, run)),
    /** A new run that begins with the answers of one that has ended: what is missing or has errors is asked again. */
    retry: (id: string, run: string, more: Omit<CreateEvalRunRequest, 'data_source'> = {}): Promise<EvalRun> =>
      this.runs.create(id, { ...more, data_source: { type: 'mantis.retry', run_id: run } }),
    cancel: (id: string, run: string): Promise<EvalRun> => this.#http.json(of(id, run), { method: 'POST' }),
    delete: (id: string, run: string): Promise<DeletedEvalRun> => this.#http.json(of(id, run), { method: 'DELETE' }),

    /** Every change until the run has ended, however it ends; a cut connection is taken up again. */
    follow: (id: string, run: string, call: { signal?: AbortSignal } = {}) => this.#follow(id, run, call),

    /** In the order of the data. */
    items: (id: string, run: string, query: Page & { status?: EvalItemStatus } = {}): Promise<List<EvalOutputItem>> =>
      this.#http.json(`${of(id, run)}/output_items`, { query }),
    /** All of them, page by page. */
    allItems: (id: string, run: string, query: Omit<Page, 'limit'> & { status?: EvalItemStatus } = {}) =>
      this.#allItems(id, run, query),
    item: (id: string, run: string, item: string): Promise<EvalOutputItem> =>
      this.#http.json(`${of(id, run)}/output_items/${encodeURIComponent(item)}`),

    /** The report of a run that has ended with answers: a page for people, or JSON. */
    report: async (id: string, run: string, format: 'html' | 'json' = 'json'): Promise<string> =>
      await (await this.#http.response(`${of(id, run)}/report?format=${format}`)).text(),

    /**
     * What a run does otherwise than another one of yours, answer by answer: paired test, interval, wins and losses.
     * @param options.force compare what they share although they did different things
     */
    compare: async (
      id: string,
      run: string,
      other: string,
      { format = 'json', force = false }: { format?: 'html' | 'json'; force?: boolean } = {},
    ): Promise<string> =>
      await (
        await this.#http.response(
          `${of(id, run)}/report?compare=${encodeURIComponent(other)}&format=${format}&force=${force}`,
        )
      ).text(),
  };

  async *#allItems(
    id: string,
    run: string,
    query: Page & { status?: EvalItemStatus },
  ): AsyncGenerator<EvalOutputItem, void, undefined> {
    for (let after = query.after; ; ) {
      const page = await this.runs.items(id, run, { ...query, limit: 100, ...(after === undefined ? {} : { after }) });
      yield* page.data;
      if (!page.has_more || page.last_id === null) return;
      after = page.last_id;
    }
  }

  async *#follow(id: string, run: string, call: { signal?: AbortSignal }): AsyncGenerator<EvalRun, void, undefined> {
    for (;;) {
      const response = await this.#http.response(of(id, run), { accept: 'text/event-stream', ...call });
      try {
        for await (const { data } of decodeSse(response.body ?? new ReadableStream(), call.signal)) {
          const now = JSON.parse(data) as EvalRun;
          yield now;
          if (ENDED.has(now.status)) return;
        }
      } catch (error) {
        if (call.signal?.aborted || !(error instanceof TypeError)) throw error;
      }
    }
  }
}

const of = (id: string, run?: string): string =>
  `/v1/evals/${encodeURIComponent(id)}${run === undefined ? '' : `/runs/${encodeURIComponent(run)}`}`;
