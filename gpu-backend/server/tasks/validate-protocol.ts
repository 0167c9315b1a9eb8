/** Messages between the server and the child process that validates data; they cross the IPC channel by structured clone. */
import type { ValidateTask } from '../../../shared/contract/backend.ts';
import type { ValidationProgress } from '../../../shared/contract/datasets.ts';
import type { ValidateResult } from '../../../shared/contract/taskResults.ts';

export interface ValidateStart {
  readonly type: 'start';
  readonly taskId: string;
  readonly spec: ValidateTask;
  readonly edgeUrl: string;
  readonly secret: string;
  /** Checkpoint folder of the base model. */
  readonly baseDir: string;
  /** Folder of this task alone; removed by the parent afterwards. */
  readonly workDir: string;
  readonly threads: number;
  /** Name of this backend in the estimate. */
  readonly backendId: string;
}

export type FromValidator =
  | { readonly type: 'progress'; readonly progress: ValidationProgress }
  /** A defect, or an edge that stayed away: nothing the data did. */
  | { readonly type: 'crashed'; readonly message: string }
  | { readonly type: 'done'; readonly result: ValidateResult };
