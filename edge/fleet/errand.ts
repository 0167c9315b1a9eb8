/** One request on its way to a backend: a place is asked for, the call made, and another attempt where that is safe and the fleet's budget has room. */
import type { GenerateRequest, Priority } from '../../shared/contract/backend.ts';
import { ApiError } from '../../shared/contract/errors.ts';
import { BlobsMissing } from '../../shared/contract/images.ts';
import { LIMITS } from '../../shared/contract/limits.ts';
import { FRAME_TYPE } from '../../shared/wire/frame.ts';
import { randomText } from '../../shared/wire/ids.ts';
import { type Env, fleet } from '../env.ts';
import { type Blob, encodeFor, forgetMissing, remember } from '../images/transfer.ts';
import type { RequestFacts } from '../metrics/facts.ts';
import { metrics } from '../metrics/metrics.ts';
import { callBackend } from './call.ts';
import type { Ask, Decision, Grant, Outcome } from './dispatcher.ts';
import { clientLeft, deadlinePassed, refusalOf, refused } from './failure.ts';
import { throttle } from './throttle.ts';

const SILENCE_SLACK_MS = 5_000;

export type ErrandOptions = {
  /** Route of the backend. */
  path: '/v1/generate' | '/v1/score';
  /** Base model. */
  base: string;
  /** Decoder positions it will take about. */
  cost: number;
  priority: Priority;
  /** Ends it: the client has left. */
  abort: AbortController;
  /** Keeps this invocation alive until the place is given back. */
  waitUntil: (work: Promise<unknown>) => void;
  facts: RequestFacts;
  /** An answer that had begun has broken and is sought elsewhere. */
  onBreak?: (() => void) | undefined;
};

/** A backend at work on the request. */
export type Reached = {
  backend: string;
  response: Response;
  /** To be called when the first event is there: until then a silent backend is given up, from then on only after the deadline. */
  onFirstEvent(): void;
  /** Gives the place back; once. */
  release(outcome: Outcome): void;
};

type Attempt = {
  backend: string;
  reached: Promise<Reached>;
  /** Somebody else was quicker. */
  cancel(): void;
};

/** Thrown where the backend, not the request, is at fault: another one may do better. */
export class BackendFault extends Error {
  constructor(
    readonly backend: string,
    readonly outcome: Extract<Outcome, 'unreachable' | 'failed' | 'refused'>,
    readonly shown: ApiError,
  ) {
    super(shown.message);
  }
}

export class Errand {
  readonly #deadlineAtMs: number;
  readonly #exclude: string[] = [];
  #attempts = 0;
  #last: ApiError | null = null;

  constructor(
    readonly env: Env,
    readonly request: GenerateRequest,
    /** Emptied when no further attempt can need them: a stream may go on for minutes. */
    public blobs: readonly Blob[],
    readonly options: ErrandOptions,
  ) {
    this.#deadlineAtMs = Date.now() + request.deadlineMs;
  }

