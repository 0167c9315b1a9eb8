import type { Context } from 'hono';
import type { ScoreResponse } from '../../shared/contract/score.ts';
import { showUsage } from '../chat/answer.ts';
import { costOf } from '../chat/complete.ts';
import { validateScore } from '../chat/validate.ts';
import type { AppEnv } from '../env.ts';
import { score } from '../fleet/forward.ts';
import { admitted } from '../limits/admitted.ts';
import { bodyBytes, costOfRequest } from '../limits/cost.ts';
import { readJsonValue } from '../middleware/body.ts';
import { askOptions, deadlineMs } from './chat.ts';

/** `POST /v1/score`. */
export async function createScore(c: Context<AppEnv>): Promise<Response> {
  const who = { requestId: c.get('requestId'), tenant: c.get('tenant') };
  const valid = await validateScore(c.env, who, await readJsonValue(c), who);
  const { model, request, blobs } = valid;
  const { options } = valid.score;
  const asked = { ...request, deadlineMs: deadlineMs(c), options };
  return await admitted(c, costOfRequest(valid, bodyBytes(c.req.raw.headers)), async () => {
    const { scores, usage } = await score(c.env, asked, blobs, {
      ...askOptions(c),
      base: model.card.id,
      cost: costOf({ model, request }),
    });
    const logprobs = scores.map(({ logprob }) => logprob);
    const body: ScoreResponse = {
      object: 'score',
      model: model.id,
      scores: options.map((option, i) => ({ option, logprob: scores[i]!.logprob, token_count: scores[i]!.tokens })),
      best: logprobs.indexOf(Math.max(...logprobs)),
      usage: showUsage(usage),
    };
    return c.json(body);
  });
}
