/**
 * Held-out conversations as an evaluation: the last answer of an example is the reference, an answer that equals it is right. The one way in which checkpoints
 * of a job and the models of a gate are judged; who asks the models stands elsewhere (server/evaluate-held-out.ts).
 */
import { sha256Hex } from '../io/digest.ts';
import { normaliseAnswer } from '../text/normalise-answer.ts';
import { clusteredMean } from './statistics/clustered.ts';
import { compareRuns } from './statistics/compare.ts';
import { comparePairs, countPairs } from './statistics/paired.ts';
import { powerOf } from './statistics/power.ts';
import type { EvalItem, EvalVariant, Scored } from './task.ts';

/** Rises when the same answers would be judged otherwise. */
export const HELD_OUT_VERSION = 1;

/** How held-out questions are asked and judged, in words, for reports and their hash. */
export const HELD_OUT_PROTOCOL = {
  prompt: 'the conversation without its last turn, by the chat template of the model',
  answer:
    'greedy, up to 8 tokens more than the reference has; where options are given, the one with the highest log-probability',
  score: 'equal after NFKC, lower case, single spaces, no quotation marks around it and no punctuation at its end',
  group: 'the group of the record; else the pictures of the first turn that has any; else the first words of the user',
} as const;

/** A conversation as the reader of training data gives it, as far as it matters here. */
export interface HeldOutConversation {
  readonly group?: string;
  readonly messages: readonly {
    readonly role: string;
    readonly parts: readonly (
      | { readonly type: 'text'; readonly text: string }
      | { readonly type: 'image'; readonly image: number }
    )[];
  }[];
  /** By `image` of the parts. */
  readonly images: readonly string[];
}

/** Right where it is the same answer, compared by `normaliseAnswer`: words and their order, not case, quotation marks or a full stop. */
export function scoreHeldOut(answer: string, reference: string): Scored {
  const parsed = normaliseAnswer(answer);
  return { score: parsed === normaliseAnswer(reference) ? 1 : 0, parsed, rule: 'equal answer' };
}

/** The answer that counts; null where the conversation does not end in one. */
export function referenceOf({ messages }: HeldOutConversation): string | null {
  const last = messages.at(-1);
  if (last?.role !== 'assistant') return null;
  return last.parts.map((part) => (part.type === 'text' ? part.text : '')).join('');
}

/**
 * Which questions depend on each other: what the record says; else those whose first pictures are the same ones, in any order; without pictures those that
 * begin with the same words. So the sentences about one scene, and the turns of one dialogue, are one group.
 */
export function groupOf({ group, messages, images }: HeldOutConversation): string {
  if (group !== undefined) return `group ${group}`;
  for (const { role, parts } of messages) {
    if (role !== 'user') continue;
    const shown = parts.flatMap((part) => (part.type === 'image' ? [images[part.image] ?? ''] : []));
    if (shown.length > 0) return `pictures ${digest([...new Set(shown)].sort())}`;
  }
  const first = messages.find(({ role }) => role === 'user');
  return `words ${digest((first?.parts ?? []).map((part) => (part.type === 'text' ? part.text : '')))}`;
}

const digest = (words: readonly string[]): string =>
  sha256Hex(new TextEncoder().encode(JSON.stringify(words))).slice(0, 24);

/** One model's answers to one question, in all the ways in which it was asked. */
interface Question {
  readonly group: string;
  /** Mean score over the orders of the pictures. */
  readonly score: number;
  /** Whether all orders had the same answer; null where one was asked. */
  readonly isConsistent: boolean | null;
  /** Without its pictures; the score itself where it has none. */
  readonly textOnly: number | null;
}

/** By record, in the order of the items. */
function questionsOf(items: readonly EvalItem[]): Map<string, Question> {
  const byRecord = new Map<string, EvalItem[]>();
  for (const item of items) {
    const known = byRecord.get(item.record);
    if (known === undefined) byRecord.set(item.record, [item]);
    else known.push(item);
  }
  const isAskedBlind = items.some(({ variant }) => variant.control === 'text-only');
  return new Map(
    [...byRecord].map(([record, own]) => {
      const seen = own.filter(({ variant }) => variant.control === 'none');
      const blind = own.find(({ variant }) => variant.control === 'text-only');
      const score = seen.reduce((sum, item) => sum + item.score, 0) / seen.length;
      const question: Question = {
        group: own[0]?.group ?? record,
        score,
        isConsistent: seen.length < 2 ? null : seen.every(({ parsed }) => parsed === seen[0]?.parsed),
        textOnly: isAskedBlind ? (blind?.score ?? score) : null,
      };
      return [record, question] as const;
    }),
  );
}

/** Two models on the same held-out questions. Shares 0…1. */
export interface HeldOutComparison {
  readonly examples: number;
  readonly groups: number;
  readonly confidence: number;
  /** Questions answered right, and those that one model answered better than the other. With several orders of pictures, rounded sums of shares. */
  readonly counts: {
    readonly firstRight: number;
    readonly secondRight: number;
    readonly onlyFirst: number;
    readonly onlySecond: number;
  };
  readonly first: { readonly accuracy: number; readonly interval: readonly [number, number] };
  readonly second: { readonly accuracy: number; readonly interval: readonly [number, number] };
  /** Accuracy of the second less that of the first. */
  readonly difference: number;
  readonly interval: readonly [number, number];
  readonly pValue: number;
  /** The smallest difference that so many questions show with a power of 80 %; null where none would, or nothing is known of the error. */
  readonly detectable: number | null;
  /** Of the second model. */
  readonly orderConsistency: number | null;
  readonly textOnly: { readonly accuracy: number; readonly interval: readonly [number, number] } | null;
}

