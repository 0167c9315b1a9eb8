import { setTimeout as sleep } from 'node:timers/promises';
import { EvalDone, type EvalItemReport, EvalItemsPage } from '../../../shared/contract/evalTask.ts';
import { LIMITS } from '../../../shared/contract/limits.ts';
import { type EdgeClient, EdgeError } from '../edge-client.ts';

const E = LIMITS.evals;
/** The edge may be restarting; its own start takes a few seconds. */
const MAX_ATTEMPTS = 20;

export interface ResultsOptions {
  readonly edge: EdgeClient;
  readonly taskId: string;
  readonly leaseToken: number;
  readonly signal: AbortSignal;
}

/** Brings results to the edge, several at once and a little later: what is there survives this process. */
export class Results {
  readonly #o: ResultsOptions;
  readonly #path: string;
  #waiting: { report: EvalItemReport; bytes: number }[] = [];
  #total: number | null = null;
  #sending: Promise<void> | null = null;
  #failure: unknown = null;
  readonly #timer: NodeJS.Timeout;

  constructor(options: ResultsOptions) {
    this.#o = options;
    this.#path = `/internal/tasks/${encodeURIComponent(options.taskId)}/items`;
    this.#timer = setInterval(() => this.#send(), E.tellEveryMs);
  }

  /** Lines that an earlier process has brought. */
  async done(): Promise<(line: number) => boolean> {
    const { done } = EvalDone.parse(await this.#again(() => this.#o.edge.get(this.#path)));
    const known = new Set<number>();
    for (const [first, last] of done) for (let line = first; line <= last; line++) known.add(line);
    return (line) => known.has(line);
  }

  /** Tells how many lines there are. */
  count(total: number): void {
    this.#total = total;
    this.#send();
  }

  /** @throws what went wrong with earlier ones: nobody works on for nothing */
  add(report: EvalItemReport): void {
    if (this.#failure !== null) throw this.#failure;
    this.#waiting.push({ report, bytes: Buffer.byteLength(JSON.stringify(report)) });
    if (this.#waiting.length >= E.maxResultsPerCall) this.#send();
  }

  /** Waits until all of them are there. */
  async flush(): Promise<void> {
    while (this.#waiting.length > 0 || this.#total !== null || this.#sending !== null) {
      if (this.#failure !== null) throw this.#failure;
      this.#send();
      await this.#sending;
    }
    if (this.#failure !== null) throw this.#failure;
  }

  /** Brings what is there on the way out, where somebody still wants it: a server that goes down loses no answer. */
  async close(): Promise<void> {
    clearInterval(this.#timer);
    await this.#sending;
    const items = this.#waiting.splice(0, E.maxResultsPerCall).map(({ report }) => report);
    if (items.length === 0 || this.#failure !== null) return;
    await this.#o.edge.post(this.#path, { token: this.#o.leaseToken, total: null, items }).catch(() => {});
  }

  /** Everything that is there, in the order of lines. */
  async *all(): AsyncGenerator<EvalItemsPage['items'][number], void, undefined> {
    for (let after = -1; ; ) {
      const { items } = EvalItemsPage.parse(await this.#again(() => this.#o.edge.get(`${this.#path}?after=${after}`)));
      yield* items;
      const last = items.at(-1);
      if (last === undefined) return;
      after = last.line;
    }
  }

  #send(): void {
    if (this.#sending !== null || this.#failure !== null) return;
    if (this.#waiting.length === 0 && this.#total === null) return;
    let bytes = 0;
    let count = 0;
    for (const one of this.#waiting) {
      bytes += one.bytes;
      if (count > 0 && (bytes > E.maxResultBytes || count === E.maxResultsPerCall)) break;
      count++;
    }
    const batch = this.#waiting.splice(0, count);
    const total = this.#total;
    this.#total = null;
    const body = { token: this.#o.leaseToken, total, items: batch.map(({ report }) => report) };
    this.#sending = this.#again(() => this.#o.edge.post(this.#path, body))
      .then(
        () => {},
        (error: unknown) => {
          this.#failure = error;
        },
      )
      .finally(() => {
        this.#sending = null;
      });
  }

  async #again<T>(call: () => Promise<T>): Promise<T> {
    for (let attempt = 1; ; attempt++) {
      this.#o.signal.throwIfAborted();
      try {
        return await call();
      } catch (error) {
        if (error instanceof EdgeError && error.status >= 400 && error.status < 500) throw error;
        if (attempt === MAX_ATTEMPTS) throw error;
        await sleep(Math.min(100 * 2 ** attempt, 2_000), undefined, { signal: this.#o.signal });
      }
    }
  }
}
