import type { Worker } from 'node:worker_threads';
import { startWorker } from '../io/worker.ts';
import type { Picture } from '../models/family.ts';
import type { ChoiceCompute } from './choice-compute.ts';
import type { ChoiceBatch } from './choice-packing.ts';
import type { ChoiceAnswer, ChoiceRequestMessage, ChoiceWorkerData } from './choice-worker.ts';

interface Lane {
  readonly worker: Worker;
  current: Task | null;
}

interface Task {
  readonly request: ChoiceRequestMessage;
  readonly resolve: (answer: ChoiceAnswer) => void;
  readonly reject: (error: Error) => void;
}

/** Threads with the whole model each, which take work as they get free. The calling thread only waits for messages. */
export class ChoiceThreads implements ChoiceCompute {
  readonly #lanes: Lane[];
  readonly #tasks: Task[] = [];
  #dead: Error | null = null;
  #closing = false;

  private constructor(lanes: Lane[]) {
    this.#lanes = lanes;
    for (const lane of lanes) {
      lane.worker.on('message', (answer: ChoiceAnswer) => this.#receive(lane, answer));
      lane.worker.on('error', (error) => this.#die(error instanceof Error ? error : new Error(String(error))));
      lane.worker.on('exit', (code) => this.#die(new Error(`a thread that compares answers ended with code ${code}`)));
    }
  }

  /** @throws Error when the model cannot be loaded */
  static async create(data: ChoiceWorkerData, lanes: number): Promise<ChoiceThreads> {
    const threads = new ChoiceThreads(
      Array.from({ length: lanes }, () => ({
        worker: startWorker(new URL('./choice-worker.ts', import.meta.url), data),
        current: null,
      })),
    );
    // The first answer of each says that it has loaded.
    try {
      await Promise.all(threads.#lanes.map(() => threads.#do({ type: 'encode', pictures: [] })));
    } catch (error) {
      await threads.close();
      throw error;
    }
    return threads;
  }

  async encode(pictures: readonly Picture[]): Promise<Float32Array[]> {
    const answer = await this.#do({ type: 'encode', pictures });
    if (answer.type !== 'features') throw new Error(`internal: expected features, received ${answer.type}`);
    return answer.features;
  }

  async logprobs(batch: ChoiceBatch): Promise<Float64Array> {
    const answer = await this.#do({ type: 'logprobs', batch });
    if (answer.type !== 'logprobs') throw new Error(`internal: expected log-probabilities, received ${answer.type}`);
    return answer.logprobs;
  }

  async close(): Promise<void> {
    this.#closing = true;
    // Each ends by itself, after it has given its sessions back: the runtime does not survive a thread that is cut off in the middle.
    await Promise.all(
      this.#lanes.map(async ({ worker }) => {
        if (this.#dead !== null) return await worker.terminate();
        const ended = new Promise((resolve) => worker.once('exit', resolve));
        worker.postMessage({ type: 'close' } satisfies ChoiceRequestMessage);
        return await ended;
      }),
    );
  }

  #do(request: ChoiceRequestMessage): Promise<ChoiceAnswer> {
    if (this.#dead !== null) return Promise.reject(this.#dead);
    return new Promise((resolve, reject) => {
      this.#tasks.push({ request, resolve, reject });
      this.#assign();
    });
  }

  #assign(): void {
    for (const lane of this.#lanes) {
      if (lane.current !== null) continue;
      const task = this.#tasks.shift();
      if (task === undefined) return;
      lane.current = task;
      lane.worker.postMessage(task.request);
    }
  }

  #receive(lane: Lane, answer: ChoiceAnswer): void {
    const task = lane.current;
    lane.current = null;
    this.#assign();
    if (answer.type === 'failed') task?.reject(new Error(answer.message));
    else task?.resolve(answer);
  }

  #die(error: Error): void {
    if (this.#closing || this.#dead !== null) return;
    this.#dead = error;
    for (const { current } of this.#lanes) current?.reject(error);
    for (const { reject } of this.#tasks.splice(0)) reject(error);
  }
}
