/** Messages between the server and the child process that trains; they cross the IPC channel by structured clone. */
import type { JobSpec } from '../../shared/contract/backend.ts';
import type { JobError } from '../../shared/contract/jobs.ts';
import type { FineTunePhase } from '../train/finetune-spec.ts';
import type { Evaluated } from './checkpoint-evaluator.ts';

/** One job to train, beside those that the process trains already. */
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
  /** Features of pictures, for all jobs of this machine and later ones. */
  readonly featureDir: string;
  readonly threads: number;
  /** `s3://bucket/prefix` for its checkpoints; null: they go through the edge. */
  readonly checkpointStore: string | null;
  /** Share of the micro-batches that the stages say; below 1 where tries ran out of memory. */
  readonly microBatchShare: number;
}

/**
 * `cancel`: the user wants no more of it. `pause`: not now; save what there is. `drain`: the server is going down; likewise. `lost`: the lease is gone;
 * nothing more may be written.
 */
export type StopReason = 'cancel' | 'pause' | 'drain' | 'lost';

export type ToChild =
  | ChildStart
  | { readonly type: 'stop'; readonly jobId: string; readonly reason: StopReason }
  /** What was asked for by `evaluate`. */
  | { readonly type: 'evaluated'; readonly jobId: string; readonly step: number; readonly result: EvaluationOutcome }
  /** Whether answers are computed on the machine just now. */
  | { readonly type: 'busy'; readonly isBusy: boolean };

export type EvaluationOutcome = Evaluated | { readonly error: string };

export type JobOutcome =
  | { readonly status: 'succeeded'; readonly finalStep: number; readonly trainedTokens: number }
  | { readonly status: 'failed'; readonly error: JobError; readonly trainedTokens: number | null }
  /** `error`: why it was given back, where it was not asked for. It is the job's when all tries end so. */
  | {
      readonly status: 'cancelled' | 'released' | 'paused';
      readonly trainedTokens: number | null;
      readonly error?: JobError;
    };

export type FromChild =
  /** Comes from the thread that computes, about once a second while it is not stuck. */
  | { readonly type: 'alive' }
  | { readonly type: 'phase'; readonly jobId: string; readonly phase: FineTunePhase }
  | { readonly type: 'step'; readonly jobId: string; readonly step: number; readonly totalSteps: number }
  /** A new checkpoint is at the edge. */
  | { readonly type: 'checkpoint'; readonly jobId: string }
  /** The checkpoint of that step, at the edge and served under this name, wants to be evaluated. */
  | { readonly type: 'evaluate'; readonly jobId: string; readonly step: number; readonly model: string }
  /** The lease is gone: somebody else has the job, nothing more may be written. */
  | { readonly type: 'lost'; readonly jobId: string }
  | { readonly type: 'done'; readonly jobId: string; readonly outcome: JobOutcome };
