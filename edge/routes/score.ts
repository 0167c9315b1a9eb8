import type { Context } from 'hono';
import { ScoreRequest, type ScoreResponse } from '../../shared/contract/score.ts';
import { showUsage } from '../chat/answer.ts';
import { costOf } from '../chat/complete.ts';
import { buildPrompt } from '../chat/prompt.ts';
import type { AppEnv } from '../env.ts';
import { score } from '../fleet/forward.ts';
import { resolveModel } from '../fleet/models.ts';
import { readJson } from '../middleware/body.ts';
import { askOptions, deadlineMs } from './chat.ts';

/** `POST /v1/score`. */
export async function createScore(c: Context<AppEnv>): Promise<Response> {
  const { model: name, messages, options } = await readJson(c, ScoreRequest);
  const who = { requestId: c.get('requestId'), tenant: c.get('tenant') };
  const model = await resolveModel(c.env, who.tenant, name);
  const store = { db: c.env.DB, blobs: c.env.BLOBS, tenant: who.tenant };
  const { request, blobs } = await buildPrompt({ model: name, messages }, model, store, who);
  const asked = { ...request, deadlineMs: deadlineMs(c), options };
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
}
