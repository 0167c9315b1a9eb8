/** Making and changing datasets: what is asked becomes a row with a digest; a version is one digest. */
import type { Subset } from '../../shared/contract/datasets.ts';
import { ApiError, violation } from '../../shared/contract/errors.ts';
import { LIMITS } from '../../shared/contract/limits.ts';
import { newId } from '../../shared/wire/ids.ts';
import { nowMs } from '../clock.ts';
import type { Env } from '../env.ts';
import type { Actor } from '../store/audit.ts';
import {
  countDatasets,
  type DatasetContent,
  type DatasetRow,
  getDataset,
  insertDataset,
  replaceDataset,
} from '../store/datasets.ts';
import { dataDigest, datasetNotFound, filesOf, specOf } from './spec.ts';

const D = LIMITS.dataset;

/** What a client gives of a dataset. */
export type DatasetFields = {
  name: string;
  subsets: Subset[];
  balancing: boolean;
  metadata: Record<string, string> | null;
};

/** Between reading a dataset and writing it somebody else may have written it. */
const MAX_ROUNDS = 16;

/** @throws ApiError `file_not_found`, `invalid_value`, `rate_limit_exceeded` where there are as many as there may be */
export async function makeDataset(env: Env, actor: Actor, fields: DatasetFields): Promise<DatasetRow> {
  for (let round = 0; round < MAX_ROUNDS; round++) {
    const content = await contentOf(env, actor.tenant, fields);
    const row = await insertDataset(
      env.DB,
      actor,
      newId('dataset_'),
      { ...content, version: 1, examples: null },
      nowMs(),
    );
    if (row !== null) return row;
    // A file has gone meanwhile, which the next round says, or:
    if ((await countDatasets(env.DB, actor.tenant)) >= D.maxPerTenant)
      throw new ApiError(
        'rate_limit_exceeded',
        `Datasets: there are ${D.maxPerTenant} of yours, which is the most there may be. Delete one.`,
        { shouldRetry: false },
      );
  }
  throw new Error('a dataset could not be made: its files come and go');
}

/**
 * Reads, changes, writes if it is still what was read, else begins again: concurrent changes lose nothing.
 * @param change what a row's fields become
 * @throws ApiError `dataset_not_found`, `file_not_found`, `invalid_value`
 */
export async function changeDataset(
  env: Env,
  actor: Actor,
  id: string,
  change: (was: DatasetFields) => DatasetFields,
): Promise<DatasetRow> {
  for (let round = 0; round < MAX_ROUNDS; round++) {
    const row = await getDataset(env.DB, actor.tenant, id);
    if (row === null) throw datasetNotFound(id);
    const was = fieldsOf(row);
    const next = change(was);
    const content = await contentOf(env, actor.tenant, next);
    const isSame = content.digest === row.digest;
    // The same files and mixture under another name are the same version.
    if (isSame && JSON.stringify(next) === JSON.stringify(was)) return row;
    const version = isSame ? row.version : row.version + 1;
    const written = await replaceDataset(
      env.DB,
      actor,
      row,
      { ...content, version, examples: isSame ? row.examples : null },
      nowMs(),
    );
    if (written !== null) return written;
  }
  throw new ApiError('overloaded', `Dataset ${id}: ${MAX_ROUNDS} other changes came first. Try again.`, {
    retryAfterMs: 1_000,
  });
}

function fieldsOf(row: DatasetRow): DatasetFields {
  return {
    name: row.name,
    subsets: JSON.parse(row.subsets) as Subset[],
    balancing: row.balancing === 1,
    metadata: row.metadata === null ? null : (JSON.parse(row.metadata) as Record<string, string>),
  };
}

async function contentOf(
  env: Env,
  tenant: string,
  { name, subsets, balancing, metadata }: DatasetFields,
): Promise<Omit<DatasetContent, 'version' | 'examples'>> {
  if (subsets.length > D.maxSubsets)
    throw ApiError.from([
      violation('invalid_value', 'subsets', {
        expected: `at most ${D.maxSubsets} files`,
        received: subsets.length,
        remedy: 'Put several into one file.',
      }),
    ]);
  const files = await filesOf(env.DB, tenant, subsets, 'subsets');
  const row = { subsets: JSON.stringify(subsets), balancing: balancing ? 1 : 0 };
  return {
    ...row,
    name,
    metadata: metadata === null ? null : JSON.stringify(metadata),
    digest: await dataDigest(specOf(row, files)),
    bytes: subsets.reduce((sum, { file_id }) => sum + (files.get(file_id)?.bytes ?? 0), 0),
  };
}
