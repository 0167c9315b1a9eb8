/** Arithmetic of KV room: dense arenas, one for each class of row length. */
import type { Capacity, ScheduledRequest } from './types.ts';

/** Index of the first bound that holds `maxTokens`; `classBounds.length` beyond the last. */
export function classOf(maxTokens: number, classBounds: readonly number[]): number {
  for (let index = 0; index < classBounds.length; index++) if (maxTokens <= classBounds[index]!) return index;
  return classBounds.length;
}

/** Arena positions for `rows` rows of which the longest needs `longestTokens`. */
export function arenaTokens(rows: number, longestTokens: number, kvStepTokens: number): number {
  const steps = Math.ceil(Math.max(1, longestTokens) / Math.max(1, kvStepTokens));
  return rows === 0 ? 0 : rows * steps * Math.max(1, kvStepTokens);
}

/** Positions a row occupies by the end of this step. A row is given its whole target at once. */
export function neededTokens({ stage, targetTokens, heldTokens }: ScheduledRequest): number {
  if (stage === 'waiting') return targetTokens;
  return Math.max(targetTokens, heldTokens + (stage === 'decode' ? 1 : 0));
}

/** Positions a row should have room for so that it is not preempted soon after. */
export function reservedTokens(request: ScheduledRequest, growthTokens: number): number {
  const needed = neededTokens(request);
  return Math.max(needed, Math.min(request.maxTokens, needed + Math.max(0, growthTokens)));
}

/** Whether the request would fit if it were the only one. */
export function fitsAlone(request: Pick<ScheduledRequest, 'maxTokens' | 'targetTokens'>, capacity: Capacity): boolean {
  const longest = Math.max(request.maxTokens, request.targetTokens);
  return capacity.maxRows >= 1 && arenaTokens(1, longest, capacity.kvStepTokens) <= capacity.kvTokens;
}

/** A set of rows and the room they take. Copying is cheap: two numbers a class. */
export class Room {
  readonly #capacity: Capacity;
  #rows = 0;
  readonly #count: number[];
  readonly #longest: number[];

  constructor(capacity: Capacity, from?: Room) {
    this.#capacity = capacity;
    const classes = capacity.classBounds.length + 1;
    this.#rows = from?.rows ?? 0;
    this.#count = from === undefined ? new Array<number>(classes).fill(0) : [...from.#count];
    this.#longest = from === undefined ? new Array<number>(classes).fill(0) : [...from.#longest];
  }

  get rows(): number {
    return this.#rows;
  }

  /** Positions of all arenas. */
  get tokens(): number {
    let sum = 0;
    for (let index = 0; index < this.#count.length; index++)
      sum += arenaTokens(this.#count[index]!, this.#longest[index]!, this.#capacity.kvStepTokens);
    return sum;
  }

  get fits(): boolean {
    return this.#rows <= this.#capacity.maxRows && this.tokens <= this.#capacity.kvTokens;
  }

  /** Whether not even the smallest row fits beside these. */
  get isFull(): boolean {
    return this.#rows >= this.#capacity.maxRows || this.tokens + this.#capacity.kvStepTokens > this.#capacity.kvTokens;
  }

  /** Adds a row of `tokens` positions to the arena of its class. */
  add(request: ScheduledRequest, tokens: number): this {
    const index = classOf(request.maxTokens, this.#capacity.classBounds);
    this.#rows++;
    this.#count[index]!++;
    if (tokens > this.#longest[index]!) this.#longest[index] = tokens;
    return this;
  }

  /** The same rows and one more. */
  with(request: ScheduledRequest, tokens: number): Room {
    return new Room(this.#capacity, this).add(request, tokens);
  }
}
