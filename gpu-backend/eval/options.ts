import type { Json } from './task.ts';

/**
 * How text and pictures of a question are put together.
 * - `interleaved`: pieces of text and pictures in the order of the question, as a chat message holds them.
 * - `llava`: the same, with a space after every picture: the one string that the Mantis paper's LLaVA wrapper builds.
 * - `pictures-first`: all pictures, then all text joined by newlines: the paper's Idefics2 wrapper, which loses the interleaving.
 */
export const promptLayouts = ['interleaved', 'llava', 'pictures-first'] as const;
export type PromptLayout = (typeof promptLayouts)[number];

/** Choices that a protocol leaves open; each is part of the protocol and thereby of the hash that a report prints. */
export interface TaskOptions {
  /** Default `interleaved`. */
  readonly layout?: PromptLayout;
  /**
   * Of questions with options. `generation` as published: the model writes and the parser reads. `likelihood`: the letter that the model finds most likely,
   * where it can be asked for likelihoods. Default `generation`.
   */
  readonly answerBy?: 'generation' | 'likelihood';
  /** Longest answer, tokens. Default: the task's. */
  readonly maxTokens?: number;
}

/** Options as they stand in a protocol. */
export interface ResolvedOptions {
  readonly layout: PromptLayout;
  readonly answerBy: 'generation' | 'likelihood';
  readonly maxTokens: number;
}

export function resolveOptions(options: TaskOptions | undefined, maxTokens: number): ResolvedOptions & { readonly [key: string]: Json } {
  const resolved = { layout: 'interleaved', answerBy: 'generation', maxTokens, ...options } as const;
  if (!Number.isInteger(resolved.maxTokens) || resolved.maxTokens < 1)
    throw new RangeError(`maxTokens: expected a whole number of at least 1, received ${resolved.maxTokens}`);
  return resolved;
}
