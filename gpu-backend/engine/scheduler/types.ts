/** What the scheduler knows and what it decides: counts only, no text and no tensors. */

export type Priority = 'interactive' | 'batch';

export interface ScheduledRequest {
  readonly id: string;
  /** Rising number given at arrival, kept through preemption; decides who is first. */
  readonly arrival: number;
  readonly priority: Priority;
  readonly stage: 'waiting' | 'prefill' | 'decode';
  /** Positions to fill before it decodes: the prompt, or prompt and generated tokens when it resumes after a preemption. */
  readonly targetTokens: number;
  /** Positions whose keys and values are in its row. Of a waiting request: those that a prefix would give it, if known. */
  readonly heldTokens: number;
  /** Prompt and longest answer together: no more positions than this are ever held. */
  readonly maxTokens: number;
  /** Images whose features are not computed yet. Prompt tokens are only prefilled when this is 0. */
  readonly pendingImages: number;
  /** A row that is just computing this one's next positions; waiting for it is cheaper than computing them twice. */
  readonly sharesWith: string | null;
  /** Unix milliseconds of its arrival (not of its preemption). A batch request counts as interactive `agingMs` later. */
  readonly waitingSinceMs: number;
  readonly cancelled: boolean;
  /** Unix milliseconds after which nobody waits for the answer; `null` = no deadline. */
  readonly deadlineAtMs: number | null;
}

export interface SchedulerState {
  readonly nowMs: number;
  /** Number of this step. Its parity alternates who gets the prompt work. */
  readonly step: number;
  readonly requests: readonly ScheduledRequest[];
}

export interface Capacity {
  /** Rows that may hold KV at the same time, all classes together. */
  readonly maxRows: number;
  /** Token positions of all arenas together. An arena is dense: rows × longest row, rounded up to `kvStepTokens`. */
  readonly kvTokens: number;
  readonly kvStepTokens: number;
  /** Rising upper bounds of `maxTokens`: rows of one class share an arena. What exceeds the last bound is a class of its own. */
  readonly classBounds: readonly number[];
  /** Prompt tokens in one run while no row is decoding. */
  readonly idleChunkTokens: number;
  /** Prompt tokens in one run while at least one row is decoding. */
  readonly busyChunkTokens: number;
  /** Images encoded in one run. */
  readonly imagesPerRun: number;
  /** Positions ahead of need that a row must have room for when it or another is admitted; `Infinity` = all it may come to. */
  readonly growthTokens: number;
  /** After this long a batch request is treated as interactive. */
  readonly agingMs: number;
}

/** `never-fits`: it needs more positions alone than there are; the door refuses such requests before they get here. */
export type RetireReason = 'cancelled' | 'deadline' | 'never-fits';

export type PromptWork =
  | { readonly kind: 'encode'; readonly items: readonly { readonly id: string; readonly images: number }[] }
  | { readonly kind: 'prefill'; readonly id: string; readonly tokens: number };

/** To be executed in this order. */
export interface StepPlan {
  readonly retire: readonly { readonly id: string; readonly reason: RetireReason }[];
  /** Running rows that go back to waiting and lose their keys and values (a prefix tree may keep them). */
  readonly preempt: readonly string[];
  readonly admit: readonly { readonly id: string; readonly class: number }[];
  /** May name a request that is admitted in this step; fewer tokens are left then if a prefix was restored. */
  readonly promptWork: PromptWork | null;
  /** Rows that produce one token each, by class, in the order of precedence. */
  readonly decode: readonly { readonly class: number; readonly ids: readonly string[] }[];
}
