/** The report of a run: from what is written of its items, whether it came to its end or not. */
import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { StagedObject } from '../../../shared/contract/backend.ts';
import type { EvalItemsPage, EvaluateResult } from '../../../shared/contract/evalTask.ts';
import { LIMITS } from '../../../shared/contract/limits.ts';
import { reportJson } from '../../eval/report/build.ts';
import { renderHtml } from '../../eval/report/html/report.ts';
import type { EvalReport } from '../../eval/report/schema.ts';
import type { Thumbnails } from '../../eval/report/thumbnails.ts';
import type { EvalItem } from '../../eval/task.ts';
import type { TaskContext } from '../task-runner.ts';
import type { Results } from './evaluate-results.ts';

type Written = EvalItemsPage['items'][number];

/** Of an answer, for a report, which shows no more. */
const MAX_SHOWN_CHARS = 2_000;

/** Items of the report, in order. What is long stays at the edge: a report shows the beginning of an answer, and of few questions. */
export async function collect(results: Results, itemOf: (one: Written) => EvalItem): Promise<EvalItem[]> {
  const items: EvalItem[] = [];
  for await (const one of results.all()) {
    const item = itemOf(one);
    items.push({
      ...item,
      answer: item.answer.slice(0, MAX_SHOWN_CHARS),
      parsed: item.parsed?.slice(0, MAX_SHOWN_CHARS) ?? null,
    });
  }
  return items;
}

export async function stageReports(
  taskId: string,
  { edge, workDir }: Pick<TaskContext, 'edge' | 'workDir'>,
  { report, pictures }: { readonly report: EvalReport; readonly pictures: Thumbnails },
): Promise<EvaluateResult> {
  const stage = async (name: string, text: string) => {
    if (Buffer.byteLength(text) > LIMITS.evals.maxReportBytes) return null;
    const path = join(workDir, name);
    await writeFile(path, text);
    return StagedObject.parse(await edge.putFile(`/internal/tasks/${encodeURIComponent(taskId)}/problems`, path));
  };
  return {
    reportJson: await stage('report.json', reportJson(report)),
    reportHtml: await stage('report.html', renderHtml(report, pictures)),
  };
}
