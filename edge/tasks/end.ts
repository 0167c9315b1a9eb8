/** What the end of a task means, by its kind: the result as it is stored, and what is written in the transaction of the end. */
import type { TaskFinishRequest } from '../../shared/contract/backend.ts';
import { validationEnd } from '../datasets/end.ts';
import type { Env } from '../env.ts';
import { evaluationEnd } from '../evals/end.ts';
import { comparisonEnd } from '../schedules/comparison.ts';
import type { TaskRow, TaskStatus } from '../store/tasks.ts';

export type TaskEnd = {
  result: unknown;
  along: (status: TaskStatus, guard: string) => D1PreparedStatement[];
};

/** @throws ApiError where the result is not what the kind's result is */
export async function taskEnd(env: Env, row: TaskRow, body: TaskFinishRequest): Promise<TaskEnd> {
  if (row.kind === 'validate') return validationEnd(env, row, body);
  if (row.kind === 'compare') return comparisonEnd(env, row, body);
  if (row.kind === 'evaluate') return evaluationEnd(env, row, body);
  return { result: body.result, along: () => [] };
}
