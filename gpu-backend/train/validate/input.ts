import type { DataName, TrainingEstimate, ValidationProgress } from '../../../shared/contract/datasets.ts';
import type { Stage, StageDraft } from '../../../shared/contract/training.ts';
import type { FetchImage } from '../data/store.ts';
import type { FineTuneData } from '../finetune-spec.ts';
import type { ExampleTable } from './examples.ts';
import type { CheckedList } from './summary.ts';

export interface HeldOutInput {
  readonly data: FineTuneData;
  /** The field that names it, ending in `held_out_file`. */
  readonly param: string;
  /** Options among which it will be asked to choose, a list each way of asking. */
  readonly options?: readonly (readonly string[])[];
}

export interface ValidateInput {
  /** Checkpoint folder of the base model. */
  readonly baseDir: string;
  /** `Stage.data` is an index into it. */
  readonly training: readonly FineTuneData[];
  readonly validation?: FineTuneData;
  /** What checkpoints or a gate will be asked, with the field that names it: read as the rest, and refused for any error. */
  readonly heldOut?: readonly HeldOutInput[];
  readonly stages: readonly StageDraft[];
  /** Largest share of bad lines, 0 … 1; above it the data is refused. */
  readonly maxBadShare: number;
  /** Of the first list: which files share the bounds of one subset, by equal numbers; a mixture in Mantis's form has such. Default: none do. */
  readonly groups?: readonly number[];
  /** Scratch. */
  readonly workDir: string;
  /** Pictures that the files hold are kept here; may be the job's own. Default `<workDir>/images`. */
  readonly imageDir?: string;
}

export interface ValidateHooks {
  /** Bytes of a picture that is not in the files. @throws UnavailablePicture where there is none */
  readonly fetchImage?: FetchImage;
  /** Folder that paths of pictures start from, by list and file; without one a path is an error. */
  readonly imageRoot?: (data: DataName, file: number) => string | undefined;
  /** Measures what training on the data would take, or says why it cannot. */
  readonly estimate?: (
    lists: readonly CheckedList[],
    stages: readonly Stage[],
    table: ExampleTable,
  ) => Promise<TrainingEstimate | string>;
  readonly onProgress?: (progress: ValidationProgress) => void;
  readonly signal?: AbortSignal;
}
