import type { EvalItem } from '../task.ts';
import { clip, groupBy } from './items.ts';
import { letterIn } from './rotation.ts';
import type { EvalReport } from './schema.ts';

const SHOWN_ANSWERS = 12;
const MAX_RULES = 24;
/** A confusion table with more labels than these is not read. */
const MAX_LABELS = 8;
const MAX_LABEL_CHARS = 60;

/**
 * Which rules read the answers, which answers were given, and what was taken for what; only the rules where answers have no key to be held against.
 * @param facts.optionCounts by record: answers to questions with options are letters, `b.` the same as `(B)`
 */
export function answersOf(
  items: readonly EvalItem[],
  {
    optionCounts,
    hasAnswerKey,
  }: { readonly optionCounts: ReadonlyMap<string, number>; readonly hasAnswerKey: boolean },
): EvalReport['answers'] {
  const rules = [...groupBy(items, ({ rule }) => rule)]
    .map(([rule, own]) => ({ rule, items: own.length, accuracy: meanScore(own) }))
    .sort((a, b) => b.items - a.items || (a.rule < b.rule ? -1 : 1));
  const none = { given: 0, expected: 0 };
  if (!hasAnswerKey) return { rules: rules.slice(0, MAX_RULES), distribution: [], others: none, confusion: null };
  const counts = new Map<string, { given: number; expected: number }>();
  const countOf = (label: string) => {
    const known = counts.get(label) ?? { given: 0, expected: 0 };
    counts.set(label, known);
    return known;
  };
  const read = items.map(({ record, parsed, reference }) => {
    const isLetter = (optionCounts.get(record) ?? 0) > 1;
    return { given: parsed === null ? null : labelOf(parsed, isLetter), expected: labelOf(reference, isLetter) };
  });
  for (const { given, expected } of read) {
    if (given !== null) countOf(given).given++;
    countOf(expected).expected++;
  }
  const sorted = [...counts]
    .map(([answer, count]) => ({ answer, ...count }))
    .sort((a, b) => Math.max(b.given, b.expected) - Math.max(a.given, a.expected) || (a.answer < b.answer ? -1 : 1));
  const others = sorted.slice(SHOWN_ANSWERS);
  return {
    rules: rules.slice(0, MAX_RULES),
    distribution: sorted.slice(0, SHOWN_ANSWERS),
    others: {
      given: others.reduce((sum, { given }) => sum + given, 0),
      expected: others.reduce((sum, { expected }) => sum + expected, 0),
    },
    confusion: confusionOf(read, [...counts.keys()].sort()),
  };
}

function confusionOf(
  read: readonly { readonly given: string | null; readonly expected: string }[],
  labels: readonly string[],
): EvalReport['answers']['confusion'] {
  if (labels.length < 2 || labels.length > MAX_LABELS) return null;
  const counts = labels.map(() => new Array<number>(labels.length + 1).fill(0));
  for (const { given, expected } of read) {
    const row = counts[labels.indexOf(expected)] as number[];
    const column = given === null ? labels.length : labels.indexOf(given);
    row[column] = (row[column] as number) + 1;
  }
  return { labels: [...labels], counts };
}

function labelOf(answer: string, isLetter: boolean): string {
  return (isLetter ? letterIn(answer) : null) ?? clip(answer.trim(), MAX_LABEL_CHARS);
}

function meanScore(items: readonly EvalItem[]): number {
  return items.reduce((sum, { score }) => sum + score, 0) / items.length;
}

const BINS = 10;

/**
 * Confidence in the chosen answer (softmax of the choices' log-probabilities) against how often it is right: reliability bins of equal width and their expected
 * calibration error (Naeini, Cooper & Hauskrecht 2015; Guo et al. 2017), and the Brier score of the chosen answer. Null without log-probabilities.
 */
export function calibrationOf(items: readonly EvalItem[]): EvalReport['calibration'] {
  const answers = items.flatMap(({ logprobs, score }) => {
    if (logprobs === undefined || logprobs.length < 2) return [];
    const largest = Math.max(...logprobs);
    const sum = logprobs.reduce((total, logprob) => total + Math.exp(logprob - largest), 0);
    return Number.isFinite(sum) ? [{ confidence: 1 / sum, score }] : [];
  });
  if (answers.length === 0) return null;
  const mean = (own: typeof answers, of: (one: (typeof answers)[number]) => number) =>
    own.reduce((sum, one) => sum + of(one), 0) / own.length;
  const bins = [...groupBy(answers, ({ confidence }) => String(Math.min(BINS - 1, Math.floor(confidence * BINS))))]
    .map(([bin, own]) => ({
      from: Number(bin) / BINS,
      to: (Number(bin) + 1) / BINS,
      items: own.length,
      confidence: mean(own, ({ confidence }) => confidence),
      accuracy: mean(own, ({ score }) => score),
    }))
    .sort((a, b) => a.from - b.from);
  return {
    bins,
    expectedError: bins.reduce(
      (sum, bin) => sum + (bin.items / answers.length) * Math.abs(bin.confidence - bin.accuracy),
      0,
    ),
    brier: mean(answers, ({ confidence, score }) => (confidence - score) ** 2),
    meanConfidence: mean(answers, ({ confidence }) => confidence),
  };
}
