import * as z from 'zod/mini';
import { ContentPart } from '../../../shared/contract/chat.ts';
import { DatasetLine } from '../../../shared/contract/datasets.ts';
import { violationsOf } from '../../../shared/contract/errors.ts';
import { LIMITS } from '../../../shared/contract/limits.ts';
import type { Message, Part } from '../../text/layout.ts';
import type { ImageNote } from './example.ts';
import type { PictureTaker } from './pictures.ts';
import type { RecordProblems } from './problem.ts';

const Messages = z.object({ messages: z.array(z.unknown()).check(z.maxLength(LIMITS.request.maxMessages)) });
const Contents = z.object({ content: z.array(z.unknown()) });

/** What a form makes of a record; the rest of an example is the same for all. */
export interface Conversation {
  readonly id: string | null;
  readonly skill: string | null;
  readonly group?: string;
  readonly messages: readonly Message[];
  readonly images: readonly string[];
  readonly notes: readonly ImageNote[];
}

/**
 * OpenAI's vision fine-tuning form. Everything that is wrong is said; `<image>` in a text is text.
 * @returns null where anything was
 */
export async function readOpenAi(
  value: unknown,
  pictures: PictureTaker,
  problems: RecordProblems,
): Promise<Conversation | null> {
  const before = problems.errors;
  const parsed = DatasetLine.safeParse(value);
  if (!parsed.success) {
    for (const wrong of violationsOf(parsed.error.issues, value)) problems.add('error', wrong);
    await takeWhatIsWell(value, pictures, problems);
    return null;
  }
  const { messages } = parsed.data;
  const last = messages.length - 1;
  if (messages[last]?.role !== 'assistant')
    problems.error('invalid_value', `messages[${last}].role`, {
      expected: '"assistant" in the last message, which is what is learned',
      received: JSON.stringify(messages[last]?.role),
    });
  else if (messages.every(({ role, weight }) => role !== 'assistant' || weight === 0))
    problems.error('invalid_value', 'messages', {
      expected: 'at least one assistant message to learn from',
      received: 'weight 0 in all of them',
    });
  const images: string[] = [];
  const notes: ImageNote[] = [];
  let count = 0;
  const conversation: Message[] = [];
  for (const [m, { role, content, weight }] of messages.entries()) {
    const parts: Part[] = [];
    if (typeof content === 'string') parts.push({ type: 'text', text: content });
    else
      for (const [p, part] of content.entries()) {
        const param = `messages[${m}].content[${p}].${part.type}`;
        if (part.type === 'text') {
          parts.push({ type: 'text', text: part.text });
          continue;
        }
        if (role !== 'user')
          problems.error('image_not_allowed_here', param, {
            expected: 'pictures in messages of role "user" only',
            received: `one in a message of role "${role}"`,
          });
        if (++count > LIMITS.dataset.maxImagesPerExample) {
          if (count === LIMITS.dataset.maxImagesPerExample + 1) tooManyImages(problems, param, countImages(messages));
          continue;
        }
        const { detail } = part.type === 'image_url' ? part.image_url : part.image_file;
        const url = part.type === 'image_url' ? part.image_url.url : part.image_file.file_id;
        const reference = await pictures.reference(url, param, problems);
        if (reference === null) continue;
        parts.push({ type: 'image', image: images.push(reference) - 1 });
        notes.push(detail === undefined ? {} : { detail });
      }
    conversation.push({ role, parts, ...(weight === undefined ? {} : { weight }) });
  }
  if (problems.errors > before) return null;
  const { group } = parsed.data;
  return {
    id: null,
    skill: null,
    messages: conversation,
    images,
    notes,
    ...(group === undefined ? {} : { group }),
  };
}

/** Takes the pictures of a record whose form is wrong elsewhere, so that what is wrong with them is said in the same reading. */
async function takeWhatIsWell(value: unknown, pictures: PictureTaker, problems: RecordProblems): Promise<void> {
  const { messages } = Messages.safeParse(value).data ?? { messages: [] };
  for (const [m, message] of messages.entries()) {
    const { content } = Contents.safeParse(message).data ?? { content: [] };
    for (const [p, value] of content.slice(0, LIMITS.request.maxPartsPerMessage).entries()) {
      const part = ContentPart.safeParse(value).data;
      if (part === undefined || part.type === 'text') continue;
      const url = part.type === 'image_url' ? part.image_url.url : part.image_file.file_id;
      await pictures.reference(url, `messages[${m}].content[${p}].${part.type}`, problems);
    }
  }
}

export function tooManyImages(problems: RecordProblems, param: string, received: number): void {
  const expected = `at most ${LIMITS.dataset.maxImagesPerExample} images an example`;
  problems.error('too_many_images', param, { expected, received });
}

function countImages(messages: DatasetLine['messages']): number {
  return messages.reduce(
    (sum, { content }) =>
      sum + (typeof content === 'string' ? 0 : content.filter(({ type }) => type !== 'text').length),
    0,
  );
}
