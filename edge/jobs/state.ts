/**
 * The life of leased work, a fine-tuning job or a task, as a pure function. Shells read the row, ask `transition`, and write the answer only if nobody
 * else wrote meanwhile (compare and swap on the row's revision).
 *
 *   validating_files ──validated──▶ queued ──claim──▶ running ──finish──▶ succeeded | failed | cancelled
 *          │                          ▲ ◀── lease expired, released ──┘ │
 *          │                          │                                 pause
 *        pause ──▶ paused ──resume────┘ ◀── finish, lease expired ── pausing
 *   anything unfinished ──cancel──▶ cancelled, ──fail──▶ failed
 *
 * A job that is paused before its data was validated goes back to `validating_files`. Tasks begin as queued and are never paused.
 */
import type { JobError, JobStatus } from '../../shared/contract/jobs.ts';
import { LIMITS } from '../../shared/contract/limits.ts';

/** The columns that decide. Times are Unix ms. */
export type JobState = {
  status: JobStatus;
  /** Its data has been decided; tasks have none that is not. */
  isValidated: boolean;
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
  | { type: 'validated'; error: JobError | null }
  | { type: 'claim'; backendId: string }
  | { type: 'heartbeat'; token: number }
  | { type: 'checkpoint'; token: number }
  | { type: 'sweep' }
  | { type: 'pause' }
  | { type: 'resume' }
  | { type: 'cancel' }
  | { type: 'fail'; error: JobError }
  | {
      type: 'finish';
      token: number;
      status: 'succeeded' | 'failed' | 'cancelled' | 'released' | 'paused';
      error: JobError | null;
    };

/** `same`: nothing to write. `stale`: the caller holds an old lease. `refused`: the act does not fit the state. */
export type Outcome =
  | { kind: 'change'; next: JobState; note: string }
  | { kind: 'same' }
  | { kind: 'stale' }
  | { kind: 'refused'; reason: string };

export const TERMINAL: ReadonlySet<JobStatus> = new Set(['succeeded', 'failed', 'cancelled']);

/** A worker holds it and may write. */
export const LEASED: ReadonlySet<JobStatus> = new Set(['running', 'pausing']);

const free = { leaseBackend: null, leaseExpiresAtMs: null } as const;

const hasEnded = (status: JobStatus) => `it has already ${status === 'cancelled' ? 'been cancelled' : status}`;

export function transition(state: JobState, act: JobAct, nowMs: number): Outcome {
  switch (act.type) {
    case 'validated':
      return validated(state, act.error);
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
      if (!LEASED.has(state.status)) return { kind: 'same' };
      return change({ ...state, leaseExpiresAtMs: nowMs + LIMITS.jobs.leaseMs }, '');
    case 'checkpoint':
      if (act.token !== state.leaseToken || !LEASED.has(state.status)) return { kind: 'stale' };
      return change({ ...state, fruitlessClaims: 0, leaseExpiresAtMs: nowMs + LIMITS.jobs.leaseMs }, '');
    case 'sweep':
      return sweep(state, nowMs);
    case 'pause':
      return pause(state);
    case 'resume':
      return resume(state);
    case 'cancel':
      if (state.status === 'cancelled') return { kind: 'same' };
      if (TERMINAL.has(state.status)) return { kind: 'refused', reason: hasEnded(state.status) };
      return change({ ...state, ...free, status: 'cancelled' }, 'The job was cancelled.');
    case 'fail':
      if (TERMINAL.has(state.status)) return { kind: 'refused', reason: hasEnded(state.status) };
      return change({ ...state, ...free, status: 'failed', error: act.error }, `The job failed: ${act.error.message}`);
    case 'finish':
      return finish(state, act, nowMs);
  }
}

/** The data is decided, or refused. A job that was paused or ended meanwhile stays so, but need not be validated again. */
function validated(state: JobState, error: JobError | null): Outcome {
  if (state.isValidated || TERMINAL.has(state.status)) return { kind: 'same' };
  if (error !== null) return change({ ...state, status: 'failed', error }, `The job failed: ${error.message}`);
  const isWaiting = state.status === 'validating_files';
  const next = { ...state, isValidated: true, status: isWaiting ? ('queued' as const) : state.status };
  return change(next, isWaiting ? 'Files validated, moving job to queued state.' : 'Files validated.');
}

function pause(state: JobState): Outcome {
  switch (state.status) {
    case 'validating_files':
    case 'queued':
      return change({ ...state, status: 'paused', notBeforeMs: 0 }, 'The job was paused.');
    case 'running':
      return change({ ...state, status: 'pausing' }, 'The job is being paused: its worker saves a checkpoint.');
    case 'pausing':
    case 'paused':
      return { kind: 'same' };
    default:
      return { kind: 'refused', reason: hasEnded(state.status) };
  }
}

function resume(state: JobState): Outcome {
  switch (state.status) {
    case 'paused':
      return change(
        { ...state, status: state.isValidated ? 'queued' : 'validating_files', fruitlessClaims: 0 },
        'The job was resumed.',
      );
    case 'pausing':
      // The worker may have been told already; then it gives the job back, and it is queued.
      return change({ ...state, status: 'running' }, 'The job was resumed before it had paused.');
    case 'validating_files':
    case 'queued':
    case 'running':
      return { kind: 'same' };
    default:
      return { kind: 'refused', reason: hasEnded(state.status) };
  }
}

/** Gives a silent worker's job back. */
function sweep(state: JobState, nowMs: number): Outcome {
  const isSilent = LEASED.has(state.status) && state.leaseExpiresAtMs !== null && state.leaseExpiresAtMs <= nowMs;
  if (!isSilent) return { kind: 'same' };
  if (state.status === 'pausing') return change({ ...state, ...free, status: 'paused' }, 'The job was paused.');
  return requeue(state, 'The worker went silent; the job waits for another one.', null, nowMs);
}

/** Back to the queue, after a second try with growing pauses, or to its end when worker after worker stopped without getting anywhere. */
function requeue(state: JobState, note: string, reason: JobError | null, nowMs: number): Outcome {
  const tries = state.fruitlessClaims;
  if (tries < LIMITS.jobs.maxFruitlessClaims) {
    const pauseMs = tries < 2 ? 0 : LIMITS.jobs.retryPauseMs * 2 ** (tries - 2);
    // Without a pause there is no time to wait for: a clock that ran ahead would make it minutes.
    return change({ ...state, ...free, status: 'queued', notBeforeMs: pauseMs === 0 ? 0 : nowMs + pauseMs }, note);
  }
  const message = `${state.fruitlessClaims} workers in a row stopped without reaching a new checkpoint.`;
  const error =
    reason === null
      ? { code: 'worker_lost', message, param: null }
      : { ...reason, message: `${message} The last one: ${reason.message}` };
  return change({ ...state, ...free, status: 'failed', error }, error.message);
}

function finish(state: JobState, act: Extract<JobAct, { type: 'finish' }>, nowMs: number): Outcome {
  if (act.token !== state.leaseToken) return { kind: 'stale' };
  // The answer to the first report may have been lost: the same report again is fine. A cancelled job's worker reports its stop.
  if (state.status === act.status || state.status === 'cancelled') return { kind: 'same' };
  const isGivenBack = act.status === 'released' || act.status === 'paused';
  if (isGivenBack && (state.status === 'queued' || state.status === 'paused')) return { kind: 'same' };
  if (!LEASED.has(state.status)) return { kind: 'stale' };
  if (isGivenBack && state.status === 'pausing')
    return change({ ...state, ...free, status: 'paused' }, 'The job was paused.');
  switch (act.status) {
    case 'released':
      return requeue(state, 'The worker gave the job back; it waits for another one.', act.error, nowMs);
    case 'paused':
      // Resumed before the worker had stopped.
      return change({ ...state, ...free, status: 'queued', notBeforeMs: 0 }, 'The job waits for a worker.');
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
