import {
  groupOf,
  HELD_OUT_PROTOCOL,
  HELD_OUT_VERSION,
  type HeldOutConversation,
  referenceOf,
  scoreHeldOut,
} from '../held-out.ts';
import type { TaskOptions } from '../options.ts';
import { againstReference } from '../parsers/reference.ts';
import type { EvalImage, EvalPrompt, EvalRecord, EvalRecords, EvalSource, EvalTask, EvalTurn, Json } from '../task.ts';

/** Tokens beyond those of the reference within which an answer may still equal it: quotation marks, a full stop. */
const SLACK_TOKENS = 8;

export interface OwnTaskOptions extends TaskOptions {
  /** The answers to choose from: the likeliest is the answer. Default: answers are written. */
  readonly choices?: readonly string[];
  /** Reads the user's files; whoever knows the formats of training data hands it in. */
  readonly open: (source: EvalSource) => Promise<EvalRecords>;
}

/**
 * A user's own conversations, as fine-tuning takes them: what stands before the last answer is asked, and an answer that equals it is right. Judged as checkpoints of
 * a job and the models of a gate are (`held-out.ts`).
 */
export function ownTask({ choices = [], answerBy = 'likelihood', open }: OwnTaskOptions): EvalTask {
  const isCompared = choices.length > 0 && answerBy === 'likelihood';
  return {
    name: 'own',
    title: 'Own conversations',
    version: HELD_OUT_VERSION,
    aggregate: 'records',
    protocol: {
      ...HELD_OUT_PROTOCOL,
      answer: isCompared
        ? 'the choice with the highest log-probability'
        : `greedy, up to as many tokens as the reference has bytes of UTF-8, and ${SLACK_TOKENS} more`,
      ...(choices.length === 0 ? {} : { choices, answerBy }),
    },
    open,
    prompt: (record): EvalPrompt => {
      const { system, turns } = record.fields as unknown as Asked;
      const reference = record.answers[0] ?? '';
      return {
        ...(system === null ? {} : { system }),
        ...(turns.length < 2 ? {} : { earlier: turns.slice(0, -1) }),
        parts: turns.at(-1)?.parts ?? [],
        images: record.images,
        // No tokenizer makes more tokens than there are bytes.
        maxTokens: Buffer.byteLength(reference) + SLACK_TOKENS,
        ...(isCompared ? { choices } : {}),
      };
    },
    score: (answer, record) => againstReference(record, (reference) => scoreHeldOut(answer, reference)),
  };
}

/** What the fields of a record hold. */
interface Asked {
  readonly system: string | null;
  readonly turns: readonly EvalTurn[];
}

/**
 * A conversation as a record of the task.
 * @param images by `image` of the parts
 * @throws Error where it does not end in a question and its answer, or the answer is none of the choices
 */
export function ownRecord(
  conversation: HeldOutConversation & { readonly skill?: string | null; readonly subset?: string | null },
  id: string,
  images: readonly EvalImage[],
  choices: readonly string[],
): EvalRecord {
  const reference = referenceOf(conversation);
  if (reference === null) throw new Error(`${id}: expected an assistant turn at its end, the answer that counts`);
  if (choices.length > 0 && !choices.some((choice) => scoreHeldOut(reference, choice).score === 1))
    throw new Error(
      `${id}: expected an answer among the choices ${choices.join(', ')}, received ${JSON.stringify(reference.slice(0, 80))}`,
    );
  const asked = conversation.messages.slice(0, -1).map(({ role, parts }) => ({
    role,
    parts: parts.map((part) => (part.type === 'text' ? part.text : { image: part.image })),
  }));
  const turns = asked.filter(({ role }) => role !== 'system');
  if (turns.at(-1)?.role !== 'user') throw new Error(`${id}: expected a turn of the user before the last answer`);
  const system = asked.filter(({ role }) => role === 'system').map(({ parts }) => parts.join(''));
  const fields = { system: system.length === 0 ? null : system.join('\n'), turns };
  return {
    id,
    group: groupOf(conversation),
    category: conversation.skill ?? conversation.subset ?? null,
    images,
    question: inWords(turns),
    options: choices,
    answers: [reference],
    fields: fields as unknown as Readonly<Record<string, Json>>,
  };
}

/** For people: a single question as it is, a longer conversation with who said what. */
function inWords(turns: readonly { readonly role: string; readonly parts: EvalTurn['parts'] }[]): string {
  const said = turns.map(({ parts }) => parts.map((part) => (typeof part === 'string' ? part : '<image>')).join(''));
  return said.length === 1 ? (said[0] ?? '') : turns.map(({ role }, i) => `${role}: ${said[i]}`).join('\n');
}
