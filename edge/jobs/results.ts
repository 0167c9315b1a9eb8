/** What a job leaves behind as files of its owner: the numbers of every step, and the report on its data. */
import type { EvaluationMetrics } from '../../shared/contract/jobs.ts';
import { showWhole } from '../datasets/validations.ts';
import type { Env } from '../env.ts';
import { type FileFacts, writeFile } from '../files/adopt.ts';
import type { JobRow } from '../store/jobs.ts';
import { findTask } from '../store/tasks.ts';

/** OpenAI's five names first, in its order; then ours. */
export const METRIC_COLUMNS = [
  'step',
  'train_loss',
  'train_mean_token_accuracy',
  'valid_loss',
  'valid_mean_token_accuracy',
  'stage',
  'train',
  'epoch',
  'learning_rate',
  'grad_norm',
  'tokens',
  'supervised_tokens',
  'tokens_per_second',
  'padding_share',
  'eval_accuracy',
  'eval_accuracy_low',
  'eval_accuracy_high',
  'eval_examples',
  'eval_base_accuracy',
  'eval_difference',
  'eval_text_only_accuracy',
] as const;

/** Events of a page. */
const PAGE = 2_000;

/**
 * Stores the files of a job that succeeds. Called again after a crash it writes them again: those of the first time belong to nobody's job and stay in the
 * owner's list.
 * @returns their ids: the metrics, where there are any, and the report, where there is one
 */
export async function resultFiles(env: Env, job: Pick<JobRow, 'id' | 'tenant' | 'validation_task'>): Promise<string[]> {
  const ids: string[] = [];
  const csv = await metricsCsv(env.DB, job.id);
  if (csv !== null) ids.push(await store(env, job.tenant, 'step_metrics.csv', 'text/csv', csv));
  const task = job.validation_task === null ? null : await findTask(env.DB, job.validation_task);
  const report = task === null ? null : (await showWhole(env, task)).report;
  if (report !== null)
    ids.push(
      await store(env, job.tenant, 'dataset_report.json', 'application/json', `${JSON.stringify(report, null, 2)}\n`),
    );
  return ids;
}

/** One row a step, in the order of training; null where no step was told. */
export async function metricsCsv(db: D1Database, jobId: string): Promise<string | null> {
  const rows = [`${METRIC_COLUMNS.join(',')}\n`];
  const evaluations = await evaluationsByStep(db, jobId);
  for (let seq = 0; ; ) {
    const { results } = await db
      .prepare(
        `SELECT seq, data FROM job_events WHERE job_id = ? AND type = 'metrics' AND data IS NOT NULL AND key NOT LIKE 'eval-%' AND seq > ?
         ORDER BY seq LIMIT ?`,
      )
      .bind(jobId, seq, PAGE)
      .all<{ seq: number; data: string }>();
    for (const { data } of results) {
      const values = JSON.parse(data) as Record<string, unknown>;
      rows.push(metricsRow({ ...values, ...evaluations.get(values.step) }));
    }
    if (results.length < PAGE) break;
    seq = results.at(-1)?.seq ?? seq;
  }
  return rows.length === 1 ? null : rows.join('');
}

/** What checkpoints answered right, by step: they say it in events of their own, after the step's. */
async function evaluationsByStep(db: D1Database, jobId: string): Promise<Map<unknown, Record<string, unknown>>> {
  const { results } = await db
    .prepare(`SELECT data FROM job_events WHERE job_id = ? AND type = 'metrics' AND key LIKE 'eval-%' ORDER BY seq`)
    .bind(jobId)
    .all<{ data: string }>();
  return new Map(
    results.map(({ data }) => {
      const values = JSON.parse(data) as EvaluationMetrics & { step: number };
      const [eval_accuracy_low, eval_accuracy_high] = values.eval_interval;
      return [values.step, { ...values, eval_accuracy_low, eval_accuracy_high }];
    }),
  );
}

/** @param values an event's data; the validation data is measured whole, so that both of OpenAI's names mean the same here */
export function metricsRow(values: Readonly<Record<string, unknown>>): string {
  const cells = METRIC_COLUMNS.map((name) => {
    const value = values[name] ?? (name.startsWith('valid_') ? values[`full_${name}`] : undefined);
    if (typeof value === 'number') return String(value);
    // A word of ours; anything else could break the row.
    return typeof value === 'string' && /^[a-z_]+$/.test(value) ? value : '';
  });
  return `${cells.join(',')}\n`;
}

async function store(env: Env, tenant: string, filename: string, mime: string, text: string): Promise<string> {
  const facts: FileFacts = { purpose: 'fine-tune-results', filename, mime, expiresAfterS: null };
  const actor = { tenant, keyId: 'system', requestId: null };
  const objects = { db: env.DB, blobs: env.BLOBS };
  return (await writeFile(objects, actor, { ...facts, bytes: new TextEncoder().encode(text) })).id;
}
