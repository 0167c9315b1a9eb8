import type { ModelService } from '../../engine/service.ts';
import type { TaskHandlers } from '../task-runner.ts';

/** What this backend does of each kind of task. @param service answers questions, for tasks that ask models */
export function taskHandlers(_service: ModelService): TaskHandlers {
  return {};
}
