/** Shape of the learning rate over a run. */
export interface LearningRateSchedule {
  /**
   * After warm-up: `constant`; `linear` down to the floor; `cosine` down to the floor (Loshchilov & Hutter, 2017);
   * `trapezoid`: constant, then linear down to the floor over the last `decayShare`.
   */
  readonly kind: 'constant' | 'linear' | 'cosine' | 'trapezoid';
  readonly peak: number;
  /** Share of the run, 0…1, over which the rate rises linearly from 0. Default 0. */
  readonly warmupShare?: number;
  /** Last rate as a share of the peak. Default 0. */
  readonly floorShare?: number;
  /** Share of the run that a `trapezoid` spends going down. Default 0.3. */
  readonly decayShare?: number;
}

/**
 * Learning rate at a point of the run.
 * @param progress share of the run that is done when the step begins, 0…1
 */
export function learningRateAt(schedule: LearningRateSchedule, progress: number): number {
  const { kind, peak, warmupShare = 0, floorShare = 0, decayShare = 0.3 } = schedule;
  const at = Math.min(1, Math.max(0, progress));
  if (at < warmupShare) return (peak * at) / warmupShare;
  const falling = kind === 'trapezoid' ? (at - (1 - decayShare)) / decayShare : (at - warmupShare) / (1 - warmupShare);
  const done = Math.min(1, Math.max(0, falling));
  const height = kind === 'constant' ? 1 : kind === 'cosine' ? (1 + Math.cos(Math.PI * done)) / 2 : 1 - done;
  return peak * (floorShare + (1 - floorShare) * height);
}

/**
 * Progress at the start of step `step` (from 1) of `total`: warm-up begins above zero and the last step is not wasted at
 * rate zero.
 */
export function progressOf(step: number, total: number): number {
  return (step - 0.5) / total;
}
