/** Plays the backend that validates data, through the inner protocol only: what it finds is what the test says. */
import assert from 'node:assert/strict';
import type { TaskClaim } from '../../../shared/contract/backend.ts';
import type { DataSummary, DatasetProblem } from '../../../shared/contract/datasets.ts';
import type { ValidateResult } from '../../../shared/contract/taskResults.ts';
import type { Installation } from './installation.ts';

const spread = { total: 0, min: 0, median: 0, p95: 0, max: 0 };

/** A result of `usable` good examples and the problems named, each of a line of its own. */
export function validateResult(usable: number, problems: readonly DatasetProblem[] = []): ValidateResult {
  const bad = new Set(problems.map(({ line }) => line)).size;
  const share = bad / Math.max(1, usable + bad);
  const isRefused = usable === 0 || share > 0.1;
  const summary: DataSummary = {
    examples: usable + bad,
    usable,
    bad,
    not_taken: 0,
    tokens: spread,
    supervised_tokens: 0,
    image_tokens: 0,
    images: 0,
    unique_images: 0,
    images_per_example: {},
    turns_per_example: {},
    skills: {},
    subsets: {},
  };
  return {
    report: {
      object: 'dataset.report',
      verdict: isRefused ? 'refused' : 'accepted',
      bad_share: share,
      max_bad_share: 0.1,
      training: [summary],
      validation: null,
      problem_counts: {},
      problems: [...problems],
      problems_file: null,
      left_out: [],
      duplicates: { exact: 0, near: 0 },
      leakage: { images: 0, examples: 0 },
      estimate: null,
    },
    leftOut: [],
    trainingExamples: [usable],
    allProblems: null,
  };
}

/** Claims the oldest task as this backend; null where none waits. */
export async function claimTask(door: Installation, backendId: string): Promise<TaskClaim | null> {
  const { status, body } = await door.signed('POST', '/internal/tasks/claim', { backendId });
  return status === 204 ? null : (body as TaskClaim);
}

/** Ends every validation that waits with this result. @returns how many there were */
export async function playValidation(door: Installation, backendId: string, result: ValidateResult): Promise<number> {
  for (let n = 0; ; n++) {
    const task = await claimTask(door, backendId);
    if (task === null) return n;
    const { status } = await door.signed('POST', `/internal/tasks/${task.id}/finish`, {
      token: task.lease.token,
      status: 'succeeded',
      result,
      error: null,
    });
    assert.equal(status, 200);
  }
}
