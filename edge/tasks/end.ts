/** What the end of a task means, by its kind: the result as it is stored, and what is written in the transaction of the end. */
import type { TaskFinishRequest } from '../../shared/contract/backend.ts';
import type { Env } from '../env.ts';
import type { TaskRow, TaskStatus } from '../store/tasks.ts';

export type TaskEnd = {
  result: unknown;
  along: (status: TaskStatus, guard: string) => D1PreparedStatement[];
};

/** @throws ApiError where the result is not what the kind's result is */
export async function taskEnd(_env: Env, _row: TaskRow, body: TaskFinishRequest): Promise<TaskEnd> {
  return { result: body.result, along: () => [] };
}
