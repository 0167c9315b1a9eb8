/** Places in a grammar: where an answer stands, and what it will return to. */
import type { TokenMask } from './token-mask.ts';

/** A stack of places to return to; equal stacks are one object. */
export class Frame {
  readonly #above = new Map<number, Frame>();

  constructor(
    /** State to go on in; -1 at the bottom. */
    readonly state: number,
    readonly below: Frame | null,
    /** Least bytes to the end of everything on the stack. */
    readonly distance: number,
    readonly id: number,
  ) {}

  push(state: number, distance: number, nextId: () => number): Frame {
    let frame = this.#above.get(state);
    if (frame === undefined) {
      frame = new Frame(state, this, this.distance + distance, nextId());
      this.#above.set(state, frame);
    }
    return frame;
  }
}

export interface Configuration {
  readonly state: number;
  readonly stack: Frame;
}

/** A place in the grammar between two bytes. */
export class Place {
  /** By byte class less `firstClass`, so that a literal's place has one entry; `null` = nothing fits, undefined = not computed yet. */
  readonly next: (Place | null | undefined)[] = [];
  mask: TokenMask | null = null;
  /** Too many tokens fit to list them quickly. */
  hasMany = false;

  constructor(
    /** Those that can take a byte. */
    readonly configurations: readonly Configuration[],
    /** The text may end here. */
    readonly canEnd: boolean,
    /** The rule at the bottom ended here; only where a state's own tokens are computed. */
    readonly exits: boolean,
    /** Least number of one-byte tokens to an end; infinite = none is known. */
    readonly distance: number,
    /** Some way to an end takes at least one more byte. */
    readonly continues: boolean,
    /** Bytes below and above these do not fit. */
    readonly low: number,
    readonly high: number,
    /** Class of `low`. */
    readonly firstClass: number,
    /** A space may come first that the answer's text will not show. */
    readonly skipsSpace = false,
  ) {}

  /** The text is complete: nothing can follow. */
  get isComplete(): boolean {
    return this.canEnd && !this.continues;
  }
}
