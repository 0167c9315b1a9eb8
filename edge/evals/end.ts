/** The end of a run: its reports become its own, and whoever waits hears of it. */
import type { TaskFinishRequest } from '../../shared/contract/backend.ts';
import { EvaluateResult } from '../../shared/contract/evalTask.ts';
import type { Env } from '../env.ts';
import { filePrefix } from '../store/files.ts';
import type { TaskRow, TaskStatus } from '../store/tasks.ts';

/**
 * A run that failed may have a report too: of the answers that it has.
 * @throws where a backend's result is not one, or names objects of others
 */
export function evaluationEnd(env: Env, row: TaskRow, body: TaskFinishRequest) {
  const hasReport = body.status === 'succeeded' || (body.status === 'failed' && body.result !== null);
  if (!hasReport) return { result: null, along: () => [] };
  const result = EvaluateResult.parse(body.result);
  return {
    result,
    along: (status: TaskStatus, guard: string): D1PreparedStatement[] =>
      status === body.status ? keepReports(env, row, result, guard) : [],
  };
}

/**
 * The reports become the run's own. @param guard SQL that is true only if they are to
 * @throws where they are objects of others
 */
export function keepReports(
  env: Env,
  row: Pick<TaskRow, 'id' | 'tenant'>,
  { reportJson, reportHtml }: EvaluateResult,
  guard: string,
): D1PreparedStatement[] {
  const keys = [reportJson, reportHtml].flatMap((staged) => (staged === null ? [] : [staged.key]));
  const stranger = keys.find((key) => !key.startsWith(filePrefix(row.tenant)));
  if (stranger !== undefined) throw new Error(`task ${row.id}: expected objects of its tenant, received ${stranger}`);
  return [
    env.DB.prepare(`UPDATE eval_runs SET report_json_key = ?, report_html_key = ? WHERE id = ? AND ${guard}`).bind(
      reportJson?.key ?? null,
      reportHtml?.key ?? null,
      row.id,
    ),
    env.DB.prepare(`DELETE FROM loose_objects WHERE key IN (SELECT value FROM json_each(?)) AND ${guard}`).bind(
      JSON.stringify(keys),
    ),
  ];
}
