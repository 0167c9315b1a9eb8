import type { Context } from 'hono';
import { costOf } from '../chat/complete.ts';
import { showScores } from '../chat/scores.ts';
import { validateScore } from '../chat/validate.ts';
import type { AppEnv } from '../env.ts';
import { score } from '../fleet/forward.ts';
import { admittedForModel } from '../limits/admitted.ts';
import { readJsonValue } from '../middleware/body.ts';
import { askOptions, deadlineMs } from './chat.ts';

/** `POST /v1/score`. */
export async function createScore(c: Context<AppEnv>): Promise<Response> {
  const who = { requestId: c.get('requestId'), tenant: c.get('tenant') };
  const valid = await validateScore(c.env, who, await readJsonValue(c), who);
  const { model, request, blobs } = valid;
  const { options } = valid.score;
  const asked = { ...request, deadlineMs: deadlineMs(c), options };
  return await admittedForModel(c, valid, async () => {
    const scored = await score(c.env, asked, blobs, {
      ...askOptions(c),
      base: model.card.id,
      cost: costOf({ model, request }),
    });
    return c.json(showScores(model.id, options, scored));
  });
}
