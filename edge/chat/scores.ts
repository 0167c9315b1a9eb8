import type { BackendScoreResponse } from '../../shared/contract/backend.ts';
import type { ScoreResponse } from '../../shared/contract/score.ts';
import { showUsage } from './answer.ts';

/** A backend's scores of `options` as the client reads them. */
export function showScores(
  model: string,
  options: readonly string[],
  { scores, usage }: BackendScoreResponse,
): ScoreResponse {
  const logprobs = scores.map(({ logprob }) => logprob);
  return {
    object: 'score',
    model,
    scores: options.map((option, i) => ({ option, logprob: scores[i]!.logprob, token_count: scores[i]!.tokens })),
    best: logprobs.indexOf(Math.max(...logprobs)),
    usage: showUsage(usage),
  };
}
