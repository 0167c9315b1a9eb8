/**
 * The scheduler is a pure function: what is known about every request goes in, what to do in this step comes out.
 * Only the engine executes plans, so any history of load can be replayed in a test without a model.
 *
 * Rules, in the order they are applied:
 *  1. Cancelled and expired requests leave first; their rows and KV tokens are free within the same step.
 *  2. Waiting requests are admitted strictly by arrival. The head of the queue is never overtaken, so a large request waits
 *     for at most the rows that were running when it became head: nobody starves.
 *  3. One unit of prompt work a step: a batch of images to encode or a chunk of prompt tokens. While others are decoding the
 *     chunk is capped, so that one long visual prompt delays a running answer by one chunk, not by its whole length.
 *  4. Every row whose prompt is done decodes one token.
 */

/** Counts that the scheduler needs of one request; no text and no tensors. */
export interface ScheduledRequest {
  readonly id: string;
  /** Rising number given at arrival; decides who is first. */
  readonly arrival: number;
  readonly stage: 'waiting' | 'prefill' | 'decode';
  /** All prompt positions, image tokens included. */
  readonly promptTokens: number;
  /** Prompt positions whose keys and values are in the cache already. */
  readonly prefilledTokens: number;
  /** Upper bound of tokens still to come; reserved at admission, so a running row can never run out of cache. */
  readonly maxNewTokens: number;
  /** Images whose features are not computed yet. Prompt tokens are only prefilled when this is 0. */
  readonly pendingImages: number;
  readonly cancelled: boolean;
  /** Unix milliseconds after which nobody waits for the answer; `null` = no deadline. */
  readonly deadlineAtMs: number | null;
}

export interface SchedulerState {
  readonly nowMs: number;
  /** Number of this step. Its parity alternates who gets the prompt work (rule in `pickPromptWork`). */
  readonly step: number;
  readonly requests: readonly ScheduledRequest[];
}

export interface Capacity {
  /** Rows that may hold KV at the same time. */
  readonly maxRows: number;
  /** Token positions of the whole KV arena: rows × longest row, rounded up to `kvStepTokens`. */
  readonly kvTokens: number;
  /** The arena grows in steps of this many positions. */
  readonly kvStepTokens: number;
  /** Prompt tokens in one run while no row is decoding. */
  readonly idleChunkTokens: number;
  /** Prompt tokens in one run while at least one row is decoding. */
  readonly busyChunkTokens: number;
  /** Images encoded in one run. */
  readonly imagesPerRun: number;
}

export type PromptWork =
  | { readonly kind: 'encode'; readonly id: string; readonly images: number }
  | { readonly kind: 'prefill'; readonly id: string; readonly tokens: number };

export interface StepPlan {
  readonly retire: readonly { readonly id: string; readonly reason: 'cancelled' | 'deadline' }[];
  readonly admit: readonly string[];
  readonly promptWork: PromptWork | null;
  /** Rows that produce one token each, by arrival. */
  readonly decode: readonly string[];
}

/** Positions a request may come to occupy. */
export function reservedTokens(request: { readonly promptTokens: number; readonly maxNewTokens: number }): number {
  return request.promptTokens + request.maxNewTokens;
}

/** Arena positions for `rows` rows of which the longest needs `longestTokens`. The arena is dense: every row is as long as the longest. */
export function arenaTokens(rows: number, longestTokens: number, kvStepTokens: number): number {
  return rows * Math.ceil(longestTokens / kvStepTokens) * kvStepTokens;
}

/** Decides one step. Total: every input gives a plan, none throws. */
export function plan(state: SchedulerState, capacity: Capacity): StepPlan {
  const byArrival = [...state.requests].sort((a, b) => a.arrival - b.arrival);
  const retire: { id: string; reason: 'cancelled' | 'deadline' }[] = [];
  const running: ScheduledRequest[] = [];
  const waiting: ScheduledRequest[] = [];
  for (const request of byArrival) {
    if (request.cancelled) retire.push({ id: request.id, reason: 'cancelled' });
    else if (request.deadlineAtMs !== null && request.deadlineAtMs <= state.nowMs)
      retire.push({ id: request.id, reason: 'deadline' });
    else if (request.stage === 'waiting') waiting.push(request);
    else running.push(request);
  }

  const admit: string[] = [];
  let longest = running.reduce((most, request) => Math.max(most, reservedTokens(request)), 0);
  for (const request of waiting) {
    const longestWith = Math.max(longest, reservedTokens(request));
    const rowsWith = running.length + 1;
    if (rowsWith > capacity.maxRows || arenaTokens(rowsWith, longestWith, capacity.kvStepTokens) > capacity.kvTokens)
      break;
    longest = longestWith;
    admit.push(request.id);
    running.push({ ...request, stage: 'prefill' });
  }

  const decode = running.filter((request) => request.stage === 'decode').map((request) => request.id);
  const promptWork = pickPromptWork(running, decode.length > 0, state.step, capacity);
  return { retire, admit, promptWork, decode };
}

/**
 * Even steps serve the oldest prompt, odd steps the one with the least left to do. The first half guarantees progress to a
 * 100-image prompt under any stream of newcomers, the second lets fifty small prompts pass it.
 */
function pickPromptWork(
  running: readonly ScheduledRequest[],
  busy: boolean,
  step: number,
  capacity: Capacity,
): PromptWork | null {
  const inPrefill = running.filter((request) => request.stage === 'prefill');
  const oldest = inPrefill[0];
  if (oldest === undefined) return null;
  const left = (request: ScheduledRequest) => request.promptTokens - request.prefilledTokens;
  const chosen =
    step % 2 === 0 ? oldest : inPrefill.reduce((best, request) => (left(request) < left(best) ? request : best));
  if (chosen.pendingImages > 0)
    return { kind: 'encode', id: chosen.id, images: Math.min(chosen.pendingImages, capacity.imagesPerRun) };
  const chunk = busy ? capacity.busyChunkTokens : capacity.idleChunkTokens;
  return { kind: 'prefill', id: chosen.id, tokens: Math.min(left(chosen), chunk) };
}
