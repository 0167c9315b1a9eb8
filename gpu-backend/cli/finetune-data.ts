import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { basename, join } from 'node:path';
import type { MantisClient } from '../../shared/client/client.ts';
import { readRecords } from '../io/rows/records.ts';
import { exportData } from '../train/data/export.ts';
import { uploadTrainingFile } from './api.ts';
import { planOf, withData } from './dataset-source.ts';
import { CliError } from './error.ts';
import { size } from './table.ts';

/** Records that are looked at to see whether their pictures lie beside them. */
const LOOKED_AT = 100;

/**
 * The id of training data: that of an upload or a dataset stays what it is, a file of this machine is uploaded. A mixture in Mantis's form, or records that
 * name pictures by path, are put into one Parquet file with the pictures inside first: nobody else could read the paths.
 */
export async function dataId(api: MantisClient, data: string): Promise<string> {
  if (/^(file-|dataset_)[A-Za-z0-9]+$/.test(data)) return data;
  if (!/\.ya?ml$/i.test(data) && !(await hasPaths(data))) return await upload(api, data, data);
  const folder = await mkdtemp(join(tmpdir(), 'mantis-finetune-'));
  try {
    const packed = join(folder, `${basename(data).replace(/\.[^.]+$/, '')}.parquet`);
    await pack(data, packed);
    return await upload(api, packed, data);
  } finally {
    await rm(folder, { recursive: true, force: true });
  }
}

async function upload(api: MantisClient, path: string, said: string): Promise<string> {
  const file = await uploadTrainingFile(api, path);
  process.stderr.write(`uploaded ${said} as ${file.id} (${size(file.bytes)})\n`);
  return file.id;
}

async function hasPaths(file: string): Promise<boolean> {
  let count = 0;
  try {
    for await (const { value } of readRecords(file)) {
      if (namesPath(value)) return true;
      if (++count >= LOOKED_AT) break;
    }
  } catch {
    // That it cannot be read is said where it is read as a whole.
  }
  return false;
}

function namesPath(record: unknown): boolean {
  if (typeof record !== 'object' || record === null) return false;
  const { images, image } = record as { images?: unknown; image?: unknown };
  const listed: unknown[] = Array.isArray(images) ? images : images === undefined ? [image] : [images];
  return listed.some((item) => {
    const { bytes, path } = (typeof item === 'object' && item !== null ? item : {}) as {
      bytes?: unknown;
      path?: unknown;
    };
    const name = typeof item === 'string' ? item : bytes instanceof Uint8Array ? undefined : path;
    return typeof name === 'string' && !/^(data:|https?:|file-|sha256:)/i.test(name);
  });
}

/** What is wrong with the data would be said of other records than those that the person has, so it is said here. */
async function pack(data: string, out: string): Promise<void> {
  const plan = await planOf([data], {});
  await withData(plan, undefined, async ({ store, errors }) => {
    if (errors > 0)
      throw new CliError(
        `${data} has errors; mend them, or leave them out: mantis dataset convert ${data} --skip-bad -o …`,
      );
    const { written, images, notWritten } = await exportData(store, 'mantis-parquet', out);
    for (const [why, count] of notWritten)
      throw new CliError(`${data}: ${count} examples cannot be packed with their pictures: ${why}`);
    process.stderr.write(`packed ${written} examples with ${images} pictures\n`);
  });
}
