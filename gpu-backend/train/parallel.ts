import type { Worker } from 'node:worker_threads';
import { ask, startWorker } from '../io/worker.ts';
import type { Tensor } from '../runtime/session.ts';
import type { CollatedBatch } from './batch.ts';
import type { GradientAnswer, GradientRequest, GradientWorkerData } from './gradient-worker.ts';
import type { ParameterState } from './state.ts';
import type { TrainSessionSpec } from './train-session.ts';
import { addTotals, type GradientComputer, type StepTotals } from './trainer.ts';

/**
 * Splits micro-batches over threads so that each gets about the same number of tokens. The split depends on the batches
 * alone, so sums are made in the same order every time and results are reproducible.
 */
export function shareOut(batches: readonly CollatedBatch[], threads: number): CollatedBatch[][] {
  const shares = Array.from({ length: threads }, () => ({ cost: 0, batches: [] as CollatedBatch[] }));
  const costOf = (b: CollatedBatch): number => b.batch * b.length;
  for (const batch of [...batches].sort((a, b) => costOf(b) - costOf(a))) {
    const least = shares.reduce((best, share) => (share.cost < best.cost ? share : best));
    least.batches.push(batch);
    least.cost += costOf(batch);
  }
  return shares.map((share) => share.batches);
}

/** Data-parallel gradients: every thread has its own session with one kernel thread and computes whole micro-batches. */
export class ParallelComputer implements GradientComputer {
  private readonly values: SharedArrayBuffer;
  private readonly workers: { readonly worker: Worker; readonly gradients: Float32Array }[];

  constructor(
    spec: TrainSessionSpec,
    state: ParameterState,
    threads: number,
    frozen: Readonly<Record<string, Tensor>> = {},
  ) {
    const bytes = state.elementCount * 4;
    this.values = new SharedArrayBuffer(bytes);
    this.workers = Array.from({ length: threads }, () => {
      const gradients = new SharedArrayBuffer(bytes);
      const data: GradientWorkerData = {
        spec,
        parameters: state.parameters.map(({ name, shape }) => ({ name, shape })),
        frozen,
        values: this.values,
        gradients,
      };
      return {
        worker: startWorker(new URL('./gradient-worker.ts', import.meta.url), data),
        gradients: new Float32Array(gradients),
      };
    });
  }

  async accumulate(state: ParameterState, batches: readonly CollatedBatch[]): Promise<StepTotals> {
    const values = new Float32Array(this.values);
    let offset = 0;
    for (const p of state.parameters) {
      values.set(p.value, offset);
      offset += p.value.length;
    }
    const shares = shareOut(batches, this.workers.length);
    const answers = await Promise.all(
      this.workers.map(({ worker }, i) => gradientsBy(worker, { batches: shares[i] ?? [] })),
    );
    for (const { gradients } of this.workers) {
      let at = 0;
      for (const p of state.parameters) {
        state.addGradient(p.name, gradients.subarray(at, at + p.grad.length));
        at += p.grad.length;
      }
    }
    return answers.reduce(addTotals);
  }

  async close(): Promise<void> {
    await Promise.all(this.workers.map(({ worker }) => worker.terminate()));
  }
}

async function gradientsBy(worker: Worker, request: GradientRequest): Promise<StepTotals> {
  const answer = await ask<GradientAnswer>(worker, request);
  if ('error' in answer) throw new Error(answer.error);
  return answer.totals;
}
