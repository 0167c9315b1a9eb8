import type { Context } from 'hono';
import { ApiError, describe, type Violation, violation } from '../../shared/contract/errors.ts';
import { LIMITS } from '../../shared/contract/limits.ts';
import type { AppEnv } from '../env.ts';

/** `limit` and `after` of a list request. */
export function listQuery(
  c: Context<AppEnv>,
  defaultLimit: number = LIMITS.lists.defaultLimit,
): { limit: number; after: string | null } {
  const wrong: Violation[] = [];
  const text = c.req.query('limit');
  const limit = text === undefined ? defaultLimit : Number(text);
  if (!Number.isInteger(limit) || limit < 1 || limit > LIMITS.lists.maxLimit) {
    wrong.push(
      violation('invalid_value', 'limit', {
        expected: `an integer from 1 to ${LIMITS.lists.maxLimit}`,
        received: describe(text),
      }),
    );
  }
  if (wrong.length > 0) throw ApiError.from(wrong);
  return { limit, after: c.req.query('after') ?? null };
}
