import { readValues, type Values, writeValues } from './stage-weights.ts';
import type { ParameterState } from './state.ts';

/** What a stage measured on the validation data after a step (numbered through all stages). */
export interface Measurement {
  readonly step: number;
  readonly loss: number;
  readonly accuracy: number;
}

/**
 * The weights of the lowest validation loss so far, where a stage stops early by it. They are part of its checkpoints, so that a
 * resumed stage stops where the uninterrupted one does, with the same weights.
 */
export class BestSoFar {
  best: Measurement | undefined;
  /** Measurements since the best. */
  since = 0;
  private values: Values | undefined;
  private isRestored = false;

  /**
   * @param options undefined: nothing is kept and nothing stops
   * @param before what the checkpoint says that `state` comes from, in `dir`
   */
  constructor(
    private readonly options: { readonly patience: number; readonly minDelta: number } | undefined,
    state: ParameterState,
    before?: { readonly best?: Measurement | undefined; readonly sinceBest?: number | undefined },
    dir?: string,
  ) {
    if (options === undefined || before?.best === undefined || dir === undefined) return;
    this.best = before.best;
    this.since = before.sinceBest ?? 0;
    this.values = readValues(dir, 'best') ?? valuesOf(state);
  }

  /** @returns whether the stage is to end: `patience` measurements in a row were no better by `minDelta` */
  take(measurement: Measurement, state: ParameterState): boolean {
    if (this.options === undefined) return false;
    const { patience, minDelta } = this.options;
    if (measurement.loss < (this.best?.loss ?? Number.POSITIVE_INFINITY) - minDelta) {
      this.best = measurement;
      this.since = 0;
      this.values = valuesOf(state);
      return false;
    }
    this.since++;
    return this.since >= patience;
  }

  /** Puts the best weights into the state. @returns false where they are there, or there are none */
  restore(state: ParameterState): boolean {
    if (this.values === undefined || this.since === 0) return false;
    for (const p of state.parameters) p.value.set(this.values.get(p.name) ?? []);
    this.isRestored = true;
    return true;
  }

  /** Adds the best weights to the checkpoint of a step, where its own are others. */
  async write(dir: string, step: number, state: ParameterState): Promise<void> {
    if (this.values !== undefined && !this.isRestored && this.best?.step !== step)
      await writeValues(dir, 'best', this.values, state);
  }
}

function valuesOf(state: ParameterState): Values {
  return new Map(state.parameters.map((p) => [p.name, Float32Array.from(p.value)]));
}

/**
 * Whether the evaluations so far say that the job has had its best: `patience` of them in a row without a new one.
 * @param accuracies in the order of the steps
 */
export function isEnough(accuracies: readonly number[], stop: { patience: number; minDelta: number } | null): boolean {
  if (stop === null) return false;
  let best = Number.NEGATIVE_INFINITY;
  let since = 0;
  for (const accuracy of accuracies) {
    const isBetter = accuracy > best + stop.minDelta;
    since = isBetter ? 0 : since + 1;
    if (isBetter) best = accuracy;
    if (since >= stop.patience) return true;
  }
  return false;
}
