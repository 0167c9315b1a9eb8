import type { ModelService } from '../../engine/service.ts';
import type { TaskHandlers } from '../task-runner.ts';
import { compareHandler } from './compare.ts';
import { evaluateHandler, type ObserveQuestion } from './evaluate.ts';
import { validateHandler } from './validate.ts';

/**
 * What this backend does of each kind of task.
 * @param service answers questions, for tasks that ask models
 * @param secret signs calls of child processes to the edge
 * @param onQuestion called for every question of an evaluation
 */
export function taskHandlers(service: ModelService, secret: string, onQuestion?: ObserveQuestion): TaskHandlers {
  return {
    validate: validateHandler(secret),
    compare: compareHandler(service),
    evaluate: evaluateHandler(service, onQuestion),
  };
}
