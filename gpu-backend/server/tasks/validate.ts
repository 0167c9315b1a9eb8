import { fork } from 'node:child_process';
import { fileURLToPath } from 'node:url';
import type { ValidateTask } from '../../../shared/contract/backend.ts';
import type { ValidateResult } from '../../../shared/contract/taskResults.ts';
import { childEnd } from '../child-end.ts';
import type { TaskHandler } from '../task-runner.ts';
import type { FromValidator, ValidateStart } from './validate-protocol.ts';

/** How often the edge is told how far it is, at most. */
const TELL_EVERY_MS = 1_000;

/**
 * Validates data in a process of its own: files of gigabytes and pictures from anywhere must not cost the server more than this task.
 * @param secret signs the child's calls to the edge
 */
export function validateHandler(secret: string): TaskHandler<ValidateTask> {
  return async ({ id, spec, leaseToken }, { edge, workDir, threads, log, signal, baseDirOf, backendId }) => {
    const baseDir = baseDirOf(spec.baseModel);
    if (baseDir === null) throw new Error(`this backend does not have the base model ${spec.baseModel}`);
    signal.throwIfAborted();
    const child = fork(fileURLToPath(new URL('./validate-child.ts', import.meta.url)), {
      execArgv: ['--import', import.meta.resolve('tsx')],
      serialization: 'advanced',
      stdio: ['ignore', 'inherit', 'inherit', 'ipc'],
    });
    // The child has nothing to save: what it knew is found out again.
    const kill = () => void child.kill('SIGKILL');
    signal.addEventListener('abort', kill, { once: true });
    let result: ValidateResult | null = null;
    let crash: string | null = null;
    let saidAt = 0;
    child.on('message', (message: FromValidator) => {
      if (message.type === 'done') result = message.result;
      else if (message.type === 'crashed') crash = message.message;
      else if (performance.now() - saidAt > TELL_EVERY_MS) {
        saidAt = performance.now();
        log.debug(message.progress, 'validating data');
        // Only for those who look; what is lost is told again.
        edge.post(`/internal/tasks/${id}/progress`, { token: leaseToken, progress: message.progress }).catch(() => {});
      }
    });
    const start: ValidateStart = {
      type: 'start',
      taskId: id,
      spec,
      edgeUrl: edge.url,
      secret,
      baseDir,
      workDir,
      threads,
      backendId,
    };
    child.send(start);
    const { how } = await childEnd(child);
    signal.removeEventListener('abort', kill);
    signal.throwIfAborted();
    if (result !== null) return result;
    throw new Error(crash ?? `the process that validates died (${how})`);
  };
}
