/** Files that a run names: looked up, of the right purpose, and such that a backend can lay them out. */

import { ApiError, describe, errorMessage, violation } from '../../shared/contract/errors.ts';
import type { BenchmarkRunSource } from '../../shared/contract/evalBenchmarks.ts';
import { benchmarkPath, clashOf } from '../../shared/contract/evalFiles.ts';
import { LIMITS } from '../../shared/contract/limits.ts';
import type { Env } from '../env.ts';
import { type FileRow, getFiles } from '../store/files.ts';

const E = LIMITS.evals;

export const stored = ({ id, bytes, sha256 }: FileRow) => ({ id, bytes, sha256 });

export async function linesFile(env: Env, tenant: string, id: string): Promise<FileRow> {
  const [file] = await evalFiles(env, tenant, [id], () => 'data_source.source.id');
  if (file === undefined) throw new Error('linesFile: expected a file');
  if (file.bytes > E.maxFileBytes)
    throw ApiError.from([
      violation('request_too_large', 'data_source.source.id', {
        expected: `a file of at most ${E.maxFileBytes} bytes`,
        received: file.bytes,
        remedy: 'Divide it over several runs.',
      }),
    ]);
  return file;
}

/** @throws ApiError where a name is no path within a folder, or two files cannot lie beside each other: `Art/val.parquet` and `Math/val.parquet` can */
export async function benchmarkFiles(env: Env, tenant: string, asked: NonNullable<BenchmarkRunSource['file_ids']>) {
  const param = (i: number): string => `data_source.file_ids[${i}]`;
  const ids = asked.map((one) => (typeof one === 'string' ? one : one.id));
  const files = await evalFiles(env, tenant, ids, (i) => (typeof asked[i] === 'string' ? param(i) : `${param(i)}.id`));
  const paths = files.map(({ filename }, i) => {
    const one = asked[i];
    const name = typeof one === 'object' ? one.path : filename;
    const path = benchmarkPath(name);
    if (path === null)
      throw ApiError.from([
        violation('invalid_value', typeof one === 'object' ? `${param(i)}.path` : param(i), {
          expected:
            'a path within the folder of the benchmark, such as "Art_Style/val-00000-of-00001.parquet", without .. and hidden folders',
          received: describe(name),
        }),
      ]);
    return path;
  });
  const clash = clashOf(paths);
  if (clash !== null)
    throw ApiError.from([
      violation('invalid_value', param(clash.at), {
        expected:
          'files that lie beside each other; {"id": "file-…", "path": "Art_Style/val.parquet"} says where one does',
        received: `${describe(paths[clash.at])}, beside ${describe(paths[clash.earlier])} at ${param(clash.earlier)}`,
      }),
    ]);
  return files.map((file, i) => ({ ...stored(file), filename: paths[i] as string }));
}

async function evalFiles(
  env: Env,
  tenant: string,
  ids: readonly string[],
  param: (i: number) => string,
): Promise<FileRow[]> {
  const rows = new Map((await getFiles(env.DB, tenant, ids)).map((row) => [row.id, row]));
  return ids.map((id, i) => {
    const row = rows.get(id);
    if (row === undefined)
      throw new ApiError(
        'file_not_found',
        errorMessage(param(i), {
          expected: 'the id of an uploaded file',
          received: JSON.stringify(id.slice(0, 80)),
          remedy: 'GET /v1/files lists yours.',
        }),
        { param: param(i) },
      );
    if (row.purpose !== 'evals')
      throw ApiError.from([
        violation('invalid_value', param(i), {
          expected: 'a file that was uploaded with the purpose "evals"',
          received: `one for ${JSON.stringify(row.purpose)}`,
        }),
      ]);
    return row;
  });
}
