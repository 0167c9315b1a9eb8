import { evalControls } from '../controls.ts';
import { compareRuns, type RunComparison, type ScoredPair } from '../statistics/compare.ts';
import type { Aggregate, EvalItem } from '../task.ts';
import { byRecord, estimateFrom, isPlain, observationsOf, readOf, shareFrom } from './items.ts';
import { type EvalReport, REPORT_CONFIDENCE, type ReportDifference } from './schema.ts';

/** A picture that moves fewer answers than this is hardly looked at … */
const USED_SHARE = 0.02;
/** … and so is one that moves fewer than this part of what the picture that moves most does. */
const USED_PART = 0.25;

/** Accuracy under each control and what it takes away, question by question. */
export function controlsOf(
  items: readonly EvalItem[],
  base: readonly EvalItem[],
  aggregate: Aggregate,
): EvalReport['controls'] {
  const by = aggregate === 'categories' ? 'categories' : 'records';
  const asked = byRecord(base);
  return evalControls.flatMap((control) => {
    const own = items.filter(({ variant }) => variant.control === control);
    const pairs: ScoredPair[] = [];
    for (const [record, changed] of byRecord(own)) {
      const unchanged = asked.get(record);
      const [one] = changed;
      if (unchanged === undefined || one === undefined) continue;
      const { group: cluster, category } = one;
      pairs.push({ cluster, category, first: meanScore(unchanged), second: meanScore(changed) });
    }
    if (pairs.length === 0) return [];
    const observations = observationsOf(own, aggregate === 'groups' ? 'records' : aggregate);
    const compared = compareRuns(pairs, { by, confidence: REPORT_CONFIDENCE, seed: control });
    return [{ control, ...estimateFrom(observations, by), change: differenceOf(compared) }];
  });
}

export function differenceOf(compared: RunComparison): ReportDifference {
  const { difference, interval, standardError, pValue, test } = compared;
  return { difference, interval: [...interval], standardError, pValue, test };
}

/** What happens to the answer when one picture is grey, by the picture's place. */
export function leaveOneOutOf(items: readonly EvalItem[]): EvalReport['leaveOneOut'] {
  const plain = new Map(items.filter(isPlain).map((item) => [item.record, item]));
  const pictures = new Map<number, { cluster: string; hasChanged: boolean; wasRight: boolean; isRight: boolean }[]>();
  for (const item of items) {
    const base = plain.get(item.record);
    if (item.variant.control !== 'leave-one-out' || item.variant.leftOut === undefined || base === undefined) continue;
    const facts = pictures.get(item.variant.leftOut) ?? [];
    pictures.set(item.variant.leftOut, facts);
    facts.push({
      cluster: item.group,
      hasChanged: readOf(item) !== readOf(base),
      wasRight: base.score === 1,
      isRight: item.score === 1,
    });
  }
  if (pictures.size === 0) return null;
  return [...pictures]
    .sort(([a], [b]) => a - b)
    .map(([leftOut, facts]) => {
      const right = facts.filter(({ wasRight }) => wasRight);
      return {
        picture: leftOut + 1,
        changed: shareFrom(facts.map(({ cluster, hasChanged }) => ({ cluster, is: hasChanged }))),
        lost: right.length === 0 ? null : shareFrom(right.map(({ cluster, isRight }) => ({ cluster, is: !isRight }))),
      };
    });
}

