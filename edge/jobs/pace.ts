/** How long a job still takes, from what it has said of its steps. */

export type SaidOfStep = { key: string; createdAt: number; data: Record<string, unknown> | null };

/** Last events of a job that are looked at: some twenty steps, with the checkpoints between them. */
export const PACE_EVENTS = 60;

/**
 * When the job ends if the steps left take as long as the last ones did by the clock: saving, measuring, and jobs that take turns with it are in that. Steps
 * before its last change of state (a pause, another worker) do not count.
 *
 * @param events oldest first
 * @returns Unix ms; null where the events do not tell
 */
export function estimatedFinish(events: readonly SaidOfStep[], nowMs: number): number | null {
  const start = events.findLastIndex(({ key }) => key.startsWith('edge-'));
  const steps = events.slice(start + 1).flatMap(({ createdAt, data }) => {
    const { step, total_steps: total, tokens, tokens_per_second: rate } = data ?? {};
    if (typeof step !== 'number' || typeof total !== 'number') return [];
    const alone = typeof tokens === 'number' && typeof rate === 'number' && rate > 0 ? (1000 * tokens) / rate : null;
    return [{ step, left: total - step, createdAt, alone }];
  });
  const [first, last] = [steps[0], steps.at(-1)];
  if (first === undefined || last === undefined) return null;
  // Of one step only the time of its computation is known.
  const stepMs = last.step > first.step ? (last.createdAt - first.createdAt) / (last.step - first.step) : last.alone;
  return stepMs === null ? null : Math.round(nowMs + Math.max(0, stepMs) * last.left);
}
