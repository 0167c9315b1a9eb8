import type { LogprobEntry } from '../../shared/contract/backend.ts';
import type { DetokenizerStream, Tokenizer } from '../text/tokenizer.ts';
import type { SampledToken } from './sampler.ts';
import { StopMatcher } from './stop.ts';

export interface Delta {
  readonly text: string;
  readonly logprobs: readonly LogprobEntry[] | null;
}

/**
 * Text of one answer as its tokens arrive: never half a character, never a part of a stop string. Log-probabilities go out
 * with the text that their tokens completed.
 */
export class AnswerText {
  readonly #tokenizer: Tokenizer;
  readonly #stream: DetokenizerStream;
  readonly #stops: StopMatcher;
  readonly #wantsLogprobs: boolean;
  #pending: LogprobEntry[] = [];

  constructor(options: {
    readonly tokenizer: Tokenizer;
    readonly stop: readonly string[];
    readonly logprobs: boolean;
  }) {
    this.#tokenizer = options.tokenizer;
    this.#stream = options.tokenizer.createStream();
    this.#stops = new StopMatcher(options.stop);
    this.#wantsLogprobs = options.logprobs;
  }

  /** A stop string has been completed: the answer is over. */
  get stopped(): boolean {
    return this.#stops.stopped;
  }

  /** What this token makes ready to send; `null` = nothing yet. */
  push(token: SampledToken): Delta | null {
    if (this.#wantsLogprobs)
      this.#pending.push({
        ...this.#written(token.id, token.logprob),
        top: token.top.map(({ id, logprob }) => this.#written(id, logprob)),
      });
    return this.#delta(this.#stops.push(this.#stream.push(token.id)));
  }

  /** The rest at the end of the answer. */
  finish(): Delta | null {
    if (this.#stops.stopped) return null;
    const last = this.#stops.push(this.#stream.finish());
    return this.#delta(last + this.#stops.flush());
  }

  #delta(text: string): Delta | null {
    if (text === '') return null;
    const logprobs = this.#wantsLogprobs ? this.#pending : null;
    this.#pending = [];
    return { text, logprobs };
  }

  #written(id: number, logprob: number): { token: string; logprob: number; bytes: number[] } {
    const token = this.#tokenizer.decode([id], { keepSpecials: true });
    return { token, logprob, bytes: [...(this.#tokenizer.bytesOf(id) ?? new TextEncoder().encode(token))] };
  }
}
