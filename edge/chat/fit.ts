/** Whether a prompt and its answer fit the model's context: by bounds that cost nothing where they decide, by the backend's count where not. */
import type { CountResponse, GenerateMessage } from '../../shared/contract/backend.ts';
import { type Violation, violation } from '../../shared/contract/errors.ts';
import { LIMITS } from '../../shared/contract/limits.ts';
import type { ModelCard } from '../../shared/contract/models.ts';
import type { KnownModel } from '../fleet/models.ts';

/** What a request wants of the context besides its prompt. */
export type Wanted = {
  /** New tokens; null = as many as fit, at least one. */
  maxNewTokens: number | null;
  /** Field that asked for them. */
  field: 'max_tokens' | 'max_completion_tokens';
  /** Given answers, of which the longest counts. */
  options?: readonly string[];
};

/** Decoder positions. */
type Range = { least: number; most: number };

export type Verdict =
  | { type: 'fits' }
  /** Never: `least` says so already. `exact` where it is worth counting for the answer. */
  | { type: 'too_long'; text: Range; exact: boolean }
  | { type: 'unknown' };

const utf8Bytes = (text: string): number => new TextEncoder().encode(text).byteLength;

/**
 * What can be said without counting.
 * @param imageTokens positions of each picture
 */
export function judge(
  card: ModelCard,
  messages: readonly GenerateMessage[],
  imageTokens: readonly number[],
  wanted: Wanted,
): Verdict {
  const bounds = card.textBounds;
  if (bounds === undefined) return { type: 'unknown' };
  const images = sum(imageTokens);
  const texts = messages.flatMap(({ parts }) => parts.flatMap((part) => (part.type === 'text' ? [part.text] : [])));
  const bytes = sum(texts.map(utf8Bytes));
  const given = (wanted.options ?? []).map(utf8Bytes);
  const longest = Math.max(0, ...given);
  const text = {
    least: Math.ceil(bytes / bounds.longestTokenBytes),
    most:
      bytes * bounds.mostTokensPerByte +
      bounds.promptTokens +
      messages.length * bounds.messageTokens +
      imageTokens.length * bounds.imageTokens,
  };
  const answer = {
    least:
      (wanted.options === undefined ? (wanted.maxNewTokens ?? 1) : 0) + Math.ceil(longest / bounds.longestTokenBytes),
    most: (wanted.options === undefined ? (wanted.maxNewTokens ?? 1) : 1) + longest * bounds.mostTokensPerByte,
  };
  if (images + text.most + answer.most <= card.contextTokens) return { type: 'fits' };
  if (images + text.least + answer.least <= card.contextTokens) return { type: 'unknown' };
  return { type: 'too_long', text, exact: bytes <= LIMITS.request.maxCountedTextBytes };
}

/** By the exact numbers. @returns what is wrong, or null */
export function checkFit(
  { card, id }: Pick<KnownModel, 'card' | 'id'>,
  count: CountResponse,
  wanted: Wanted,
): Violation | null {
  const { promptTokens, imageTokens, optionTokens } = count;
  const text = promptTokens - sum(imageTokens);
  const answer = optionTokens === undefined ? (wanted.maxNewTokens ?? 1) : Math.max(0, ...optionTokens);
  if (promptTokens + answer <= card.contextTokens) return null;
  const prompt = `a prompt of ${promptTokens} tokens (${text} of text${ofImages(imageTokens)})`;
  if (optionTokens !== undefined)
    return tooLong(id, card, 'messages', `${prompt} and ${answer} more of the longest option`);
  // Where the prompt leaves some room, it is the answer that is too long.
  if (promptTokens < card.contextTokens)
    return tooLong(id, card, wanted.field, `${prompt} and ${answer} more for the answer`, answer);
  return tooLong(
    id,
    card,
    'messages',
    `${prompt}${wanted.maxNewTokens === null ? '' : ` and ${answer} more for the answer`}`,
  );
}

/** By bounds alone, for texts that are too long to be worth counting. */
export function farTooLong(
  { card, id }: Pick<KnownModel, 'card' | 'id'>,
  text: Range,
  imageTokens: readonly number[],
): Violation {
  return tooLong(
    id,
    card,
    'messages',
    `at least ${text.least + sum(imageTokens)} tokens (${text.least} of text${ofImages(imageTokens)})`,
  );
}

function tooLong(id: string, card: ModelCard, param: string, received: string, answer?: number): Violation {
  const remedy =
    answer === undefined ? 'Send fewer images or less text.' : `Send fewer images or less text, or lower ${param}.`;
  return violation('context_length_exceeded', param, {
    expected: `prompt and answer within the ${card.contextTokens} tokens of ${id}'s context`,
    received,
    remedy,
  });
}

/** ` + 3 images: 100 + 100 + 25`. */
function ofImages(imageTokens: readonly number[]): string {
  if (imageTokens.length === 0) return '';
  const [first] = imageTokens;
  const each = imageTokens.every((tokens) => tokens === first)
    ? imageTokens.length === 1
      ? `${first}`
      : `${imageTokens.length} x ${first}`
    : imageTokens.join(' + ');
  return ` + ${imageTokens.length} image${imageTokens.length === 1 ? '' : 's'}: ${each}`;
}

const sum = (numbers: readonly number[]): number => numbers.reduce((total, number) => total + number, 0);
