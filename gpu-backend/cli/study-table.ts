/** The table of a study: accuracy with intervals, paired tests between arms, fits. */
import { clusteredMean, type Estimate } from '../eval/statistics/clustered.ts';
import { compareRuns } from '../eval/statistics/compare.ts';
import type { Observation } from '../eval/statistics/design.ts';
import { tQuantile } from '../eval/statistics/distributions.ts';
import { holm } from '../eval/statistics/holm.ts';
import type { StudyResult } from '../train/studies/run.ts';

/** Over all groups together. */
export const ALL = 'all';

export interface RowFigures {
  readonly id: string;
  readonly title: string;
  /** Group, or `all` → share of right answers. Items are the clusters; seeds answer the same items. */
  readonly accuracy: Readonly<Record<string, Estimate>>;
  /** Accuracy over all groups, seed by seed. */
  readonly bySeed: readonly { readonly seed: number; readonly accuracy: number }[];
}

export interface ComparisonFigures {
  readonly first: string;
  readonly second: string;
  /** Group, or `all` → the second less the first. */
  readonly groups: Readonly<Record<string, PairedFigures>>;
}

interface PairedFigures {
  readonly difference: number;
  readonly interval: readonly [number, number];
  readonly pValue: number;
  /** Raised for all tests of the column (Holm). */
  readonly adjustedP: number;
  readonly test: string;
}

export interface FitFigures {
  readonly title: string;
  /** Group, or `all` → gain in accuracy of a doubling, −1 … 1. */
  readonly groups: Readonly<Record<string, { readonly slope: number; readonly interval: readonly [number, number] }>>;
}

export interface StudyFigures {
  readonly study: string;
  readonly title: string;
  readonly budgetText: string;
  readonly budget: StudyResult['budget'];
  readonly seeds: readonly number[];
  readonly digest: string;
  readonly groups: readonly { readonly id: string; readonly title: string; readonly items: number }[];
  readonly rows: readonly RowFigures[];
  readonly comparisons: readonly ComparisonFigures[];
  readonly fits: readonly FitFigures[];
  readonly cost: readonly ({ readonly arm: string; readonly seed: number } & StudyResult['arms'][number]['totals'])[];
  readonly start: StudyResult['start'];
}

/** One answer of a row. */
interface Answer {
  readonly seed: number;
  readonly item: string;
  readonly isRight: boolean;
}

/** @throws Error when an arm's answers lack a row or group of the study */
export function studyFigures(result: StudyResult): StudyFigures {
  const { study, budget, digest, arms } = result;
  const seeds = [...new Set(arms.map(({ seed }) => seed))];
  const groupIds = [...study.groups.map(({ id }) => id), ALL];
  const answersOf = (rowId: string, group: string): Answer[] => {
    const row = study.rows.find(({ id }) => id === rowId);
    if (row === undefined) throw new Error(`the study ${study.id} has no row ${rowId}`);
    const ids = group === ALL ? study.groups.map(({ id }) => id) : [group];
    return arms
      .filter(({ arm }) => arm === row.arm)
      .flatMap(({ seed, answers }) =>
        ids.flatMap((id) => {
          const items = answers[rowId]?.[id];
          if (items === undefined)
            throw new Error(`arm ${row.arm}, seed ${seed} has no answers of row ${rowId} in ${id}`);
          return Object.entries(items).map(([item, isRight]): Answer => ({ seed, item, isRight }));
        }),
      );
  };
  const byGroup = <T>(make: (group: string) => T): Record<string, T> =>
    Object.fromEntries(groupIds.map((group) => [group, make(group)]));
  return {
    study: study.id,
    title: study.title,
    budgetText: study.budgetText,
    budget,
    seeds,
    digest,
    groups: study.groups.map(({ id, title }) => ({
      id,
      title,
      items: new Set(answersOf(study.rows[0]?.id ?? '', id).map(({ item }) => item)).size,
    })),
    rows: study.rows.map(({ id, title }) => ({
      id,
      title,
      accuracy: byGroup((group) => clusteredMean(answersOf(id, group).map(observation))),
      bySeed: seeds.map((seed) => {
        const own = answersOf(id, ALL).filter((answer) => answer.seed === seed);
        return { seed, accuracy: own.filter(({ isRight }) => isRight).length / own.length };
      }),
    })),
    comparisons: adjusted(
      study.comparisons.map(([first, second]) => ({
        first,
        second,
        groups: byGroup((group) => paired(answersOf(first, group), answersOf(second, group))),
      })),
      groupIds,
    ),
    fits: (study.fits ?? []).map(({ title, points }) => ({
      title,
      groups: byGroup((group) => slope(points.map(({ row, x }) => ({ x, answers: answersOf(row, group) })))),
    })),
    cost: arms.map(({ arm, seed, totals }) => ({ arm, seed, ...totals })),
    start: result.start,
  };
}

const observation = ({ item, isRight }: Answer): Observation => ({
  cluster: item,
  category: null,
  value: isRight ? 1 : 0,
});

const keyOf = ({ seed, item }: Answer): string => `${seed} ${item}`;

