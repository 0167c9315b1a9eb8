/**
 * Prompt-lookup speculation (Saxena, 2023; LLMA, Yang et al., 2023): answers about a prompt often repeat pieces of it. Where the
 * last tokens have occurred before, the tokens that followed then are tried as the next ones, all in one run. The sampler draws
 * from the model's own logits one by one, so what comes out is what would have come out without.
 */

/** Drafted tokens of one run. Four rows cost little more than one; more are seldom accepted. */
export const DRAFT_TOKENS = 3;
const LONGEST_MATCH = 4;
const SHORTEST_MATCH = 2;
/** How far back is looked. */
const WINDOW = 4096;

/** The tokens that followed the last occurrence of the last 4, 3 or 2 tokens; empty where these never occurred before. */
export function draft(tokens: Int32Array, count: number, most: number): Int32Array {
  const first = Math.max(0, count - WINDOW);
  for (let match = LONGEST_MATCH; match >= SHORTEST_MATCH; match--) {
    if (count - first <= match || most < 1) continue;
    for (let at = count - match - 1; at >= first; at--) {
      let same = 0;
      while (same < match && tokens[at + same] === tokens[count - match + same]) same++;
      if (same === match) return tokens.subarray(at + match, Math.min(at + match + most, count));
    }
  }
  return tokens.subarray(0, 0);
}

/** Whether trying pays: a running mean of accepted tokens a run, over the engine's last runs. */
export class Speculation {
  /** Starts hopeful enough for a few tries. */
  #accepted = 1;
  #idle = 0;

  /** A run of four positions costs about 1.5 of a run of one; below half a token accepted a try it loses. */
  get pays(): boolean {
    if (this.#accepted >= 0.5) return true;
    // Another look now and then: answers change their nature.
    if (++this.#idle < 32) return false;
    this.#idle = 0;
    this.#accepted = 0.75;
    return true;
  }

  observe(accepted: number): void {
    this.#accepted += 0.25 * (accepted - this.#accepted);
  }
}
