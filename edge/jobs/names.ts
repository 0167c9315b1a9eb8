import type { JobRow } from '../store/jobs.ts';

/** `ft:<base>:<organization>:<suffix>:<id>`, the suffix empty if none was given. */
export function tunedModelName(job: Pick<JobRow, 'id' | 'base_model' | 'suffix'>, organization: string): string {
  return `ft:${job.base_model}:${organization}:${job.suffix ?? ''}:${job.id.replace(/^ftjob-/, '')}`;
}

export function checkpointModelName(tuned: string, step: number): string {
  return `${tuned}:ckpt-step-${step}`;
}
