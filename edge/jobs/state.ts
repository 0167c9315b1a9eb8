/**
 * The life of a fine-tuning job as a pure function. Shells read the row, ask `transition`, and write the answer only if nobody else wrote meanwhile
 * (compare and swap on the row's revision).
 *
 *   queued ──claim──▶ running ──finish──▶ succeeded | failed | cancelled
 *     ▲ ◀── lease expired, released ──┘
 *   queued | running ──cancel──▶ cancelled
 */
import type { JobError, JobStatus } from '../../shared/contract/jobs.ts';
import { LIMITS } from '../../shared/contract/limits.ts';

/** The columns that decide. Times are Unix ms. */
export type JobState = {
  status: JobStatus;
  /** Fencing token of the newest grant; 0 before the first. */
  leaseToken: number;
  leaseBackend: string | null;
  leaseExpiresAtMs: number | null;
  /** Grants since the last new checkpoint. */
  fruitlessClaims: number;
  /** A queued job is not granted before this time. */
  notBeforeMs: number;
  error: JobError | null;
};

export type JobAct =
  | { type: 'claim'; backendId: string }
  | { type: 'heartbeat'; token: number }
  | { type: 'checkpoint'; token: number }
  | { type: 'sweep' }
  | { type: 'cancel' }
  | {
      type: 'finish';
      token: number;
      status: 'succeeded' | 'failed' | 'cancelled' | 'released';
      error: JobError | null;
    };

/** `same`: nothing to write. `stale`: the caller holds an old lease. `refused`: the act does not fit the state. */
export type Outcome =
  | { kind: 'change'; next: JobState; note: string }
  | { kind: 'same' }
  | { kind: 'stale' }
  | { kind: 'refused'; reason: string };

export const TERMINAL: ReadonlySet<JobStatus> = new Set(['succeeded', 'failed', 'cancelled']);

const free = { leaseBackend: null, leaseExpiresAtMs: null } as const;

export function transition(state: JobState, act: JobAct, nowMs: number): Outcome {
  switch (act.type) {
    case 'claim':
      if (state.status !== 'queued') return { kind: 'refused', reason: `the job is ${state.status}` };
      if (nowMs < state.notBeforeMs) return { kind: 'refused', reason: 'the job waits after a failed try' };
      return change(
        {
          ...state,
          status: 'running',
          leaseToken: state.leaseToken + 1,
          leaseBackend: act.backendId,
          leaseExpiresAtMs: nowMs + LIMITS.jobs.leaseMs,
          fruitlessClaims: state.fruitlessClaims + 1,
        },
        state.leaseToken === 0 ? 'Fine-tuning started.' : 'Fine-tuning resumed.',
      );
    case 'heartbeat':
      if (act.token !== state.leaseToken) return { kind: 'stale' };
      if (state.status !== 'running') return { kind: 'same' };
      return change({ ...state, leaseExpiresAtMs: nowMs + LIMITS.jobs.leaseMs }, '');
    case 'checkpoint':
      if (act.token !== state.leaseToken || state.status !== 'running') return { kind: 'stale' };
      return change({ ...state, fruitlessClaims: 0, leaseExpiresAtMs: nowMs + LIMITS.jobs.leaseMs }, '');
    case 'sweep':
      return sweep(state, nowMs);
    case 'cancel':
      if (state.status === 'cancelled') return { kind: 'same' };
      if (TERMINAL.has(state.status)) return { kind: 'refused', reason: `the job has already ${state.status}` };
      return change({ ...state, ...free, status: 'cancelled' }, 'The job was cancelled.');
    case 'finish':
      return finish(state, act, nowMs);
  }
}

/** Gives a silent worker's job back. */
function sweep(state: JobState, nowMs: number): Outcome {
  const silent = state.status === 'running' && state.leaseExpiresAtMs !== null && state.leaseExpiresAtMs <= nowMs;
  return silent ? requeue(state, 'The worker went silent; the job waits for another one.', nowMs) : { kind: 'same' };
}

/** Back to the queue, after a second try with growing pauses, or to its end when worker after worker stopped without getting anywhere. */
function requeue(state: JobState, note: string, nowMs: number): Outcome {
  const tries = state.fruitlessClaims;
  if (tries < LIMITS.jobs.maxFruitlessClaims) {
    const pauseMs = tries < 2 ? 0 : LIMITS.jobs.retryPauseMs * 2 ** (tries - 2);
    return change({ ...state, ...free, status: 'queued', notBeforeMs: nowMs + pauseMs }, note);
  }
  const message = `${state.fruitlessClaims} workers in a row stopped without reaching a new checkpoint.`;
  return change({ ...state, ...free, status: 'failed', error: { code: 'worker_lost', message, param: null } }, message);
}

function finish(state: JobState, act: Extract<JobAct, { type: 'finish' }>, nowMs: number): Outcome {
  if (act.token !== state.leaseToken) return { kind: 'stale' };
  // The answer to the first report may have been lost: the same report again is fine. A cancelled job's worker reports its stop.
  if (state.status === act.status || state.status === 'cancelled') return { kind: 'same' };
  if (act.status === 'released' && state.status === 'queued') return { kind: 'same' };
  if (state.status !== 'running') return { kind: 'stale' };
  switch (act.status) {
    case 'released':
      return requeue(state, 'The worker gave the job back; it waits for another one.', nowMs);
    case 'succeeded':
      return change({ ...state, ...free, status: 'succeeded' }, 'The job has successfully completed.');
    case 'cancelled':
      return change({ ...state, ...free, status: 'cancelled' }, 'The job was cancelled.');
    case 'failed': {
      const error = act.error ?? { code: 'training_failed', message: 'The worker gave no reason.', param: null };
      return change({ ...state, ...free, status: 'failed', error }, `The job failed: ${error.message}`);
    }
  }
}

function change(next: JobState, note: string): Outcome {
  return { kind: 'change', next, note };
}
