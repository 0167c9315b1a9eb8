import type { DataSpec, LeftOut } from '../../../shared/contract/backend.ts';
import type { DatasetProblem } from '../../../shared/contract/datasets.ts';
import type { DataExample } from './example.ts';
import type { ExampleStore, FetchImage, FileCounts } from './store.ts';

export interface ImportOptions {
  /** Which data it is, for problems and `leftOut`. Default 0. */
  readonly data?: number | 'validation';
  /** Every problem of every record, as it is found; `file` is an index into the spec's files. */
  readonly onProblem?: (problem: DatasetProblem, file: number) => void;
  /**
   * Every example that the readers find right, in the order of the files and before the mixture takes its share; its pictures are in `images` or outside.
   * Reading waits for the promise. `false`: the example is bad after all (the caller has said why), and the store is made without it.
   */
  readonly onExample?: (example: DataExample, store: ImageReader) => Promise<boolean | void> | boolean | void;
  /** Lines that are not trained on, exactly as validation has listed them. */
  readonly leftOut?: LeftOut;
  /** Folder of pictures, where several stores share one. Default: `images` in `dir`. */
  readonly imageDir?: string;
  /** For pictures that stay outside. */
  readonly fetchImage?: FetchImage;
  /** Folder that the paths of a file's pictures start from; without one (an uploaded file) a path is a problem. */
  readonly imageRoot?: (file: number) => string | undefined;
  readonly onProgress?: (bytesDone: number, bytesTotal: number) => void;
  readonly signal?: AbortSignal | undefined;
}

export interface ImageReader {
  readImage(reference: string): Promise<Uint8Array>;
}

export interface ImportResult {
  readonly store: ExampleStore;
  readonly files: readonly FileCounts[];
}

/**
 * Reads the files of a data spec once, in constant memory, into a store in `dir`: canonical examples, pictures by content, and the order of the mixture.
 * Lines with errors are told and passed over. The store depends on the files' bytes, the spec and `leftOut` alone; a whole one that is already there for
 * the same of these is opened as it is, where nobody asks for problems or examples.
 * @param paths where the bytes of `spec.files` are, in the same order
 * @throws the signal's reason
 */
export declare function importData(
  spec: DataSpec,
  paths: readonly string[],
  dir: string,
  options?: ImportOptions,
): Promise<ImportResult>;
