/** A thread that compares answers: one model, one request after the other. */
import { parentPort, workerData } from 'node:worker_threads';
import type { Picture } from '../models/family.ts';
import { LocalChoiceCompute } from './choice-compute.ts';
import type { ChoiceBatch } from './choice-packing.ts';

export interface ChoiceWorkerData {
  readonly dir: string;
  readonly overlayDir: string | null;
  /** Of the kernels. */
  readonly threads: number;
}

export type ChoiceRequestMessage =
  | { readonly type: 'encode'; readonly pictures: readonly Picture[] }
  | { readonly type: 'logprobs'; readonly batch: ChoiceBatch }
  | { readonly type: 'close' };

export type ChoiceAnswer =
  | { readonly type: 'features'; readonly features: Float32Array[] }
  | { readonly type: 'logprobs'; readonly logprobs: Float64Array }
  | { readonly type: 'failed'; readonly message: string };

if (parentPort === null) throw new Error('engine/choice-worker.ts is started by engine/choice-threads.ts, not by hand');
const port = parentPort;
const { dir, overlayDir, threads } = workerData as ChoiceWorkerData;
const compute = LocalChoiceCompute.create(dir, overlayDir, threads);
// It is told to whoever asks first.
compute.catch(() => {});

async function answer(request: Exclude<ChoiceRequestMessage, { type: 'close' }>): Promise<ChoiceAnswer> {
  try {
    const model = await compute;
    return request.type === 'encode'
      ? { type: 'features', features: request.pictures.length === 0 ? [] : await model.encode(request.pictures) }
      : { type: 'logprobs', logprobs: await model.logprobs(request.batch) };
  } catch (error) {
    return { type: 'failed', message: error instanceof Error ? error.message : String(error) };
  }
}

port.on('message', (request: ChoiceRequestMessage) => {
  if (request.type === 'close') {
    void compute.then((model) => model.close()).finally(() => port.close());
    return;
  }
  void answer(request).then((message) => port.postMessage(message));
});
