/** The end of a comparison: its files come to be with it, and belong to the run that asked for it. */
import type { StagedFile, TaskFinishRequest } from '../../shared/contract/backend.ts';
import { CompareResult } from '../../shared/contract/taskResults.ts';
import { nowMs } from '../clock.ts';
import type { Env } from '../env.ts';
import { fileOf } from '../files/adopt.ts';
import { auditFile, filePrefix, insertFile, type NewFile } from '../store/files.ts';
import type { TaskRow, TaskStatus } from '../store/tasks.ts';

export type ComparisonEnd = {
  result: unknown;
  along: (status: TaskStatus, guard: string) => D1PreparedStatement[];
};

/** @throws where a backend's result is not one */
export function comparisonEnd(env: Env, row: TaskRow, body: TaskFinishRequest): ComparisonEnd {
  if (body.status !== 'succeeded') return { result: null, along: () => [] };
  const { files: staged = [], ...result } = CompareResult.parse(body.result);
  const files = staged.map((file) => resultFile(row.tenant, row.id, file));
  const actor = { tenant: row.tenant, keyId: 'system', requestId: null };
  return {
    result,
    along: (status, guard) =>
      status !== 'succeeded'
        ? []
        : [
            ...files.flatMap((file) => [...insertFile(env.DB, file, guard), auditFile(env.DB, actor, file, guard)]),
            env.DB.prepare(`UPDATE schedule_runs SET result_files = ? WHERE id = ? AND task_id = ? AND ${guard}`).bind(
              JSON.stringify(files.map(({ id }) => id)),
              row.subject,
              row.id,
            ),
          ],
  };
}

/**
 * A file of results out of what a backend has staged.
 * @param owner what the bytes are of, for errors
 * @throws for an object of another tenant
 */
export function resultFile(tenant: string, owner: string, { filename, mime, staged }: StagedFile): NewFile {
  if (!staged.key.startsWith(filePrefix(tenant)))
    throw new Error(`${owner}: expected an object of its tenant, received ${staged.key}`);
  const facts = { purpose: 'fine-tune-results' as const, filename, mime, expiresAfterS: null };
  return fileOf(tenant, { ...staged, md5: null }, facts, nowMs());
}
