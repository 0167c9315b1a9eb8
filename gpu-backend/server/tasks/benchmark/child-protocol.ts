/** Messages between the server and the process that lays a benchmark out. */
import type { EvaluateTask } from '../../../../shared/contract/evalTask.ts';
import type { LaidOut } from './laid.ts';

export interface LayoutStart {
  readonly source: Extract<EvaluateTask['source'], { type: 'benchmark' }>;
  /** Holds the uploaded files. */
  readonly folder: string;
  /** Is filled. */
  readonly into: string;
}

export type FromLayout =
  | { readonly type: 'done'; readonly laid: LaidOut }
  | { readonly type: 'refused'; readonly message: string; readonly param: string }
  /** A defect of ours, or a machine's: it may go better elsewhere. */
  | { readonly type: 'crashed'; readonly message: string };