/** "Does it use every image?" in words, from what was asked; null where nothing of the kind was. */
export function visionOf(
  controls: EvalReport['controls'],
  leaveOneOut: EvalReport['leaveOneOut'],
  imageOrder: EvalReport['imageOrder'],
): EvalReport['vision'] {
  type Check = NonNullable<EvalReport['vision']>['checks'][number];
  const seeing: Check[] = controls
    .filter(({ control }) => control !== 'leave-one-out')
    .map(({ control, mean, change }) => {
      const [low, high] = change.interval;
      const outcome = high < 0 ? 'yes' : low > -USED_SHARE ? 'no' : 'unclear';
      const said = `${CONTROL_WORDS[control]}: ${percent(mean)}, ${signed(change.difference)} points (${signed(low)} … ${signed(high)})`;
      return { name: control, outcome, words: `${said}. ${SEEING_WORDS[outcome]}` };
    });
  const most = Math.max(0, ...(leaveOneOut ?? []).map(({ changed }) => changed.mean));
  const needed = Math.max(USED_SHARE, USED_PART * most);
  const every: Check[] = (leaveOneOut ?? []).map(({ picture, changed, lost }) => {
    const [low, high] = changed.interval;
    const outcome = low > needed ? 'yes' : high < needed ? 'no' : 'unclear';
    const loss = lost === null ? '' : `, and ${percent(lost.mean)} of the right answers are lost`;
    const said = `Picture ${picture} grey: ${percent(changed.mean)} of the answers change (${percent(low)} … ${percent(high)})${loss}`;
    return { name: `picture ${picture}`, outcome, words: `${said}. ${PICTURE_WORDS[outcome]}` };
  });
  if (seeing.length + every.length === 0) return null;
  const order: Check[] =
    imageOrder === null
      ? []
      : [
          {
            name: 'order',
            // Not a part of the verdict: for some questions the order is the question.
            outcome: 'unclear',
            words: `In another order ${percent(imageOrder.flipped.mean)} of the answers are different (${percent(imageOrder.flipped.interval[0])} … ${percent(imageOrder.flipped.interval[1])}); ${percent(imageOrder.sameAnswer.mean)} of the questions get one answer in all orders.`,
          },
        ];
  const all = (checks: readonly Check[], outcome: Check['outcome']) =>
    checks.length > 0 && checks.every((check) => check.outcome === outcome);
  const any = (checks: readonly Check[], outcome: Check['outcome']) =>
    checks.some((check) => check.outcome === outcome);
  const sees = seeing.length === 0 ? any(every, 'yes') : all(seeing, 'yes');
  const verdict =
    all(seeing, 'no') || (seeing.length === 0 && all(every, 'no'))
      ? 'no'
      : sees && all(every, 'yes')
        ? 'yes'
        : sees && any(every, 'no')
          ? 'partly'
          : 'unclear';
  return { verdict, summary: summaryOf(verdict, sees, every), checks: [...seeing, ...every, ...order] };
}

function summaryOf(
  verdict: NonNullable<EvalReport['vision']>['verdict'],
  sees: boolean,
  every: readonly { readonly name: string; readonly outcome: string }[],
): string {
  const unused = every.filter(({ outcome }) => outcome === 'no').map(({ name }) => name);
  if (verdict === 'yes') return 'It uses every picture: each one, blanked alone, changes answers.';
  if (verdict === 'no') return 'It does not use the pictures: without them it answers as well.';
  if (verdict === 'partly')
    return `It uses pictures, but hardly ${unused.join(', ')}: blanked alone, they change few answers. Either it overlooks them or the questions do not need them.`;
  if (sees && every.length === 0)
    return 'It uses pictures. Whether it uses every one was not asked: add the control leave-one-out.';
  return sees
    ? 'It uses pictures. Whether it uses every one cannot be told from so few questions.'
    : 'Whether it uses the pictures cannot be told from so few questions.';
}

const CONTROL_WORDS = {
  'text-only': 'Without pictures',
  blank: 'With grey pictures',
  shuffled: 'With the pictures of other questions',
  'leave-one-out': 'With one picture grey',
} as const;
const SEEING_WORDS = {
  yes: 'The pictures carry that much.',
  no: 'The pictures carry next to nothing.',
  unclear: 'Too few questions to tell.',
} as const;
const PICTURE_WORDS = { yes: 'It is used.', no: 'It is hardly used.', unclear: 'Too few questions to tell.' } as const;

export function percent(share: number): string {
  return `${(100 * share).toFixed(1)} %`;
}

/** Percentage points with their sign. */
export function signed(difference: number): string {
  const points = (100 * difference).toFixed(1);
  return Number(points) === 0 ? '0.0' : Number(points) > 0 ? `+${points}` : points.replace('-', '−');
}

/** Percentage points without their sign. */
export function unsigned(difference: number): string {
  return Math.abs(100 * difference).toFixed(1);
}

function meanScore(items: readonly EvalItem[]): number {
  return items.reduce((sum, { score }) => sum + score, 0) / items.length;
}
