import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { type CompareTask, type StagedFile, StagedObject } from '../../../shared/contract/backend.ts';
import type { CompareResult } from '../../../shared/contract/taskResults.ts';
import type { ModelService } from '../../engine/service.ts';
import { compareHeldOut, outcomeLines } from '../../eval/held-out.ts';
import type { EvalItem } from '../../eval/task.ts';
import { HeldOut } from '../evaluate-held-out.ts';
import { heldOutReport } from '../held-out-report.ts';
import type { TaskContext, TaskHandler } from '../task-runner.ts';

const PARAM = 'gate.held_out_file';

/**
 * Asks two models the same held-out questions, one model after the other: the gate of a schedule. Nothing is kept: what breaks off is asked again.
 * @param service answers, behind everything that somebody waits for
 */
export function compareHandler(service: ModelService): TaskHandler<CompareTask> {
  return async ({ id, tenant, spec }, context) => {
    const { edge, workDir, signal, log } = context;
    const fetchImage = (reference: string) =>
      edge.getBytes(`/internal/tasks/${encodeURIComponent(id)}/images?reference=${encodeURIComponent(reference)}`);
    const heldOut = await HeldOut.open({ spec: spec.heldOut, param: PARAM, workDir, edge, fetchImage, signal });
    try {
      const records = await heldOut.records(spec.maxExamples);
      const { maxExamples, options = null, imageOrders = 1 } = spec;
      const how = { maxExamples, options, imageOrders, textOnly: false };
      const answers: EvalItem[][] = [];
      for (const model of [spec.current, spec.candidate]) {
        const items = await heldOut.ask(model, records, {
          service,
          tenant,
          id: `${id}-${answers.length}`,
          how,
          signal,
        });
        answers.push(items);
        const right = items.reduce((sum, { score }) => sum + score, 0);
        log.info({ model, right, examples: records.length }, 'model compared');
      }
      const [current = [], candidate = []] = answers;
      const compared = compareHeldOut(current, candidate, spec.confidence);
      const questions = new Map(records.map(({ id: record, question }) => [record, question]));
      const outcomes = outcomeLines(current, candidate, ['current', 'candidate'], questions);
      const page = await heldOutReport({
        title: `Gate of ${spec.candidate}`,
        heldOut: spec.heldOut,
        records,
        options,
        imageOrders,
        runs: [
          { model: spec.current, items: current },
          { model: spec.candidate, items: candidate },
        ],
      });
      const result: CompareResult = {
        examples: compared.examples,
        groups: compared.groups,
        currentRight: compared.counts.firstRight,
        candidateRight: compared.counts.secondRight,
        onlyCurrent: compared.counts.onlyFirst,
        onlyCandidate: compared.counts.onlySecond,
        difference: compared.difference,
        interval: [...compared.interval],
        confidence: compared.confidence,
        pValue: compared.pValue,
        detectableDifference: compared.detectable,
        files: [
          await stage(id, context, `${id}_answers.jsonl`, 'application/jsonl', outcomes),
          await stage(id, context, `${id}_report.html`, 'text/html', page),
        ],
      };
      return result;
    } finally {
      await heldOut.close();
    }
  };
}

/** Brings a file of the result to the edge, where it belongs to nobody until the result names it. */
async function stage(
  taskId: string,
  { edge, workDir }: Pick<TaskContext, 'edge' | 'workDir'>,
  filename: string,
  mime: string,
  text: string,
): Promise<StagedFile> {
  const path = join(workDir, filename);
  await writeFile(path, text);
  const staged = await edge.putFile(`/internal/tasks/${encodeURIComponent(taskId)}/problems`, path);
  return { filename, mime, staged: StagedObject.parse(staged) };
}
