/** One line of a batch as the request that it is. */
import type { BatchEndpoint } from '../../shared/contract/batches.ts';
import { type AskOptions, completeChat, costOf } from '../chat/complete.ts';
import { showScores } from '../chat/scores.ts';
import { validateChat, validateScore } from '../chat/validate.ts';
import { nowMs } from '../clock.ts';
import type { Env } from '../env.ts';
import { score } from '../fleet/forward.ts';
import type { ImageMemory } from '../images/memory.ts';
import { meteredOf, recordUsage, usageRow } from '../usage/record.ts';

/** Whose line it is, and how it is billed. */
export type LineContext = {
  tenant: string;
  keyId: string;
  requestId: string;
  batch: { id: string; line: number };
  /** Length of the line. */
  bytes: number;
  /** Pictures of the batch. */
  memory: ImageMemory;
};

/** What an HTTP client would have got as the body of a 200; what it used is recorded. @throws ApiError for every other answer */
export async function executeLine(
  env: Env,
  line: LineContext,
  endpoint: BatchEndpoint,
  body: unknown,
  options: AskOptions,
): Promise<unknown> {
  const who = { tenant: line.tenant, requestId: line.requestId, memory: line.memory };
  const record = (valid: Parameters<typeof meteredOf>[0]) => {
    const context = { ...line, route: endpoint, status: 200 };
    recordUsage(env, options, usageRow(meteredOf(valid, line.bytes), options.facts, context, nowMs()));
  };
  if (endpoint === '/v1/chat/completions') {
    const valid = await validateChat(env, who, body, who);
    const answer = await completeChat(env, valid, options);
    record(valid);
    return answer;
  }
  const valid = await validateScore(env, who, body, who);
  const asked = { ...valid.request, options: valid.score.options };
  const how = { ...options, base: valid.model.card.id, cost: costOf(valid) };
  const scored = await score(env, asked, valid.blobs, how);
  record(valid);
  return showScores(valid.model.id, asked.options, scored);
}
