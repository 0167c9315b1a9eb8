/** Dataset validations as clients see them: tasks of the kind `validate`, with the report that lies beside them. */

import type { DatasetReport, DatasetValidation, ValidationProgress } from '../../shared/contract/datasets.ts';
import type { JobError } from '../../shared/contract/jobs.ts';
import { ValidateResult } from '../../shared/contract/taskResults.ts';
import type { Env } from '../env.ts';
import type { TaskRow } from '../store/tasks.ts';

/** What the row of a validation keeps of its request. */
export type ValidationRequest = { model: string; training_file: string; validation_file: string | null };

/** Without its report; lists show them so. */
export function showValidation(row: TaskRow): DatasetValidation {
  const { model, training_file, validation_file } = JSON.parse(row.request) as ValidationRequest;
  return {
    id: row.id,
    object: 'dataset.validation',
    created_at: Math.floor(row.created_at / 1000),
    finished_at: row.finished_at === null ? null : Math.floor(row.finished_at / 1000),
    status: row.status,
    model,
    training_file,
    validation_file,
    fine_tuning_job: row.subject,
    progress: showProgress(row),
    report: null,
    error: row.error === null ? null : (JSON.parse(row.error) as JobError),
  };
}

/** Reports of progress may be minutes apart: one that has succeeded has got to the end of what it last spoke of. */
function showProgress({ progress, status }: TaskRow): ValidationProgress | null {
  if (progress === null) return null;
  const last = JSON.parse(progress) as ValidationProgress;
  return status === 'succeeded' ? { ...last, done: last.total } : last;
}

/** With its report, where it has succeeded. */
export async function showWhole(env: Pick<Env, 'BLOBS'>, row: TaskRow): Promise<DatasetValidation> {
  return { ...showValidation(row), report: await reportOf(env, row) };
}

async function reportOf(env: Pick<Env, 'BLOBS'>, row: TaskRow): Promise<DatasetReport | null> {
  if (row.status !== 'succeeded' || row.result_key === null) return null;
  const object = await env.BLOBS.get(row.result_key);
  return object === null ? null : ValidateResult.parse(await object.json()).report;
}
