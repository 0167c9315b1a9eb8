/**
 * The scheduler is a pure function: what is known about every request goes in, what to do in this step comes out.
 * Only the engine executes plans, so any history of load can be replayed in a test without a model.
 *
 * Precedence is (effective priority, arrival); a batch request counts as interactive once it is `agingMs` old, so that no
 * stream of interactive ones starves it. Rules, in the order they are applied:
 *  1. Cancelled and expired requests leave first; their rows and positions are free within the same step.
 *  2. When the running rows have outgrown the room, the last in precedence are preempted until the rest fits. The first is
 *     never: a request that passed admission fits alone, so the first one always gets on and everybody becomes first.
 *  3. Waiting requests are admitted by precedence while they fit. The first that does not (the head) may make an interactive
 *     one preempt batch rows; failing that, it waits, and later ones are only admitted beside it: into room that is free now
 *     and will still be free once the head has come in. So the head waits for rows before it in precedence at most.
 *  4. One unit of prompt work a step: a batch of images to encode or a chunk of prompt tokens (`prompt-work.ts`).
 *  5. Every row whose prompt is done decodes one token.
 */
import { pickPromptWork } from './prompt-work.ts';
import { classOf, fitsAlone, neededTokens, Room, reservedTokens } from './room.ts';
import type { Capacity, RetireReason, ScheduledRequest, SchedulerState, StepPlan } from './types.ts';

/** 0 before 1. */
type Rank = 0 | 1;

interface Entry {
  readonly request: ScheduledRequest;
  readonly rank: Rank;
}

/** Decides one step. Total: every input gives a plan, none throws. */
export function plan(state: SchedulerState, capacity: Capacity): StepPlan {
  const retire: { id: string; reason: RetireReason }[] = [];
  const running: Entry[] = [];
  const waiting: Entry[] = [];
  for (const request of state.requests) {
    const reason = reasonToLeave(request, state.nowMs, capacity);
    if (reason !== null) retire.push({ id: request.id, reason });
    else
      (request.stage === 'waiting' ? waiting : running).push({ request, rank: rankOf(request, state.nowMs, capacity) });
  }
  running.sort(byPrecedence);
  waiting.sort(byPrecedence);

  const preempt = fitGrowth(running, capacity);
  const admit = admitWaiting(waiting, running, preempt, capacity);
  const byClass = new Map<number, string[]>();
  for (const { request } of running) {
    if (request.stage !== 'decode') continue;
    const index = classOf(request.maxTokens, capacity.classBounds);
    const ids = byClass.get(index);
    if (ids === undefined) byClass.set(index, [request.id]);
    else ids.push(request.id);
  }
  const decode = [...byClass].sort(([a], [b]) => a - b).map(([index, ids]) => ({ class: index, ids }));
  return {
    retire,
    preempt: preempt.map(({ request }) => request.id),
    admit: admit.map(({ request }) => ({ id: request.id, class: classOf(request.maxTokens, capacity.classBounds) })),
    promptWork: pickPromptWork(running, decode.length > 0, state.step, capacity),
    decode,
  };
}

function reasonToLeave(request: ScheduledRequest, nowMs: number, capacity: Capacity): RetireReason | null {
  if (request.cancelled) return 'cancelled';
  if (request.deadlineAtMs !== null && request.deadlineAtMs <= nowMs) return 'deadline';
  return request.stage === 'waiting' && !fitsAlone(request, capacity) ? 'never-fits' : null;
}

/** Age counts whether it waited or ran, so that a batch row is not preempted for ever just before it would end. */
function rankOf(request: ScheduledRequest, nowMs: number, capacity: Capacity): Rank {
  return request.priority === 'interactive' || nowMs - request.waitingSinceMs >= capacity.agingMs ? 0 : 1;
}

function byPrecedence(a: Entry, b: Entry): number {
  return a.rank - b.rank || a.request.arrival - b.request.arrival;
}

/** Takes the last rows out of `running` until what the rest needs fits, and gives them. */
function fitGrowth(running: Entry[], capacity: Capacity): Entry[] {
  const out: Entry[] = [];
  while (running.length > 1 && !roomOf(running, capacity, neededTokens).fits) out.push(running.pop()!);
  return out;
}

