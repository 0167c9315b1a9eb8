/**
 * Refusal at the door: what can never be served is answered at once, with the numbers, instead of waiting in a queue for
 * memory that will never exist. What merely does not fit *now* is the scheduler's business.
 */
import { arenaTokens } from './scheduler/room.ts';
import type { Capacity } from './scheduler/types.ts';

export type Refusal =
  | { readonly code: 'context_length_exceeded'; readonly message: string }
  | { readonly code: 'empty_prompt'; readonly message: string };

export interface AdmissionRequest {
  readonly promptTokens: number;
  /** Of the prompt tokens, those that stand for image patches; only used in the message. */
  readonly imageTokens: number;
  /** Tokens asked for; `null` = as many as the context leaves, at most `defaultMaxNewTokens`. */
  readonly maxNewTokens: number | null;
}

export interface AdmissionLimits {
  /** Positions the model was trained for: prompt and answer together. */
  readonly contextTokens: number;
  readonly defaultMaxNewTokens: number;
  readonly capacity: Capacity;
}

/** Gives the number of new tokens to reserve, or why the request can never be served. */
export function admit(
  request: AdmissionRequest,
  limits: AdmissionLimits,
): { readonly maxNewTokens: number } | { readonly refusal: Refusal } {
  if (request.promptTokens < 1)
    return { refusal: { code: 'empty_prompt', message: 'The prompt has 0 tokens; expected at least 1.' } };
  const { contextTokens, capacity } = limits;
  const room = contextTokens - request.promptTokens;
  const asked = request.maxNewTokens ?? Math.min(limits.defaultMaxNewTokens, Math.max(room, 1));
  const text = request.promptTokens - request.imageTokens;
  if (asked > room)
    return {
      refusal: {
        code: 'context_length_exceeded',
        message:
          `This model's context is ${contextTokens} tokens. The prompt takes ${request.promptTokens} (${text} text + ` +
          `${request.imageTokens} image) and ${asked} more were asked for the answer, ${request.promptTokens + asked} in all. ` +
          'Send fewer images or less text, or lower max_tokens.',
      },
    };
  const arena = arenaTokens(1, request.promptTokens + asked, capacity.kvStepTokens);
  if (arena > capacity.kvTokens)
    return {
      refusal: {
        code: 'context_length_exceeded',
        message:
          `The prompt (${request.promptTokens} tokens) and the answer (${asked}) need ${arena} positions of KV cache; ` +
          `this server holds ${capacity.kvTokens}. Send less, or start the server with a larger KV budget.`,
      },
    };
  return { maxNewTokens: asked };
}
