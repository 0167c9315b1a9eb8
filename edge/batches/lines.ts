/** The lines of a batch under way: read from the store a little ahead, as many at once as backends take, each settled when its answer is there. */
import type { BatchResult } from '../../shared/contract/batches.ts';
import { ApiError } from '../../shared/contract/errors.ts';
import { LIMITS } from '../../shared/contract/limits.ts';
import { newId } from '../../shared/wire/ids.ts';
import { nowMs as clockMs } from '../clock.ts';
import type { Env } from '../env.ts';
import { ImageMemory } from '../images/memory.ts';
import { newFacts } from '../metrics/facts.ts';
import type { BatchRow } from '../store/batches.ts';
import { readLine } from './check.ts';
import { executeLine } from './execute.ts';
import type { Ledger, LedgerLine, Settled } from './ledger.ts';
import { Window } from './window.ts';

const B = LIMITS.batches;
/** Bytes read from the store in one call, and how many lines at most: the next call is made when these have been begun. */
const READ_BYTES = 1_048_576;
const READ_LINES = 1_000;
/** Pause after the server failed at a line, times the square of how often. */
const FAILED_PAUSE_MS = 2_000;
const OVERLOADED: ReadonlySet<number> = new Set([429, 503]);

type Ready = { line: LedgerLine; bytes: Uint8Array };

export type LinesOptions = {
  /** Gives up what is under way. */
  stop: AbortController;
  /** Nothing is begun from then on, Unix ms. */
  untilMs: number;
  waitUntil: (work: Promise<unknown>) => void;
  onSettled: (as: Settled) => void;
};

export class Lines {
  readonly #window = new Window();
  readonly #pictures = new ImageMemory(B.maxPictureBytes);
  readonly #ready: Ready[] = [];
  /** Lines to be tried again, and not before when, Unix ms. */
  readonly #again: (Ready & { atMs: number })[] = [];
  /** Number of the last line that was read. */
  #read = 0;
  #isRead = false;
  #running = 0;
  #runningBytes = 0;
  /** Ends the pause of the loop: a line has ended. */
  #signal: () => void = () => {};

  constructor(
    readonly env: Env,
    readonly batch: BatchRow,
    readonly inputKey: string,
    readonly ledger: Ledger,
    readonly options: LinesOptions,
  ) {}

