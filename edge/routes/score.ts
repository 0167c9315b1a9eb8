import type { Context } from 'hono';
import { ScoreRequest, type ScoreResponse } from '../../shared/contract/score.ts';
import { showUsage } from '../chat/answer.ts';
import { buildPrompt } from '../chat/prompt.ts';
import type { AppEnv } from '../env.ts';
import { score } from '../fleet/forward.ts';
import { resolveModel } from '../fleet/models.ts';
import { readJson } from '../middleware/body.ts';

const SILENCE_SLACK_MS = 5_000;

/** `POST /v1/score`. */
export async function createScore(c: Context<AppEnv>): Promise<Response> {
  const { model: name, messages, options } = await readJson(c, ScoreRequest);
  const model = await resolveModel(c.env, name);
  const who = { requestId: c.get('requestId'), tenant: c.get('tenant') };
  const store = { db: c.env.DB, blobs: c.env.BLOBS };
  const { request, blobs } = await buildPrompt({ model: name, messages }, model, store, who);
  const aborter = new AbortController();
  c.req.raw.signal.addEventListener('abort', () => aborter.abort());
  const signal = AbortSignal.any([aborter.signal, AbortSignal.timeout(request.deadlineMs + SILENCE_SLACK_MS)]);
  const { scores, usage } = await score(c.env, model.card.id, { ...request, options }, blobs, signal);
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