  /** @throws ApiError where no backend takes it: the last one's failure, or why the fleet refuses */
  async reach(): Promise<Reached> {
    const hedgeMs = Number(this.env.HEDGE_MS || Number.NaN);
    for (;;) {
      const attempt = this.#start(await this.#acquire(this.options.abort.signal));
      try {
        return await (hedgeMs > 0 ? this.#hedged(attempt, hedgeMs) : attempt.reached);
      } catch (error) {
        if (!(error instanceof BackendFault)) throw error;
        this.giveUp(error.backend, error.shown);
      }
    }
  }

  /**
   * A second backend is asked where the first has said nothing for so long; whoever answers first is taken and the other one let go (Dean and Barroso,
   * The Tail at Scale, 2013). It is a retry to the fleet, so its budget bounds what it costs.
   */
  async #hedged(first: Attempt, hedgeMs: number): Promise<Reached> {
    const early = await Promise.race([
      first.reached,
      new Promise<null>((resolve) => setTimeout(resolve, hedgeMs, null)),
    ]);
    if (early !== null) return early;
    this.#exclude.push(first.backend);
    const settled = new AbortController();
    const second = this.#acquire(AbortSignal.any([settled.signal, this.options.abort.signal])).then((grant) =>
      this.#start(grant),
    );
    const both = [first.reached, second.then(({ reached }) => reached)];
    try {
      const winner = await Promise.any(both);
      // The fleet lets nobody wait for what is not needed any more, and a backend that is too late stops.
      settled.abort();
      if (winner.backend !== first.backend) first.cancel();
      else
        second.then(
          ({ cancel }) => cancel(),
          () => {},
        );
      return winner;
    } catch {
      return await first.reached;
    }
  }

  #start(grant: Grant): Attempt {
    this.#attempts++;
    this.options.facts.attempts = this.#attempts;
    if (this.#attempts > 1) metrics.upstreamRetries.inc(1);
    const backend = grant.backend.id;
    const done = this.#keepAlive();
    const sentAtMs = Date.now();
    let firstEventMs: number | undefined;
    let released = false;
    const release = (outcome: Outcome) => {
      if (released) return;
      released = true;
      clearTimeout(timeout);
      metrics.upstreamAttempts.inc(1, outcome);
      fleet(this.env).release(grant.id, outcome, firstEventMs).then(done, done);
    };
    const silent = new AbortController();
    const left = new AbortController();
    let timeout = setTimeout(() => silent.abort(), Math.min(grant.firstEventMs, this.#deadlineAtMs - sentAtMs + 1));
    const onFirstEvent = () => {
      if (firstEventMs !== undefined) return;
      firstEventMs = Date.now() - sentAtMs;
      clearTimeout(timeout);
      // The backend keeps the deadline; this is for one that has stopped answering at all.
      timeout = setTimeout(() => silent.abort(), this.#deadlineAtMs + SILENCE_SLACK_MS - Date.now());
    };
    const signal = AbortSignal.any([this.options.abort.signal, silent.signal, left.signal]);
    const reached = this.#call(grant, signal, silent.signal).then(
      (response): Reached => {
        this.options.facts.backend = backend;
        return { backend, response, onFirstEvent, release };
      },
      (error: unknown) => {
        const isFault = error instanceof BackendFault && !left.signal.aborted;
        release(isFault ? error.outcome : 'aborted');
        throw error;
      },
    );
    const cancel = () => {
      left.abort();
      release('aborted');
      reached.catch(() => {});
    };
    return { backend, reached, cancel };
  }

  /** Whether an attempt that failed may be followed by another. */
  get mayTryAgain(): boolean {
    return (
      this.#attempts < LIMITS.fleet.maxAttempts && !this.options.abort.signal.aborted && Date.now() < this.#deadlineAtMs
    );
  }

  /** Notes that a backend failed. @throws the failure where no further attempt is allowed */
  giveUp(backend: string, shown: ApiError): void {
    this.#exclude.push(backend);
    this.#last = shown;
    if (!this.mayTryAgain) throw shown;
  }

  async #acquire(signal: AbortSignal): Promise<Grant> {
    const { env, request, options } = this;
    const { base, cost, priority } = options;
    const ask: Ask = {
      id: randomText(16),
      tenant: request.tenant ?? '',
      model: base,
      tuned: request.adapter?.id ?? null,
      affinity: affinityOf(request, this.blobs),
      rows: request.sampling.choices ?? 1,
      cost,
      bytes: this.blobs.reduce((sum, { bytes }) => sum + bytes.byteLength, 0),
      priority,
      deadlineAtMs: this.#deadlineAtMs,
      attempt: this.#attempts,
      exclude: this.#exclude,
    };
    const object = fleet(env);
    const cancel = () => options.waitUntil(object.cancel(ask.id));
    signal.addEventListener('abort', cancel);
    let decision: Decision;
    try {
      decision = (await object.acquire(ask)) as Decision;
    } finally {
      signal.removeEventListener('abort', cancel);
    }
    if (decision.type === 'refusal' && (decision.reason === 'queue_full' || decision.reason === 'wait_too_long'))
      throttle.refused(decision.retryAfterMs);
    // Each request that came through the door, once: lines of batches did not, and further attempts are the same request.
    else if (priority === 'interactive' && this.#attempts === 0) throttle.accepted(Date.now());
    if (decision.type === 'refusal') {
      if (this.#last !== null && decision.reason === 'retry_budget') throw this.#last;
      throw refused(decision, request.adapter?.id ?? base, request);
    }
    if (signal.aborted) {
      options.waitUntil(object.release(decision.id, 'aborted'));
      throw clientLeft();
    }
    options.facts.queueMs = (options.facts.queueMs ?? 0) + decision.waitedMs;
    return decision;
  }

  async #call({ backend }: Grant, signal: AbortSignal, silent: AbortSignal): Promise<Response> {
    const { request, blobs } = this;
    const { tenant } = request;
    try {
      const { body, omitted } = this.#encode(backend.id);
      let response = await this.#send(backend, body, signal);
      if (response.status === 409 && omitted.length > 0) {
        BlobsMissing.parse(await response.json());
        // All of them: what it still held, it may drop for what comes now.
        forgetMissing(backend.id, tenant, omitted);
        response = await this.#send(backend, this.#encode(backend.id).body, signal);
      }
      if (response.ok) {
        remember(backend.id, tenant, blobs);
        return response;
      }
      const shown = await refusalOf(response, request);
      // Full or draining: another one may not be. `backend_failed` is what we made of an answer that makes no sense.
      if (response.status === 503) throw new BackendFault(backend.id, 'refused', shown);
      if (shown.code === 'backend_failed') throw new BackendFault(backend.id, 'failed', shown);
      throw shown;
    } catch (error) {
      if (error instanceof BackendFault || error instanceof ApiError) throw error;
      if (signal.aborted && !silent.aborted) throw clientLeft();
      if (Date.now() >= this.#deadlineAtMs) throw deadlinePassed(request, request.deadlineMs);
      warn(silent.aborted ? 'backend_silent' : 'backend_unreachable', backend.id, request, error);
      const words = `The backend could not be reached. Try again. Request id: ${request.requestId}.`;
      const shown = new ApiError('no_backend', words, { retryAfterMs: 1_000 });
      throw new BackendFault(backend.id, silent.aborted ? 'failed' : 'unreachable', shown);
    }
  }

  #encode(backendId: string) {
    const deadlineMs = Math.max(1, this.#deadlineAtMs - Date.now());
    const request = { ...this.request, deadlineMs, priority: this.options.priority };
    const encoded = encodeFor(backendId, this.request.tenant, request, this.blobs);
    const { length } = encoded.omitted;
    if (length > 0) metrics.transferCache.inc(length, 'hit');
    if (length < this.blobs.length) metrics.transferCache.inc(this.blobs.length - length, 'miss');
    return encoded;
  }

  #send(backend: Grant['backend'], body: Uint8Array<ArrayBuffer>, signal: AbortSignal): Promise<Response> {
    const { path, facts } = this.options;
    const { traceparent } = facts;
    return callBackend(this.env, backend, { method: 'POST', path, type: FRAME_TYPE, traceparent, body, signal });
  }

  /** @returns what to call when nothing more is to be done */
  #keepAlive(): () => void {
    let done = () => {};
    this.options.waitUntil(new Promise<void>((resolve) => (done = resolve)));
    return done;
  }
}

/** First picture, or the beginning of a long text: what a backend may have in its caches. */
function affinityOf(request: GenerateRequest, blobs: readonly Blob[]): string | null {
  const picture = blobs[0]?.digest;
  if (picture !== undefined) return picture.slice(-32);
  const text = request.messages[0]?.parts[0];
  return text?.type === 'text' && text.text.length >= 64 ? `${request.tenant ?? ''}${text.text.slice(0, 256)}` : null;
}

function warn(event: string, backend: string, { requestId }: GenerateRequest, error: unknown): void {
  console.error(JSON.stringify({ level: 'warn', event, backend, request_id: requestId, error: String(error) }));
}
