/**
 * What the autoscaler sees of the fleet, and what it gives back. `Dispatcher.snapshot` fits `FleetSnapshot` as it is; what the dispatcher cannot know
 * (queued jobs) the autoscaler finds out itself.
 */

export type BackendSnapshot = {
  id: string;
  /** `gone`: not heard of lately, or nobody answers at its address. */
  state: 'ready' | 'draining' | 'gone';
  /** Answers it is working on. */
  inFlight: number;
  /** Their decoder positions, image tokens included. */
  costTokens: number;
  /** Answers it works on well at once. */
  capacity: number;
  /** Decoder positions that all its answers together may hold; absent: `ScalingConfig.tokensPerBackend`. */
  capacityTokens?: number | null;
  /** It runs a fine-tuning job. */
  hasJob: boolean;
  /** Unix ms; null: it does not say. */
  startedAtMs: number | null;
  /** From the start of its process until it could answer. */
  coldStartMs: number | null;
};

export type FleetSnapshot = {
  backends: readonly BackendSnapshot[];
  /** Requests that wait for a place: how many, the answers they ask for, their decoder positions, how long the first has waited. */
  queue: { length: number; rows: number; costTokens: number; oldestWaitMs: number };
  /** False: no backend has ever said which models there are, so no request can be judged. One is started then. Absent: true. */
  knowsModels?: boolean;
};

/** What one tick of the autoscaler tells the fleet. */
export type ScalingOutcome = {
  /** Whether a backend is being or can be started for requests that find none, and how long that is seen to take (null: never seen). */
  outlook: { canStart: boolean; coldStartMs: number | null; isStopping?: boolean };
  /** Backends that are to end: they are sent nothing new; they are ended when what they work on is done. The list is whole: who is off it stays. */
  retiring: readonly string[];
  /** Look again at the latest after this time, ms: 500 while anything goes on, seconds when idle. */
  nextTickMs: number;
};
