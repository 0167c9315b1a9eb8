import type { Worker } from 'node:worker_threads';
import { startWorker } from '../io/worker.ts';
import type { EngineEvent } from './engine.ts';
import type { EngineRequest } from './live-request.ts';
import type { CallName, Calls, FromWorker, ToWorker } from './protocol.ts';

/** The engine thread ended by itself: a defect, or the runtime took it down. In-flight requests have failed; a new thread is needed. */
export class EngineThreadDied extends Error {
  override readonly name = 'EngineThreadDied';
}

interface Call {
  readonly resolve: (result: unknown) => void;
  readonly reject: (error: Error) => void;
}

/** Takes features that are its own to keep. */
export type FeaturesListener = (key: string, features: Float32Array) => void;

/** A queue that one reader drains: events of one request, in order. */
class EventQueue {
  #events: EngineEvent[] = [];
  #wake: (() => void) | null = null;

  push(event: EngineEvent): void {
    this.#events.push(event);
    this.#wake?.();
    this.#wake = null;
  }

  async take(): Promise<EngineEvent[]> {
    if (this.#events.length === 0) await new Promise<void>((resolve) => (this.#wake = resolve));
    const events = this.#events;
    this.#events = [];
    return events;
  }
}

/** The server's handle on the engine thread: typed calls, and one event stream per request. */
export class EngineThread {
  readonly #worker: Worker;
  readonly #calls = new Map<number, Call>();
  readonly #queues = new Map<string, EventQueue>();
  /** By request: who takes the features that it asked for, once they are computed. */
  readonly #features = new Map<string, FeaturesListener>();
  #nextCall = 0;
  #dead: Error | null = null;
  #closing = false;

  /**
   * @param options.featureCacheBytes budget of the image feature cache over all models
   * @param options.onDeath called when the thread ends without `close`
   */
  constructor(options: { readonly featureCacheBytes: number; readonly onDeath: (error: Error) => void }) {
    this.#worker = startWorker(new URL('./worker.ts', import.meta.url), {
      featureCacheBytes: options.featureCacheBytes,
    });
    this.#worker.on('message', (message: FromWorker) => this.#receive(message));
    const died = (error: Error) => {
      if (this.#dead !== null) return;
      this.#dead = error;
      for (const call of this.#calls.values()) call.reject(error);
      this.#calls.clear();
      for (const [id, queue] of this.#queues) queue.push({ type: 'failed', id, message: error.message });
      if (!this.#closing) options.onDeath(error);
    };
    this.#worker.on('error', (error) =>
      died(new EngineThreadDied(`the engine thread failed: ${error instanceof Error ? error.message : String(error)}`)),
    );
    this.#worker.on('exit', (code) => died(new EngineThreadDied(`the engine thread ended with exit code ${code}`)));
  }

  /** Requests submitted and not ended. */
  get inFlight(): number {
    return this.#queues.size;
  }

  /** @param transfer buffers that are handed over, not copied */
  call<K extends CallName>(
    name: K,
    argument: Calls[K]['argument'],
    transfer: readonly ArrayBuffer[] = [],
  ): Promise<Calls[K]['result']> {
    if (this.#dead !== null) return Promise.reject(this.#dead);
    const call = this.#nextCall++;
    const result = new Promise<unknown>((resolve, reject) => this.#calls.set(call, { resolve, reject }));
    this.#worker.postMessage({ type: 'call', call, name, argument }, transfer);
    return result as Promise<Calls[K]['result']>;
  }

  /** Until the request has ended, `listener` gets the features that its `restore` wants. */
  listen(request: string, listener: FeaturesListener): void {
    this.#features.set(request, listener);
  }

  /** Gives back what `hold` pinned for a request that will not be submitted. */
  release(request: string): void {
    this.#features.delete(request);
    this.#send({ type: 'release', request });
  }

  /**
   * Submits a request and yields its events until it ends. Leaving the loop early, or `signal`, cancels the row within one step.
   * Pixel buffers are handed over, not copied: they cannot be used afterwards.
   */
  async *run(model: string, request: EngineRequest, signal: AbortSignal): AsyncGenerator<EngineEvent, void, undefined> {
    if (this.#dead !== null) throw this.#dead;
    if (this.#queues.has(request.id)) throw new Error(`internal: request ${request.id} is already running`);
    const queue = new EventQueue();
    this.#queues.set(request.id, queue);
    const cancel = () => this.#send({ type: 'cancel', model, id: request.id });
    let ended = false;
    try {
      const buffers = new Set(
        request.images.flatMap(({ picture }) => (picture === null ? [] : [picture.pixels_CHW.buffer as ArrayBuffer])),
      );
      this.#worker.postMessage({ type: 'submit', model, request } satisfies ToWorker, [...buffers]);
      if (signal.aborted) cancel();
      else signal.addEventListener('abort', cancel, { once: true });
      while (!ended) {
        for (const event of await queue.take()) {
          ended = event.type === 'end' || event.type === 'failed';
          yield event;
          if (ended) return;
        }
      }
    } finally {
      signal.removeEventListener('abort', cancel);
      this.#queues.delete(request.id);
      this.#features.delete(request.id);
      if (!ended) cancel();
    }
  }

  async close(): Promise<void> {
    this.#closing = true;
    await this.#worker.terminate();
  }

  #send(message: ToWorker): void {
    this.#worker.postMessage(message);
  }

  #receive(message: FromWorker): void {
    switch (message.type) {
      case 'events':
        for (const event of message.events) this.#queues.get(event.id)?.push(event);
        return;
      case 'features':
        this.#features.get(message.request)?.(message.key, message.features);
        return;
      case 'answer':
      case 'refusal': {
        const call = this.#calls.get(message.call);
        this.#calls.delete(message.call);
        if (message.type === 'answer') call?.resolve(message.result);
        else call?.reject(new Error(message.message));
        return;
      }
      default:
        message satisfies never;
    }
  }
}
