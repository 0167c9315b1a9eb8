/** From the id of a file or dataset to what training reads: the files as they are now, and what is taken of each. */
import type { DataSpec } from '../../shared/contract/backend.ts';
import type { Subset } from '../../shared/contract/datasets.ts';
import { ApiError, describe, errorMessage } from '../../shared/contract/errors.ts';
import { sha256Hex } from '../../shared/wire/signature.ts';
import type { Env } from '../env.ts';
import { type DatasetRow, getDataset } from '../store/datasets.ts';
import { type FileRow, getFile, getFiles } from '../store/files.ts';

export const DATASET_REFERENCE = /^dataset_/;

/**
 * @param id of a file, which is taken whole, or of a dataset
 * @param param the field that named it
 * @throws ApiError `file_not_found` or `dataset_not_found` for what this tenant does not have; `invalid_value` for a dataset without files, and for a file
 * that was uploaded for something else
 */
export async function dataSpecOf(
  env: Pick<Env, 'DB'>,
  tenant: string,
  id: string,
  param = 'training_file',
): Promise<DataSpec> {
  if (!DATASET_REFERENCE.test(id)) {
    const file = await getFile(env.DB, tenant, id);
    if (file === null) throw missingFile(id, param);
    checkPurpose(file, param);
    return { files: [dataFile({ file_id: file.id }, file)], balancing: false };
  }
  const dataset = await getDataset(env.DB, tenant, id);
  if (dataset === null) throw datasetNotFound(id, param);
  const subsets = JSON.parse(dataset.subsets) as Subset[];
  if (subsets.length === 0)
    throw new ApiError(
      'invalid_value',
      errorMessage(param, {
        expected: 'a dataset with at least one file',
        received: `${id}, which has none`,
        remedy: `POST /v1/datasets/${id}/files adds one.`,
      }),
      { param },
    );
  return specOf(dataset, await filesOf(env.DB, tenant, subsets, param));
}

/** @param files those that the subsets name, by id */
export function specOf(
  dataset: Pick<DatasetRow, 'subsets' | 'balancing'>,
  files: ReadonlyMap<string, FileRow>,
): DataSpec {
  const subsets = JSON.parse(dataset.subsets) as Subset[];
  return {
    files: subsets.map((subset) => {
      const file = files.get(subset.file_id);
      if (file === undefined) throw new Error(`dataset: file ${subset.file_id} is named and was not looked up`);
      return dataFile(subset, file);
    }),
    balancing: dataset.balancing === 1,
  };
}

/**
 * The files that subsets name.
 * @param param the field to name in errors; `subsets` where they are in the request itself: then the place is named too
 * @throws ApiError `file_not_found` for one that the tenant does not have (any more)
 */
export async function filesOf(
  db: D1Database,
  tenant: string,
  subsets: readonly Pick<Subset, 'file_id'>[],
  param: string,
): Promise<Map<string, FileRow>> {
  const ids = [...new Set(subsets.map(({ file_id }) => file_id))];
  const files = new Map((await getFiles(db, tenant, ids)).map((row) => [row.id, row]));
  const missing = ids.find((id) => !files.has(id));
  if (missing !== undefined) {
    const index = subsets.findIndex(({ file_id }) => file_id === missing);
    throw missingFile(missing, param === 'subsets' ? `subsets[${index}].file_id` : param);
  }
  return files;
}

/** Uploaded for something else, a file is in another form: said before a line of it is read. */
function checkPurpose({ purpose, id }: Pick<FileRow, 'purpose' | 'id'>, param: string): void {
  if (!NO_EXAMPLES.has(purpose)) return;
  throw new ApiError(
    'invalid_value',
    errorMessage(param, {
      expected: 'a file that was uploaded with the purpose "fine-tune"',
      received: `${id}, which is for ${describe(purpose)}`,
    }),
    { param },
  );
}

const NO_EXAMPLES: ReadonlySet<string> = new Set(['evals', 'batch', 'batch_output', 'vision']);

function dataFile(subset: Subset, file: FileRow): DataSpec['files'][number] {
  return { ...subset, file: { id: file.id, bytes: file.bytes, sha256: file.sha256 }, filename: file.filename };
}

/**
 * SHA-256 over what training sees of the data, hex: the files' bytes and the mixture, defaults filled in. Names of files, and their ids, are no part of it;
 * those of subsets are, since reports are by them.
 */
export function dataDigest({ files, balancing }: DataSpec): Promise<string> {
  const rows = files.map((file) => [
    file.file.sha256,
    file.name ?? null,
    file.format ?? null,
    file.max_size ?? null,
    file.max_num_images ?? null,
    file.shuffle ?? true,
    file.seed ?? 42,
    file.images_first ?? false,
    file.skill ?? null,
  ]);
  return sha256Hex(new TextEncoder().encode(JSON.stringify([balancing, rows])));
}

function missingFile(id: string, param: string): ApiError {
  return new ApiError(
    'file_not_found',
    errorMessage(param, {
      expected:
        param.endsWith('training_file') || param === 'validation_file'
          ? 'the id of an uploaded file or of a dataset'
          : 'the id of an uploaded file',
      received: describe(id),
      remedy: 'GET /v1/files lists yours.',
    }),
    { param },
  );
}

export function datasetNotFound(id: string, param = 'id'): ApiError {
  return new ApiError(
    'dataset_not_found',
    errorMessage(param, {
      expected: 'the id of a dataset',
      received: describe(id),
      remedy: 'GET /v1/datasets lists yours.',
    }),
    { param },
  );
}