/**
 * Intervals take questions of one group as dependent (`clusteredMean`, `compareRuns`). Where every group has one question that is right or wrong, the difference
 * has Newcombe's interval with Student's t and McNemar's exact test (`comparePairs`).
 * @throws RangeError where the models were not asked the same questions, or none
 */
export function compareHeldOut(
  first: readonly EvalItem[],
  second: readonly EvalItem[],
  confidence: number,
): HeldOutComparison {
  const [before, after] = [questionsOf(first), questionsOf(second)];
  if (before.size !== after.size) throw new RangeError('compareHeldOut: expected the same questions of both models');
  const pairs = [...after].map(([record, { group, score }]) => {
    const other = before.get(record);
    if (other === undefined) throw new RangeError(`compareHeldOut: only one model was asked ${record}`);
    return { cluster: group, category: null, first: other.score, second: score };
  });
  const examples = pairs.length;
  const groups = new Set(pairs.map(({ cluster }) => cluster)).size;
  const run = compareRuns(pairs, { confidence });
  const isSimple = run.counts !== null && groups === examples;
  const simple = isSimple
    ? comparePairs(countPairs(pairs.map((pair) => [pair.first === 1, pair.second === 1])), confidence)
    : null;
  const { standardError, first: of } = run;
  const power = powerOf(
    {
      standardError,
      items: examples,
      clusters: groups,
      degreesOfFreedom: of.degreesOfFreedom,
      isCounted: isSimple,
    },
    { confidence },
  );
  const asked = [...after.values()];
  const consistent = asked.flatMap(({ isConsistent }) => (isConsistent === null ? [] : [isConsistent]));
  const blind = asked.flatMap(({ group, textOnly }) =>
    textOnly === null ? [] : [{ cluster: group, category: null, value: textOnly }],
  );
  return {
    examples,
    groups,
    confidence,
    counts: {
      firstRight: Math.round(pairs.reduce((sum, pair) => sum + pair.first, 0)),
      secondRight: Math.round(pairs.reduce((sum, pair) => sum + pair.second, 0)),
      onlyFirst: pairs.filter((pair) => pair.first > pair.second).length,
      onlySecond: pairs.filter((pair) => pair.second > pair.first).length,
    },
    first: { accuracy: run.first.mean, interval: run.first.interval },
    second: { accuracy: run.second.mean, interval: run.second.interval },
    difference: run.difference,
    interval: simple?.interval ?? run.interval,
    pValue: simple?.pValue ?? run.pValue,
    detectable: power?.smallestDifference ?? null,
    orderConsistency: consistent.length === 0 ? null : consistent.filter(Boolean).length / consistent.length,
    textOnly: blind.length === 0 ? null : blindOf(blind, confidence),
  };
}

function blindOf(
  observations: readonly { cluster: string; category: null; value: number }[],
  confidence: number,
): { accuracy: number; interval: readonly [number, number] } {
  const { mean, interval } = clusteredMean(observations, { confidence });
  return { accuracy: mean, interval };
}

/**
 * Every question with the answers of both models, JSON Lines: wrong ones of the second model first, so that a person finds them at the top; what was asked
 * without pictures comes after everything else, with the first model only where it was asked so too.
 * @param names of the two models in the lines, `base` and `checkpoint`
 * @param questions by record: the last words of the user, for who reads it
 */
export function outcomeLines(
  first: readonly EvalItem[],
  second: readonly EvalItem[],
  names: readonly [string, string],
  questions: ReadonlyMap<string, string>,
): string {
  const keyOf = ({ record, variant }: EvalItem): string => JSON.stringify([record, variant]);
  const before = new Map(first.map((item) => [keyOf(item), item]));
  const shown = (item: EvalItem) => ({ answer: item.answer, right: item.score === 1, ...logprobsOf(item) });
  const lines = second.map((item) => {
    const other = before.get(keyOf(item));
    const question = questions.get(item.record) ?? '';
    return {
      place: (item.variant.control === 'none' ? 0 : 2) + (item.score === 1 ? 1 : 0),
      text: JSON.stringify({
        example: item.record,
        group: item.group,
        ...variantOf(item.variant),
        question: item.variant.control === 'text-only' ? question.replaceAll('<image>', '') : question,
        reference: item.reference,
        ...(other === undefined ? {} : { [names[0]]: shown(other) }),
        [names[1]]: shown(item),
      }),
    };
  });
  return lines
    .sort((a, b) => a.place - b.place)
    .map(({ text }) => `${text}\n`)
    .join('');
}

const logprobsOf = ({ logprobs }: EvalItem) => (logprobs === undefined ? {} : { logprobs });

/** What was changed about the question; nothing for one that was asked as it is. */
function variantOf({ control, imageOrder }: EvalVariant): Record<string, unknown> {
  return {
    ...(control === 'none' ? {} : { control }),
    ...(imageOrder === undefined ? {} : { image_order: imageOrder }),
  };
}
