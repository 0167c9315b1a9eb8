import type { Message } from '../../text/layout.ts';
import { PLACEHOLDER } from './dialogue.ts';
import type { DataExample } from './example.ts';

/** Forms of records that examples can be written in. */
export const exportForms = ['openai', 'mantis', 'mantis-parquet', 'llava', 'sharegpt'] as const;
export type ExportForm = (typeof exportForms)[number];

/** Where a picture is when its record is written: what the record says instead of bytes. */
export type Locate = (image: number) => string;

/** A record that is written, with what it could not say; or why it cannot be written at all. */
export type Written =
  | { readonly record: Readonly<Record<string, unknown>>; readonly losses: readonly string[] }
  | { readonly reason: string };

/** OpenAI's form. It has no place for ids and skills. */
export function openAiRecord({ id, skill, group, messages, images, notes }: DataExample, locate: Locate): Written {
  const losses = [...(id === null ? [] : ['id']), ...(skill === null ? [] : ['skill'])];
  const record = {
    messages: messages.map(({ role, parts, weight }) => {
      const first = parts[0];
      const content =
        parts.length === 1 && first?.type === 'text'
          ? first.text
          : parts.map((part) => {
              if (part.type === 'text') return { type: 'text', text: part.text };
              const detail = notes[part.image]?.detail;
              const url = locate(part.image);
              if (/^file-/.test(images[part.image] ?? ''))
                return {
                  type: 'image_file',
                  image_file: { file_id: url, ...(detail === undefined ? {} : { detail }) },
                };
              return { type: 'image_url', image_url: { url, ...(detail === undefined ? {} : { detail }) } };
            });
      return { role, content, ...(weight === undefined ? {} : { weight }) };
    }),
    ...(group === undefined ? {} : { group }),
  };
  return { record, losses };
}

interface Turn {
  readonly role: Message['role'];
  readonly text: string;
  readonly weight: number | undefined;
}

/** Texts with `<image>` where pictures are; null with the reason where the form cannot say it. */
function turnsOf({ messages }: DataExample): readonly Turn[] | string {
  const turns: Turn[] = [];
  for (const { role, parts, weight } of messages) {
    let text = '';
    let run = '';
    for (const part of parts) {
      if (part.type === 'text') {
        run += part.text;
        text += part.text;
      } else {
        run = '';
        text += PLACEHOLDER;
      }
      // As text it would be read back as a picture.
      if (run.includes(PLACEHOLDER)) return `a text that holds ${PLACEHOLDER} literally`;
    }
    turns.push({ role, text, weight });
  }
  const talk = turns[0]?.role === 'system' ? turns.slice(1) : turns;
  if (talk.some(({ role }, i) => role !== (i % 2 === 0 ? 'user' : 'assistant')) || talk.length % 2 !== 0)
    return 'turns of user and assistant that do not alternate';
  return turns;
}

/** Pictures in the order in which placeholders stand, which is how they are found again. */
function inReadingOrder({ messages }: DataExample): number[] {
  return messages.flatMap(({ parts }) => parts.flatMap((part) => (part.type === 'image' ? [part.image] : [])));
}

const weightOf = ({ weight }: Turn) => (weight === undefined || weight === 1 ? {} : { weight });

/** Mantis-Instruct's form: `images` and `conversation`. `weight` beside a turn's content is ours; its own loader passes over it. */
export function mantisRecord(example: DataExample, locate: Locate): Written {
  const turns = turnsOf(example);
  if (typeof turns === 'string') return { reason: turns };
  const { id, skill, line } = example;
  const record = {
    id: id ?? String(line),
    images: inReadingOrder(example).map(locate),
    conversation: turns.map((turn) => ({ role: turn.role, content: turn.text, ...weightOf(turn) })),
    ...(skill === null ? {} : { skill }),
  };
  return { record, losses: [...detailLoss(example), ...groupLoss(example)] };
}

/** LLaVA's form: one picture or none, `human` and `gpt`, no system turn. */
export function llavaRecord(example: DataExample, locate: Locate): Written {
  const turns = turnsOf(example);
  if (typeof turns === 'string') return { reason: turns };
  const images = inReadingOrder(example);
  if (images.length > 1) return { reason: 'several pictures' };
  const hasSystem = turns[0]?.role === 'system';
  const record = {
    id: example.id ?? String(example.line),
    ...(images[0] === undefined ? {} : { image: locate(images[0]) }),
    conversations: (hasSystem ? turns.slice(1) : turns).map(sharedTurn),
  };
  const losses = [
    ...detailLoss(example),
    ...(hasSystem ? ['system turn'] : []),
    ...(example.skill === null ? [] : ['skill']),
    ...groupLoss(example),
  ];
  return { record, losses };
}

/** ShareGPT's form with `images` and `system`. */
export function shareGptRecord(example: DataExample, locate: Locate): Written {
  const turns = turnsOf(example);
  if (typeof turns === 'string') return { reason: turns };
  const hasSystem = turns[0]?.role === 'system';
  const record = {
    id: example.id ?? String(example.line),
    ...(hasSystem ? { system: turns[0]?.text } : {}),
    conversations: (hasSystem ? turns.slice(1) : turns).map(sharedTurn),
    images: inReadingOrder(example).map(locate),
  };
  return {
    record,
    losses: [...detailLoss(example), ...(example.skill === null ? [] : ['skill']), ...groupLoss(example)],
  };
}

/** Only OpenAI's form, as we read it, has a place for it. */
const groupLoss = ({ group }: DataExample): string[] => (group === undefined ? [] : ['group']);

function sharedTurn(turn: Turn) {
  return { from: turn.role === 'user' ? 'human' : 'gpt', value: turn.text, ...weightOf(turn) };
}

const detailLoss = ({ notes }: DataExample): string[] =>
  notes.some(({ detail }) => detail !== undefined && detail !== 'auto') ? ['detail of pictures'] : [];