function paired(first: readonly Answer[], second: readonly Answer[]): Omit<PairedFigures, 'adjustedP'> {
  const seconds = new Map(second.map((answer) => [keyOf(answer), answer]));
  const pairs = first.map((answer) => {
    const other = seconds.get(keyOf(answer));
    if (other === undefined)
      throw new Error(`item ${answer.item} of seed ${answer.seed} was answered by one of two arms`);
    return { cluster: answer.item, category: null, first: answer.isRight ? 1 : 0, second: other.isRight ? 1 : 0 };
  });
  const { difference, interval, pValue, test } = compareRuns(pairs);
  return { difference, interval, pValue, test };
}

/** Tests of one column are made at once. */
function adjusted(
  comparisons: readonly {
    readonly first: string;
    readonly second: string;
    readonly groups: Readonly<Record<string, Omit<PairedFigures, 'adjustedP'>>>;
  }[],
  groupIds: readonly string[],
): ComparisonFigures[] {
  const adjustedBy = new Map(
    groupIds.map((group) => [group, holm(comparisons.map(({ groups }) => groups[group]?.pValue ?? 1))]),
  );
  return comparisons.map(({ first, second, groups }, i) => ({
    first,
    second,
    groups: Object.fromEntries(
      Object.entries(groups).map(([group, figures]) => [
        group,
        { ...figures, adjustedP: adjustedBy.get(group)?.[i] ?? figures.pValue },
      ]),
    ),
  }));
}

/**
 * Least-squares slope of accuracy over log2(x). It is linear in the answers, so every item has a slope of its own (mean over seeds), and the
 * interval is Student's over the items: all points are asked the same ones.
 */
function slope(points: readonly { readonly x: number; readonly answers: readonly Answer[] }[]): {
  slope: number;
  interval: [number, number];
} {
  const logs = points.map(({ x }) => Math.log2(x));
  const mean = logs.reduce((sum, log) => sum + log, 0) / logs.length;
  const spread = logs.reduce((sum, log) => sum + (log - mean) ** 2, 0);
  const byItem = new Map<string, number>();
  points.forEach(({ answers }, k) => {
    const seeds = new Set(answers.map(({ seed }) => seed)).size;
    const weight = ((logs[k] as number) - mean) / spread / seeds;
    for (const { item, isRight } of answers) byItem.set(item, (byItem.get(item) ?? 0) + (isRight ? weight : 0));
  });
  const slopes = [...byItem.values()];
  const n = slopes.length;
  const average = slopes.reduce((sum, value) => sum + value, 0) / n;
  if (n < 2) return { slope: average, interval: [-1, 1] };
  const variance = slopes.reduce((sum, value) => sum + (value - average) ** 2, 0) / (n - 1);
  const reach = tQuantile(0.975, n - 1) * Math.sqrt(variance / n);
  return { slope: average, interval: [average - reach, average + reach] };
}

const percent = (share: number): string => (100 * share).toFixed(1);
const signed = (share: number): string => `${share < 0 ? '−' : '+'}${percent(Math.abs(share))}`;
const pText = (p: number): string => (p < 0.001 ? 'p < 0.001' : `p = ${p.toFixed(3)}`);

/** One Markdown table: accuracies in % with 95 % intervals, then differences and slopes in points. */
export function studyMarkdown(figures: StudyFigures): string {
  const { groups, rows, comparisons, fits, budget, seeds } = figures;
  const columns = [...groups.map(({ id }) => id), ALL];
  const titleOf = (id: string): string => rows.find((row) => row.id === id)?.title ?? id;
  const cells: string[][] = [
    ['', ...groups.map(({ title, items }) => `${title} (${items})`), 'all'],
    ...rows.map(({ title, accuracy }) => [
      title,
      ...columns.map((column) => {
        const { mean, interval } = accuracy[column] as Estimate;
        return `${percent(mean)} (${percent(interval[0])}–${percent(interval[1])})`;
      }),
    ]),
    ...comparisons.map(({ first, second, groups: by }) => [
      `_${titleOf(second)}_ less _${titleOf(first)}_`,
      ...columns.map((column) => {
        const { difference, interval, adjustedP } = by[column] as PairedFigures;
        return `${signed(difference)} (${signed(interval[0])} to ${signed(interval[1])}), ${pText(adjustedP)}`;
      }),
    ]),
    ...fits.map(({ title, groups: by }) => [
      `points by ${title}`,
      ...columns.map((column) => {
        const { slope: points, interval } = by[column] as FitFigures['groups'][string];
        return `${signed(points)} (${signed(interval[0])} to ${signed(interval[1])})`;
      }),
    ]),
  ];
  const widths = (cells[0] ?? []).map((_, column) => Math.max(3, ...cells.map((row) => row[column]?.length ?? 0)));
  const line = (row: readonly string[]): string =>
    `| ${row.map((cell, i) => cell.padEnd(widths[i] ?? 0)).join(' | ')} |`;
  const [head = [], ...body] = cells;
  const spread =
    seeds.length < 2
      ? ''
      : ` By seed: ${rows.map(({ title, bySeed }) => `${title} ${bySeed.map(({ accuracy }) => percent(accuracy)).join(', ')}`).join('; ')}.`;
  return [
    `**${figures.title}.** ${budget.steps} steps, ${seeds.length} seed${seeds.length === 1 ? '' : 's'}; ${figures.budgetText}.`,
    '',
    line(head),
    line(widths.map((width) => '-'.repeat(width))),
    ...body.map(line),
    '',
    `Accuracy in % with 95 % intervals over held-out questions (their number in brackets), differences in points; exact McNemar or sign-flip tests over the same questions, p raised after Holm within a column.${spread}`,
  ].join('\n');
}
