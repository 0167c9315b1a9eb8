/** Messages between a validation and the process that trains a few steps to see what they take. */
import type { Stage } from '../../../shared/contract/training.ts';
import type { FineTuneData } from '../finetune-spec.ts';

export interface MeasureStart {
  readonly baseDir: string;
  readonly tunedDir: string | null;
  /** The stage's data is the only list. */
  readonly stage: Stage;
  readonly data: FineTuneData;
  readonly workDir: string;
  readonly threads: number;
}

export type FromMeasure =
  /** A step has been made. */
  | {
      readonly type: 'step';
      readonly tokensPerSecond: number;
      readonly sinceStartMs: number;
      readonly peakBytes: number;
    }
  /** Decoding a picture and running the vision tower over it, mean. */
  | { readonly type: 'pictures'; readonly msEach: number }
  | { readonly type: 'done'; readonly peakBytes: number }
  | { readonly type: 'failed'; readonly message: string };
