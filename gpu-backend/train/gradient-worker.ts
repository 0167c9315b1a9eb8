import { parentPort, workerData } from 'node:worker_threads';
import type { Tensor } from '../runtime/session.ts';
import type { CollatedBatch } from './batch.ts';
import { type ParameterSpec, ParameterState } from './state.ts';
import { createTrainSession, type TrainSessionSpec } from './train-session.ts';
import { type StepTotals, sessionComputer } from './trainer.ts';

/** What a gradient thread is started with. */
export interface GradientWorkerData {
  readonly spec: TrainSessionSpec;
  readonly parameters: readonly ParameterSpec[];
  readonly frozen: Readonly<Record<string, Tensor>>;
  /** All parameter values one after the other; written by the parent before each request. */
  readonly values: SharedArrayBuffer;
  /** This thread's gradient sums, in the same order; written before each answer. */
  readonly gradients: SharedArrayBuffer;
}

export type GradientRequest = { readonly batches: readonly CollatedBatch[] };
export type GradientAnswer = { readonly totals: StepTotals } | { readonly error: string };

async function main(): Promise<void> {
  const port = parentPort;
  if (port === null) throw new Error('gradient-worker.ts runs as a worker thread only');
  const { spec, parameters, frozen, values, gradients } = workerData as GradientWorkerData;
  const { session, feeds, joined } = await createTrainSession(spec);
  // ONNX Runtime does not take shared memory, so every step copies values in and gradients out (a few ms for 5 M).
  const state = new ParameterState(parameters);
  const computer = sessionComputer(session, frozen, feeds, undefined, joined);
  const [shared, out] = [new Float32Array(values), new Float32Array(gradients)];
  port.on('message', ({ batches }: GradientRequest) => {
    let offset = 0;
    for (const p of state.parameters) {
      p.value.set(shared.subarray(offset, offset + p.value.length));
      offset += p.value.length;
    }
    state.zeroGradients();
    computer.accumulate(state, batches).then(
      (totals) => {
        let at = 0;
        for (const p of state.parameters) {
          out.set(p.grad, at);
          at += p.grad.length;
        }
        port.postMessage({ totals } satisfies GradientAnswer);
      },
      (error: unknown) => {
        port.postMessage({ error: error instanceof Error ? error.message : String(error) } satisfies GradientAnswer);
      },
    );
  });
}

await main();
