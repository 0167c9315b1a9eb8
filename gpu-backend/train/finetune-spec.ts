import type { DataSpec, LeftOut } from '../../shared/contract/backend.ts';
import type { Stage } from '../../shared/contract/training.ts';

/** A list of examples: what is taken of which files, and where their bytes lie on disk, file by file in the order of `spec.files`. */
export interface FineTuneData {
  readonly spec: DataSpec;
  readonly paths: readonly string[];
}

export interface FineTuneSpec {
  /** Checkpoint folder of the base model. */
  readonly baseDir: string;
  /** Folder of an earlier fine-tune of the same base to start from. */
  readonly tunedDir?: string;
  /** `Stage.data` is an index into it. */
  readonly data: readonly FineTuneData[];
  readonly validation?: FineTuneData;
  /** One after the other; each starts from the weights that the one before it ended with. */
  readonly stages: readonly Stage[];
  /** Lines that validation ruled out; they are skipped exactly. */
  readonly leftOut: LeftOut;
  readonly seed: number;
  /** Kernel threads. Default 1. */
  readonly threads?: number;
  /** Scratch of the job: examples and pictures taken from the files. Kept over a restart it saves work; nothing depends on it. */
  readonly workDir: string;
  /** Features of pictures are kept here over restarts, and may be shared by jobs. Default `<workDir>/features`. */
  readonly featureDir?: string;
  /** Checkpoints are written here, as `step-XXXXXXXX/`; steps are numbered through all stages. */
  readonly outDir: string;
  /** Folder of a checkpoint of the same job to go on from; it says in which stage. */
  readonly resumeDir?: string;
  /** Steps between checkpoints; the end of a stage has one too. Default: ten checkpoints. */
  readonly checkpointEvery?: number;
  /** Epochs end with a checkpoint too. Default false. */
  readonly epochCheckpoints?: boolean;
  /** Newest checkpoints left in `outDir`. Default 2. */
  readonly keep?: number;
  /** Micro-batches are of this share of what the stages say: tries before this one ran out of memory. Default 1. */
  readonly microBatchShare?: number;
  /** Time that the job may train, over all its tries: what is lost between a checkpoint and a kill is not counted. Then it fails with `time_limit`. */
  readonly maxDurationS?: number;
}

/** Metrics under the names OpenAI uses. Losses in nats a token, accuracies 0…1. */
export interface FineTuneMetrics {
  /** From 1, through all stages. */
  readonly step: number;
  /** Of all stages as planned; a stage that stops early makes it smaller. */
  readonly totalSteps: number;
  /** Index of the stage, and what it trains. */
  readonly stage: number;
  readonly train: Stage['train'];
  /** Of the stage, from 1. */
  readonly epoch: number;
  readonly train_loss: number;
  readonly train_mean_token_accuracy: number;
  readonly full_valid_loss?: number;
  readonly full_valid_mean_token_accuracy?: number;
  readonly grad_norm: number;
  readonly learning_rate: number;
  /** Decoder positions of the step without padding, those that are learned among them, and the share of padding computed. */
  readonly tokens: number;
  readonly supervised_tokens: number;
  readonly padding_share: number;
  readonly tokens_per_second: number;
}

export interface CheckpointFile {
  readonly name: string;
  readonly bytes: number;
  readonly sha256: string;
}

/** Where in a job a checkpoint stands. */
export interface CheckpointPlace {
  /** It would have been made without anybody wanting the machine: how often a job is stopped does not change which these are. */
  readonly isRegular: boolean;
  readonly isEpochEnd: boolean;
  readonly isJobEnd: boolean;
}

export interface FineTuneHooks {
  /** Bytes of a picture that is neither in the files nor a data URL (a file id, an https URL). Without it such pictures are an error. */
  readonly readImage?: (reference: string) => Promise<Uint8Array>;
  readonly onEvent?: (level: 'info' | 'warn' | 'error', message: string) => void | Promise<void>;
  readonly onMetrics?: (metrics: FineTuneMetrics) => void | Promise<void>;
  /**
   * A checkpoint is whole on disk. Its folder is what `resumeDir` takes and what serving lays over the base: an adapter
   * folder or changed tensors, the trainer's state, a manifest. The training waits for the promise; `enough` ends the job with this checkpoint, as a success.
   */
  readonly onCheckpoint?: (
    dir: string,
    step: number,
    metrics: FineTuneMetrics,
    files: readonly CheckpointFile[],
    place: CheckpointPlace,
  ) => undefined | 'enough' | Promise<undefined | 'enough'>;
  /** Aborting ends the job after the step in progress, with a checkpoint. */
  readonly signal?: AbortSignal;
  /** Awaited before every micro-batch: jobs of one process take turns, and answers go first. */
  readonly pace?: () => void | Promise<void>;
  /** Told when the job goes over to something else than steps, and back. */
  readonly onPhase?: (phase: FineTunePhase) => void;
  /** Folder of the checkpoint of a step that is no longer in `outDir`, for a rollback; null where it is gone. Without it such a run has diverged at once. */
  readonly fetchCheckpoint?: (step: number) => Promise<string | null>;
}

/** `preparing`: data, pictures, sessions; `saving`: a checkpoint is written and handed over; `measuring`: on the validation data. */
export type FineTunePhase = 'preparing' | 'stepping' | 'saving' | 'measuring';

/** `failed`: data or options are at fault (`code` from the table of errors), or the run diverged. OutOfMemory, StorageFull and defects throw. */
export type FineTuneResult =
  | { readonly outcome: 'succeeded' | 'stopped'; readonly finalStep: number; readonly trainedTokens: number }
  | { readonly outcome: 'failed'; readonly code: string; readonly message: string; readonly trainedTokens: number };
