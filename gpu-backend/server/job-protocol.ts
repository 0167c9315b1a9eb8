/** Messages between the server and the child process that trains; they cross the IPC channel by structured clone. */
import type { JobSpec } from '../../shared/contract/backend.ts';
import type { JobError } from '../../shared/contract/jobs.ts';

export interface ChildStart {
  readonly type: 'start';
  readonly job: JobSpec;
  readonly leaseToken: number;
  readonly edgeUrl: string;
  readonly secret: string;
  /** Folder of the base model's checkpoint. */
  readonly baseDir: string;
  /** Folder of this job alone; removed by the parent afterwards. */
  readonly workDir: string;
  readonly threads: number;
}

/** `cancel`: the user wants no more of it. `pause`: not now; save what there is. `drain`: the server is going down; likewise. */
export type StopReason = 'cancel' | 'pause' | 'drain';

export type ToChild = ChildStart | { readonly type: 'stop'; readonly reason: StopReason };

export type JobOutcome =
  | { readonly status: 'succeeded'; readonly finalStep: number; readonly trainedTokens: number }
  | { readonly status: 'failed'; readonly error: JobError; readonly trainedTokens: number | null }
  | { readonly status: 'cancelled' | 'released' | 'paused'; readonly trainedTokens: number | null };

export type FromChild =
  | { readonly type: 'progress'; readonly step: number; readonly totalSteps: number }
  /** The lease is gone: somebody else has the job, nothing more may be written. */
  | { readonly type: 'lost' }
  /** A defect or a lost disk: nothing the data or the user did. */
  | { readonly type: 'crashed'; readonly message: string }
  | { readonly type: 'done'; readonly outcome: JobOutcome };
