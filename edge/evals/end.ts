/** The end of a run: its reports become its own, and whoever waits hears of it. */
import type { TaskFinishRequest } from '../../shared/contract/backend.ts';
import { EvaluateResult } from '../../shared/contract/evalTask.ts';
import type { Env } from '../env.ts';
import { filePrefix } from '../store/files.ts';
import type { TaskRow, TaskStatus } from '../store/tasks.ts';

/** @throws where a backend's result is not one, or names objects of others */
export function evaluationEnd(env: Env, row: TaskRow, body: TaskFinishRequest) {
  if (body.status !== 'succeeded') return { result: null, along: () => [] };
  const result = EvaluateResult.parse(body.result);
  const keys = [result.reportJson, result.reportHtml].flatMap((staged) => (staged === null ? [] : [staged.key]));
  const stranger = keys.find((key) => !key.startsWith(filePrefix(row.tenant)));
  if (stranger !== undefined) throw new Error(`task ${row.id}: expected objects of its tenant, received ${stranger}`);
  return {
    result,
    along: (status: TaskStatus, guard: string): D1PreparedStatement[] =>
      status !== 'succeeded'
        ? []
        : [
            env.DB.prepare(
              `UPDATE eval_runs SET report_json_key = ?, report_html_key = ? WHERE id = ? AND ${guard}`,
            ).bind(result.reportJson?.key ?? null, result.reportHtml?.key ?? null, row.id),
            env.DB.prepare(`DELETE FROM loose_objects WHERE key IN (SELECT value FROM json_each(?)) AND ${guard}`).bind(
              JSON.stringify(keys),
            ),
          ],
  };
}
