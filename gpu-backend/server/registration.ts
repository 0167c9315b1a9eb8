import type { Logger } from 'pino';
import { BackendAck, type BackendReport } from '../../shared/contract/backend.ts';
import { LIMITS } from '../../shared/contract/limits.ts';
import type { EdgeClient } from './edge-client.ts';

/** Until the edge knows a backend, no request can come to it. */
const KNOCK_EVERY_MS = 100;

/**
 * Tells the edge that this backend is here, again and again: the same report registers and keeps alive, so an edge that
 * lost its memory learns everything from the next beat. A beat that fails is repeated after the same interval; it is never fatal.
 */
export class Registration {
  readonly #edge: EdgeClient;
  readonly #report: () => BackendReport;
  readonly #log: Logger;
  readonly #onFailure: () => void;
  #firstAckMs: number | null = null;
  #everyMs: number = LIMITS.backends.heartbeatEveryMs;
  #timer: NodeJS.Timeout | null = null;
  #registered = false;
  #stopped = false;

  constructor(options: {
    readonly edge: EdgeClient;
    readonly report: () => BackendReport;
    readonly log: Logger;
    readonly onFailure: () => void;
  }) {
    this.#edge = options.edge;
    this.#report = options.report;
    this.#log = options.log;
    this.#onFailure = options.onFailure;
  }

  /** The edge's clock when it first heard of this run, Unix ms; null until then. */
  get firstAckMs(): number | null {
    return this.#firstAckMs;
  }

  /** Sends the first report now and the next ones at the edge's pace. */
  start(): void {
    void this.#beat();
  }

  /** One report out of turn, e.g. when draining starts. @returns whether the edge has heard it */
  async beatNow(): Promise<boolean> {
    return await this.#send();
  }

  stop(): void {
    this.#stopped = true;
    if (this.#timer !== null) clearTimeout(this.#timer);
  }

  async #beat(): Promise<void> {
    await this.#send();
    if (this.#stopped) return;
    // Until the edge knows us, requests cannot come: knock faster.
    this.#timer = setTimeout(
      () => void this.#beat(),
      this.#registered ? this.#everyMs : Math.min(this.#everyMs, KNOCK_EVERY_MS),
    );
  }

  async #send(): Promise<boolean> {
    try {
      const path = this.#registered ? '/internal/backends/heartbeat' : '/internal/backends/register';
      const ack = BackendAck.safeParse(await this.#edge.post(path, this.#report()));
      if (ack.success) this.#everyMs = ack.data.heartbeatEveryMs;
      this.#firstAckMs ??= (ack.success ? ack.data.nowMs : undefined) ?? Date.now();
      if (!this.#registered) this.#log.info({ edge: this.#edge.url }, 'registered with the edge');
      this.#registered = true;
      return true;
    } catch (error) {
      if (this.#registered) this.#log.warn({ err: error }, 'the edge did not answer a heartbeat');
      this.#registered = false;
      this.#onFailure();
      return false;
    }
  }
}