/** Moves waiting requests into `running`, and batch rows that must make place from `running` to `preempt`. */
function admitWaiting(
  waiting: readonly Entry[],
  running: Entry[],
  preempt: Entry[],
  capacity: Capacity,
): readonly Entry[] {
  const admitted: Entry[] = [];
  // Nobody overtakes a row in the very step that it is preempted; from the next step on it is the head of the queue.
  const barrier = preempt.at(-1) ?? null;
  const reserved = (request: ScheduledRequest) => reservedTokens(request, capacity.growthTokens);
  let taken = roomOf(running, capacity, reserved);
  let beside: Room | null = null;
  for (const entry of waiting) {
    const { request } = entry;
    if (barrier !== null && byPrecedence(entry, barrier) > 0) break;
    if (entry.rank === 1 && preempt.length > 0) break;
    if (beside !== null && taken.isFull) break;
    // An overtaker may grow to its full length before the head comes in; only what fits even then is beside it.
    const nextBeside: Room | null = beside === null ? null : beside.with(request, request.maxTokens);
    if (nextBeside !== null && !nextBeside.fits) continue;
    let withIt = taken.with(request, reserved(request));
    if (!withIt.fits) {
      if (beside !== null) continue;
      const out = entry.rank === 0 ? batchRowsInTheWay(entry, running, capacity, reserved) : [];
      if (out.length === 0) {
        beside = roomBeside(entry, running, capacity, reserved);
        continue;
      }
      preempt.push(...out);
      keep(running, (one) => !out.includes(one));
      withIt = roomOf(running, capacity, reserved).with(request, reserved(request));
    }
    taken = withIt;
    beside = nextBeside;
    admitted.push(entry);
    running.push({ ...entry, request: { ...request, stage: 'prefill' } });
  }
  running.sort(byPrecedence);
  return admitted;
}

/**
 * The batch rows to preempt so that an interactive request fits: taken from the last in precedence on, then given back from
 * the first on where they turn out not to matter. Empty when it would not fit even without all of them.
 */
function batchRowsInTheWay(
  entry: Entry,
  running: readonly Entry[],
  capacity: Capacity,
  tokens: (request: ScheduledRequest) => number,
): Entry[] {
  const stay = running.filter(({ rank }) => rank === 0);
  const batch = running.filter(({ rank }) => rank === 1).sort(byPrecedence);
  let room = roomOf(stay, capacity, tokens).add(entry.request, tokens(entry.request));
  if (!room.fits) return [];
  const out: Entry[] = [];
  for (const one of batch) {
    const withIt = room.with(one.request, tokens(one.request));
    if (withIt.fits) room = withIt;
    else out.push(one);
  }
  return out;
}

/**
 * The room in which the head will find itself: the head, the rows behind it in precedence (which it must not count on to
 * leave), and as many of those before it, longest to go, as leave it room.
 */
function roomBeside(
  head: Entry,
  running: readonly Entry[],
  capacity: Capacity,
  tokens: (request: ScheduledRequest) => number,
): Room {
  const before = running.filter((one) => byPrecedence(one, head) < 0).sort((a, b) => toGo(b.request) - toGo(a.request));
  const behind = running.filter((one) => byPrecedence(one, head) >= 0);
  let room = new Room(capacity).add(head.request, tokens(head.request));
  for (const { request } of behind) room.add(request, request.maxTokens);
  for (const { request } of before) {
    const withIt = room.with(request, request.maxTokens);
    if (!withIt.fits) break;
    room = withIt;
  }
  return room;
}

/** Tokens until the row is surely gone. */
function toGo(request: ScheduledRequest): number {
  return request.maxTokens - request.heldTokens;
}

function roomOf(entries: readonly Entry[], capacity: Capacity, tokens: (request: ScheduledRequest) => number): Room {
  const room = new Room(capacity);
  for (const { request } of entries) room.add(request, tokens(request));
  return room;
}

function keep<T>(items: T[], wanted: (item: T) => boolean): void {
  let write = 0;
  for (const item of items) if (wanted(item)) items[write++] = item;
  items.length = write;
}
