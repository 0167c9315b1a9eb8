/** One line of a batch as the request that it is. */
import type { BatchEndpoint } from '../../shared/contract/batches.ts';
import { type AskOptions, completeChat, costOf } from '../chat/complete.ts';
import { showScores } from '../chat/scores.ts';
import { validateChat, validateScore } from '../chat/validate.ts';
import type { Env } from '../env.ts';
import { score } from '../fleet/forward.ts';

/** What an HTTP client would have got as the body of a 200. @throws ApiError for every other answer */
export async function executeLine(
  env: Env,
  who: { tenant: string; requestId: string },
  endpoint: BatchEndpoint,
  body: unknown,
  options: AskOptions,
): Promise<unknown> {
  if (endpoint === '/v1/chat/completions') return completeChat(env, await validateChat(env, who, body, who), options);
  const valid = await validateScore(env, who, body, who);
  const asked = { ...valid.request, options: valid.score.options };
  const how = { ...options, base: valid.model.card.id, cost: costOf(valid) };
  return showScores(valid.model.id, asked.options, await score(env, asked, valid.blobs, how));
}