  /** Works until all lines are settled, the time is over or it is stopped; what is under way then comes to its end. @returns whether all are settled */
  async run(): Promise<boolean> {
    const { stop, untilMs } = this.options;
    stop.signal.addEventListener('abort', () => this.#signal());
    for (;;) {
      const nowMs = clockMs();
      const mayBegin = nowMs < untilMs && !stop.signal.aborted;
      if (mayBegin && this.#ready.length === 0 && !this.#isRead) await this.#readAhead();
      if (mayBegin) while (this.#begin(nowMs)) {}
      if (this.#running === 0 && !mayBegin) return false;
      if (this.#running === 0 && this.#isRead && this.#ready.length === 0 && this.#again.length === 0) return true;
      await this.#change(mayBegin ? this.#nextMs(nowMs) : null);
    }
  }

  /** Begins one line, if there is one and room for it. */
  #begin(nowMs: number): boolean {
    if (!this.#window.admits(this.#running, nowMs)) return false;
    const due = this.#again.findIndex(({ atMs }) => atMs <= nowMs);
    const next: Ready | undefined = due >= 0 ? this.#again[due] : this.#ready[0];
    if (next === undefined) return false;
    if (this.#running > 0 && this.#runningBytes + next.bytes.byteLength > B.maxBytesInFlight) return false;
    if (due >= 0) this.#again.splice(due, 1);
    else this.#ready.shift();
    this.#running++;
    this.#runningBytes += next.bytes.byteLength;
    void this.#work({ line: next.line, bytes: next.bytes }).finally(() => {
      this.#running--;
      this.#runningBytes -= next.bytes.byteLength;
      this.#signal();
    });
    return true;
  }

  /** Time until something may begin although no line ends; null: there is no such time. */
  #nextMs(nowMs: number): number | null {
    const times = [this.options.untilMs, ...this.#again.map(({ atMs }) => atMs)];
    if (this.#window.notBeforeMs > nowMs) times.push(this.#window.notBeforeMs);
    const later = times.filter((atMs) => atMs > nowMs);
    return later.length === 0 ? null : Math.min(...later) - nowMs;
  }

  async #change(afterMs: number | null): Promise<void> {
    await new Promise<void>((resolve) => {
      const timer = afterMs === null ? null : setTimeout(resolve, afterMs);
      this.#signal = () => {
        clearTimeout(timer);
        resolve();
      };
    });
    this.#signal = () => {};
  }

  /** The next open lines, neighbours in one range. */
  async #readAhead(): Promise<void> {
    const lines = this.ledger.open(this.#read, READ_LINES);
    const [first] = lines;
    if (first === undefined) {
      this.#isRead = true;
      return;
    }
    const some = lines.filter(({ at, bytes }, i) => i === 0 || at + bytes - first.at <= READ_BYTES);
    const last = some.at(-1) ?? first;
    const length = last.at + last.bytes - first.at;
    const object = await this.env.BLOBS.get(this.inputKey, { range: { offset: first.at, length } });
    if (object === null) throw new Error(`batch ${this.batch.id}: the bytes of its input are gone`);
    const bytes = new Uint8Array(await object.arrayBuffer());
    if (bytes.byteLength !== length)
      throw new Error(`batch ${this.batch.id}: asked for ${length} bytes, got ${bytes.byteLength}`);
    for (const line of some) {
      const from = line.at - first.at;
      this.#ready.push({ line, bytes: bytes.subarray(from, from + line.bytes) });
    }
    this.#read = last.number;
  }

  /** Does a line, and settles it or puts it back; never throws. */
  async #work(ready: Ready): Promise<void> {
    const { line } = ready;
    const facts = newFacts();
    const requestId = newId('req_');
    const abort = new AbortController();
    const giveUp = () => abort.abort();
    this.options.stop.signal.addEventListener('abort', giveUp);
    try {
      const read = readLine(ready.bytes);
      if ('problem' in read) throw ApiError.from([read.problem]);
      const { body } = read.json as { body: unknown };
      const { id, tenant, key_id: keyId, endpoint, model } = this.batch;
      const bytes = ready.bytes.byteLength;
      const context = { tenant, keyId, requestId, batch: { id, line: line.number }, bytes, memory: this.#pictures };
      const { waitUntil } = this.options;
      const run = { abort, waitUntil, priority: 'batch' as const, facts };
      // All lines name the same model; where that is an alias, all of them get what it stood for at the beginning.
      const asked = model === null ? body : { ...(body as object), model };
      const answer = await executeLine(this.env, context, endpoint, asked, run);
      this.#window.answered(facts.queueMs ?? 0);
      this.#settle(line, 'output', requestId, 200, answer);
    } catch (error) {
      if (this.options.stop.signal.aborted) return;
      this.#failed(ready, requestId, error, facts.backend !== null);
    } finally {
      this.options.stop.signal.removeEventListener('abort', giveUp);
    }
  }

  /** @param isReached whether a backend had taken the line */
  #failed(ready: Ready, requestId: string, error: unknown, isReached: boolean): void {
    const nowMs = clockMs();
    if (!(error instanceof ApiError))
      console.error(
        JSON.stringify({
          level: 'error',
          event: 'batch_line',
          batch: this.batch.id,
          line: ready.line.number,
          request_id: requestId,
          error: error instanceof Error ? error.stack : String(error),
        }),
      );
    const shown =
      error instanceof ApiError
        ? error
        : new ApiError('server_error', `The server failed to answer. Request id: ${requestId}.`);
    if (OVERLOADED.has(shown.status) || (shown.code === 'deadline_exceeded' && !isReached)) {
      // Our want of room is no fault of the line: it waits as long as the batch lasts.
      const atMs = this.#window.refused(this.#running - 1, shown.options.retryAfterMs ?? null, nowMs);
      this.#again.push({ ...ready, atMs });
      return;
    }
    if (shown.status >= 500) {
      const attempts = this.ledger.failed(ready.line.number);
      if (attempts < B.maxAttempts) {
        this.#again.push({ ...ready, atMs: nowMs + FAILED_PAUSE_MS * attempts ** 2 });
        return;
      }
    }
    this.#settle(ready.line, 'error', requestId, shown.status, shown.envelope());
  }

  #settle(line: LedgerLine, as: Settled, requestId: string, status: number, body: unknown): void {
    const result: BatchResult = {
      id: newId('batch_req_'),
      custom_id: line.custom_id,
      response: { status_code: status, request_id: requestId, body },
      error: null,
    };
    if (this.ledger.settle(line.number, as, JSON.stringify(result))) this.options.onSettled(as);
  }
}
