import type { Context } from 'hono';
import { countChat } from '../chat/validate.ts';
import type { AppEnv } from '../env.ts';
import { readJsonValue } from '../middleware/body.ts';

/** `POST /v1/chat/completions/input_tokens`: takes what `/v1/chat/completions` takes, answers what it would cost. */
export async function countInputTokens(c: Context<AppEnv>): Promise<Response> {
  const who = { requestId: c.get('requestId'), tenant: c.get('tenant') };
  return c.json(await countChat(c.env, who, await readJsonValue(c), who));
}
