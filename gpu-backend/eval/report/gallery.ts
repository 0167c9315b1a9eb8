import { sha256Hex } from '../../io/digest.ts';
import type { EvalItem } from '../task.ts';
import { clip, type ReportRecord } from './items.ts';
import type { WrongAnswer } from './schema.ts';

/** Questions of a report's list of wrong answers; of more, these many are drawn. */
export const GALLERY_QUESTIONS = 150;
/** Pictures of one question that are shown. */
const GALLERY_PICTURES = 12;
const MAX_TEXT_CHARS = 1_500;
const MAX_OPTION_CHARS = 200;
const MAX_OPTIONS = 26;

/** The same few of many for every run: by the digest of their names, so that the choice follows nothing that matters; in the order given. */
export function drawn<T>(all: readonly T[], nameOf: (one: T) => string, most = GALLERY_QUESTIONS): T[] {
  if (all.length <= most) return [...all];
  const names = all.map((one) => sha256Hex(nameOf(one)));
  const limit = names.toSorted()[most] as string;
  return all.filter((_, i) => (names[i] as string) < limit);
}

/** A question as it was shown in one way of asking it. */
export function questionOf(
  item: EvalItem,
  record: ReportRecord | undefined,
): Omit<WrongAnswer, 'answer' | 'parsed' | 'rule' | 'score' | 'error' | 'asked' | 'wrong'> {
  const images = record?.images.map(({ sha256 }) => sha256) ?? [];
  const order = item.variant.imageOrder ?? [...images.keys()];
  return {
    record: item.record,
    category: item.category,
    question: clip(record?.question ?? '', MAX_TEXT_CHARS),
    options: (record?.options ?? []).slice(0, MAX_OPTIONS).map((option) => clip(option, MAX_OPTION_CHARS)),
    images: order.slice(0, GALLERY_PICTURES).flatMap((from) => images[from] ?? []),
    reference: item.reference === '' ? null : clip(item.reference, MAX_OPTION_CHARS),
  };
}

export function givenOf({
  answer,
  parsed,
  rule,
  score,
}: EvalItem): Pick<WrongAnswer, 'answer' | 'parsed' | 'rule' | 'score'> {
  return {
    answer: clip(answer, MAX_TEXT_CHARS),
    parsed: parsed === null ? null : clip(parsed, MAX_OPTION_CHARS),
    rule: clip(rule, MAX_OPTION_CHARS),
    score,
  };
}
