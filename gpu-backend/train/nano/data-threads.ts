import type { Worker } from 'node:worker_threads';
import { ask, startWorker } from '../../io/worker.ts';
import type { DataSource } from '../trainer.ts';
import type { DataAnswer, DataRequest, DataWorkerData } from './data-worker.ts';

/**
 * Data of the next steps, made by threads: each makes every n-th step. For a device that takes a step faster than one thread makes its
 * dialogues.
 */
export class DataThreads {
  readonly #threads: { readonly worker: Worker; busy: Promise<unknown> }[];

  /** @param threads how many, and how many steps are made ahead */
  constructor(data: DataWorkerData, threads: number) {
    const script = new URL('./data-worker.ts', import.meta.url);
    this.#threads = Array.from({ length: threads }, () => ({
      worker: startWorker(script, data),
      busy: Promise.resolve(),
    }));
  }

  /** @param totalAt dialogues of the run, from a place in the stream; asked when a step's data are ordered, that many steps ahead */
  source(dialogues: number, totalAt: (cursor: number) => number): DataSource {
    const ahead = new Map<number, Promise<DataAnswer>>();
    return {
      next: async (cursor) => {
        for (let i = 0; i < this.#threads.length; i++) {
          const at = cursor + i * dialogues;
          if (!ahead.has(at)) ahead.set(at, this.#order(at / dialogues, { cursor: at, total: totalAt(at) }));
        }
        const answer = await ahead.get(cursor);
        ahead.delete(cursor);
        if (answer === undefined || 'error' in answer) throw new Error(answer?.error ?? 'no data were ordered');
        return { samples: answer.samples, cursor: cursor + dialogues };
      },
    };
  }

  async close(): Promise<void> {
    await Promise.all(this.#threads.map(({ worker }) => worker.terminate()));
  }

  /** One request at a time and thread. */
  #order(step: number, request: DataRequest): Promise<DataAnswer> {
    const thread = this.#threads[step % this.#threads.length];
    if (thread === undefined) throw new Error('there are no data threads');
    const answer = thread.busy.then(() => ask<DataAnswer>(thread.worker, request));
    thread.busy = answer.catch(() => {});
    // Shows where it is awaited.
    answer.catch(() => {});
    return answer;
  }
}
