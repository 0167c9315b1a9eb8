/** The end of a validation: its result as it is stored, and what is written in the same transaction. */
import type { TaskFinishRequest, ValidateTask } from '../../shared/contract/backend.ts';
import { ValidateResult } from '../../shared/contract/taskResults.ts';
import { nowMs } from '../clock.ts';
import type { Env } from '../env.ts';
import { fileOf } from '../files/adopt.ts';
import { countExamples } from '../store/datasets.ts';
import { auditFile, filePrefix, insertFile, type NewFile } from '../store/files.ts';
import type { TaskRow, TaskStatus } from '../store/tasks.ts';
import { DATASET_REFERENCE, dataDigest } from './spec.ts';

export type ValidationEnd = {
  result: unknown;
  along: (status: TaskStatus, guard: string) => D1PreparedStatement[];
};

/**
 * The file of all problems comes to be with the end, and datasets learn how many examples they have.
 * @throws where a backend's result is not one
 */
export async function validationEnd(env: Env, row: TaskRow, body: TaskFinishRequest): Promise<ValidationEnd> {
  if (body.status !== 'succeeded') return { result: null, along: () => [] };
  const result = ValidateResult.parse(body.result);
  const problems = problemsFile(row, result);
  const spec = JSON.parse(row.spec) as ValidateTask;
  const { training_file } = JSON.parse(row.request) as { training_file?: string };
  const digest =
    training_file !== undefined && DATASET_REFERENCE.test(training_file) && spec.training[0] !== undefined
      ? await dataDigest(spec.training[0])
      : null;
  const usable = result.report.training[0]?.usable;
  const actor = { tenant: row.tenant, keyId: 'system', requestId: null };
  return {
    result: { ...result, report: { ...result.report, problems_file: problems?.id ?? null } },
    along: (status, guard) =>
      status !== 'succeeded'
        ? []
        : [
            ...(problems === null
              ? []
              : [...insertFile(env.DB, problems, guard), auditFile(env.DB, actor, problems, guard)]),
            ...(digest === null || usable === undefined || training_file === undefined
              ? []
              : [countExamples(env.DB, row.tenant, training_file, digest, usable, guard)]),
          ],
  };
}

/** Only what was staged for this tenant becomes a file of it. */
function problemsFile(row: TaskRow, { allProblems }: ValidateResult): NewFile | null {
  if (allProblems === null) return null;
  if (!allProblems.key.startsWith(filePrefix(row.tenant)))
    throw new Error(`task ${row.id}: expected an object of its tenant, received ${allProblems.key}`);
  return fileOf(
    row.tenant,
    { ...allProblems, md5: null },
    {
      purpose: 'fine-tune-results',
      filename: `${row.id}_problems.jsonl`,
      mime: 'application/jsonl',
      expiresAfterS: null,
    },
    nowMs(),
  );
}
