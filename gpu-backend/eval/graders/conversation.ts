/** From a template's messages and an item to a conversation: typed parts, in which text is text and pictures are named. Nothing is pasted together. */
import { ChatMessage } from '../../../shared/contract/chat.ts';
import { describe, fieldPath, violationsOf } from '../../../shared/contract/errors.ts';
import type { EvalMessage, EvalPart } from '../../../shared/contract/evals.ts';
import {
  MissingValue,
  parseTemplate,
  renderTemplate,
  type Template,
  type TemplateData,
  type TemplateRoot,
  templateValue,
} from '../../../shared/contract/evalTemplate.ts';
import { LIMITS } from '../../../shared/contract/limits.ts';

/** `reference`: a data URL, an https address, `file-…` or `sha256:…`. */
export type AskedPart =
  | { readonly type: 'text'; readonly text: string }
  | { readonly type: 'image'; readonly reference: string };

export interface AskedMessage {
  readonly role: 'system' | 'user' | 'assistant';
  readonly parts: readonly AskedPart[];
}

/** @throws MissingValue where the item does not have what is asked for, or something else than a picture stands in a picture's place */
export type WriteConversation = (data: TemplateData) => AskedMessage[];

/** Reads the templates once. @param roots what they may look into @throws TemplateError */
export function conversationOf(messages: readonly EvalMessage[], roots: readonly TemplateRoot[]): WriteConversation {
  const read = messages.map(({ role, content }) => ({
    role: role === 'developer' ? ('system' as const) : role,
    parts: (Array.isArray(content) ? content : [content]).map((part) => readPart(part, roots)),
  }));
  return (data) => checked(read.map(({ role, parts }) => ({ role, parts: parts.flatMap((part) => part(data)) })));
}

function readPart(part: string | EvalPart, roots: readonly TemplateRoot[]): (data: TemplateData) => AskedPart[] {
  const of = (text: string): Template => parseTemplate(text, roots);
  if (typeof part === 'string') return textOf(of(part));
  switch (part.type) {
    case 'input_text':
    case 'output_text':
    case 'text':
      return textOf(of(part.text));
    case 'input_image':
      return imageOf(of(part.image_url ?? part.file_id ?? ''));
    case 'image_url':
      return imageOf(of(part.image_url.url));
    case 'image_file':
      return imageOf(of(part.image_file.file_id));
    case 'mantis.images':
      return imagesOf(of(part.image_urls));
  }
}

const textOf =
  (template: Template) =>
  (data: TemplateData): AskedPart[] => [{ type: 'text', text: renderTemplate(template, data) }];

const imageOf =
  (template: Template) =>
  (data: TemplateData): AskedPart[] => [{ type: 'image', reference: renderTemplate(template, data) }];

const imagesOf =
  (template: Template) =>
  (data: TemplateData): AskedPart[] => {
    const value = templateValue(template, data);
    if (!Array.isArray(value) || !value.every((one) => typeof one === 'string'))
      throw new MissingValue(`image_urls: expected a list of pictures, each a string, received ${describe(value)}`);
    return value.map((reference: string) => ({ type: 'image', reference }));
  };

/** The conversation that an item holds itself, as chat takes it. @param path `item.input` */
export function conversationIn(path: string): WriteConversation {
  const template = parseTemplate(`{{${path}}}`, ['item']);
  return (data) => {
    const value = templateValue(template, data);
    if (!Array.isArray(value) || value.length === 0 || value.length > LIMITS.request.maxMessages)
      throw new MissingValue(
        `${path}: expected 1 to ${LIMITS.request.maxMessages} messages, received ${describe(value)}`,
      );
    return checked(
      value.map((one: unknown, i): AskedMessage => {
        const message = ChatMessage.safeParse(one);
        if (!message.success) {
          const [first] = violationsOf(message.error.issues, one, [path, i]);
          throw new MissingValue(first?.message ?? `${fieldPath([path, i])}: expected a message`);
        }
        const { role, content } = message.data;
        return {
          role: role === 'developer' ? 'system' : role,
          parts:
            typeof content === 'string'
              ? [{ type: 'text', text: content }]
              : content.map((part): AskedPart => {
                  if (part.type === 'text') return part;
                  return {
                    type: 'image',
                    reference: part.type === 'image_url' ? part.image_url.url : part.image_file.file_id,
                  };
                }),
        };
      }),
    );
  };
}

/** What chat refuses too: pictures that are not the user's, too much text, too many pictures. */
function checked(messages: AskedMessage[]): AskedMessage[] {
  let chars = 0;
  let images = 0;
  for (const { role, parts } of messages)
    for (const part of parts)
      if (part.type === 'text') chars += part.text.length;
      else if (role !== 'user')
        throw new MissingValue(`expected pictures in messages of the user only, received one of the role ${role}`);
      else images++;
  if (chars > LIMITS.evals.maxPromptChars)
    throw new MissingValue(`expected at most ${LIMITS.evals.maxPromptChars} characters of text, received ${chars}`);
  if (images > LIMITS.images.maxPerRequest)
    throw new MissingValue(`expected at most ${LIMITS.images.maxPerRequest} pictures, received ${images}`);
  return messages;
}
