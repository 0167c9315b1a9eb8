import type { DataSpec } from '../../shared/contract/backend.ts';
import { variantsJson } from '../eval/controls.ts';
import { HELD_OUT_PROTOCOL, HELD_OUT_VERSION } from '../eval/held-out.ts';
import { compareReports } from '../eval/report/compare.ts';
import { renderComparisonHtml } from '../eval/report/html/compare.ts';
import { makeThumbnails, picturesOf } from '../eval/report/thumbnails.ts';
import { canonicalJson, type EvalItem, type EvalRecord, type EvalSpec, type Json } from '../eval/task.ts';
import { sha256Hex } from '../io/digest.ts';

export interface ReportedRun {
  readonly model: string;
  readonly items: readonly EvalItem[];
}

/** What is compared, for people: the report of a gate is about the schedule's file. */
export interface HeldOutReport {
  readonly title: string;
  readonly heldOut: DataSpec;
  readonly records: readonly EvalRecord[];
  readonly options: readonly string[] | null;
  readonly imageOrders: number;
  readonly runs: readonly [ReportedRun, ReportedRun];
}

/**
 * Two models on the same held-out questions as one page: difference and interval, wins and losses with their pictures. Each picture has been decoded before, to
 * be asked about, in a process that may die of it.
 */
export async function heldOutReport(report: HeldOutReport): Promise<string> {
  const { title, records, runs } = report;
  const spec = specOf(report);
  const [first, second] = runs.map(({ model, items }) => ({ spec, model: { name: model, identity: model }, items }));
  if (first === undefined || second === undefined) throw new Error('a comparison has two runs');
  const comparison = await compareReports({ first, second, title, records });
  return renderComparisonHtml(comparison, await makeThumbnails(picturesOf(comparison), records));
}

/** All that decides the numbers but the models; two reports of one file have the same. */
function specOf({ heldOut, records, options, imageOrders }: HeldOutReport): EvalSpec {
  const data = heldOut.files.map(({ file, filename: _name, file_id: _id, ...taken }) => ({
    ...taken,
    sha256: file.sha256,
  }));
  return {
    task: 'held-out',
    version: HELD_OUT_VERSION,
    protocol: { ...HELD_OUT_PROTOCOL, options: options === null ? null : [...options] },
    aggregate: 'records',
    data: {
      digest: sha256Hex(canonicalJson({ files: data, balancing: heldOut.balancing } as unknown as Json)),
      records: records.length,
    },
    mode: 'sequence',
    // Every order that is asked counts.
    variants: variantsJson({ orders: imageOrders, rotate: false, controls: [] }, { imageOrders: () => [] }),
  };
}
