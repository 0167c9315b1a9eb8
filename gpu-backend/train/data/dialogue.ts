import { describe } from '../../../shared/contract/errors.ts';
import { LIMITS } from '../../../shared/contract/limits.ts';
import type { Message, Part } from '../../text/layout.ts';
import type { ImageNote } from './example.ts';
import { type Conversation, tooManyImages } from './openai.ts';
import type { PictureTaker } from './pictures.ts';
import type { RecordProblems } from './problem.ts';

export const PLACEHOLDER = '<image>';

type Json = Readonly<Record<string, unknown>>;
type Role = Message['role'];

const ROLES: Readonly<Record<string, Role>> = {
  human: 'user',
  user: 'user',
  gpt: 'assistant',
  assistant: 'assistant',
  system: 'system',
};

export interface DialogueOptions {
  /** Records without any placeholder have their pictures put before the first user turn. */
  readonly imagesFirst: boolean;
}

interface Turn {
  readonly role: Role;
  readonly text: string;
  /** Ours: 0 for an answer that is read and not learned from. */
  readonly weight?: number;
  readonly param: string;
}

/**
 * Mantis-Instruct, LLaVA and ShareGPT: turns in `conversation` or `conversations`, as `{role, content}` or `{from, value}`, with `<image>` where a
 * picture goes; pictures in `images` or `image`. Placeholders and pictures are counted against each other over the whole record.
 * @returns null where anything is wrong; all of it is said
 */
export async function readDialogue(
  record: Json,
  pictures: PictureTaker,
  problems: RecordProblems,
  options: DialogueOptions,
): Promise<Conversation | null> {
  const before = problems.errors;
  const turns = turnsOf(record, problems);
  const listed = imagesOf(record, problems);
  if (turns === null || listed === null) {
    if (listed !== null) await take(listed, pictures, problems);
    return null;
  }
  checkTurns(turns, problems);
  const kept = withoutLeading(turns, problems);
  for (const { role, text, param } of kept) {
    if (role === 'user' || !text.includes(PLACEHOLDER)) continue;
    problems.error('image_not_allowed_here', param, {
      expected: `${PLACEHOLDER} in turns of the user only`,
      received: `one in a turn of the ${role}`,
    });
  }
  const places = kept.reduce((sum, { role, text }) => sum + (role === 'user' ? countOf(text) : 0), 0);
  const first = places === 0 && options.imagesFirst ? listed.items.length : 0;
  if (places !== listed.items.length && first === 0)
    problems.own('error', 'placeholder_mismatch', listed.name, {
      expected: `as many pictures as there are ${PLACEHOLDER} placeholders (${places})`,
      received: `${listed.items.length} pictures`,
      ...(places === 0 ? { remedy: 'Set images_first to put them all before the first turn.' } : {}),
    });
  const taken = await take(listed, pictures, problems);
  if (problems.errors > before || taken === null) return null;
  let next = 0;
  let atStart = first;
  const messages = kept.map(({ role, text, weight }): Message => {
    const parts: Part[] = [];
    if (role !== 'user') return { role, parts: [{ type: 'text', text }], ...(weight === undefined ? {} : { weight }) };
    for (; atStart > 0; atStart--) parts.push({ type: 'image', image: next++ });
    for (const [i, piece] of text.split(PLACEHOLDER).entries()) {
      if (i > 0) parts.push({ type: 'image', image: next++ });
      if (piece !== '') parts.push({ type: 'text', text: piece });
    }
    return { role, parts: parts.length === 0 ? [{ type: 'text', text: '' }] : parts };
  });
  const { id, skill } = record;
  return {
    id: typeof id === 'string' || typeof id === 'number' ? String(id) : null,
    skill: typeof skill === 'string' ? skill : null,
    messages,
    images: taken.references,
    notes: taken.notes,
  };
}

const countOf = (text: string): number => text.split(PLACEHOLDER).length - 1;

function turnsOf(record: Json, problems: RecordProblems): Turn[] | null {
  const name = record.conversation !== undefined ? 'conversation' : 'conversations';
  const list = record[name];
  if (list === undefined) {
    problems.error('missing_required_parameter', name, { expected: 'a list of turns', received: 'nothing' });
    return null;
  }
  if (!Array.isArray(list)) {
    problems.error('invalid_type', name, { expected: 'a list of turns', received: describe(list) });
    return null;
  }
  if (list.length === 0 || list.length > LIMITS.request.maxMessages) {
    problems.error('invalid_value', name, {
      expected: `1 to ${LIMITS.request.maxMessages} turns`,
      received: list.length,
    });
    return null;
  }
  const turns: Turn[] = [];
  const before = problems.errors;
  if (typeof record.system === 'string' && record.system !== '')
    turns.push({ role: 'system', text: record.system, param: 'system' });
  for (const [i, value] of list.entries()) {
    const param = `${name}[${i}]`;
    if (typeof value !== 'object' || value === null || Array.isArray(value)) {
      problems.error('invalid_type', param, {
        expected: '{role, content} or {from, value}',
        received: describe(value),
      });
      continue;
    }
    const turn = value as Json;
    const roleKey = turn.role !== undefined ? 'role' : 'from';
    const textKey =
      ['content', 'text', 'value'].find((key) => turn[key] !== undefined) ?? (roleKey === 'role' ? 'content' : 'value');
    const speaker = turn[roleKey];
    const text = turn[textKey];
    const role = typeof speaker === 'string' && Object.hasOwn(ROLES, speaker) ? ROLES[speaker] : undefined;
    if (speaker === undefined)
      problems.error('missing_required_parameter', `${param}.role`, { expected: 'who speaks', received: 'nothing' });
    else if (role === undefined)
      problems.error('invalid_value', `${param}.${roleKey}`, {
        expected: `one of ${Object.keys(ROLES).join(', ')}`,
        received: describe(speaker),
      });
    if (text === undefined)
      problems.error('missing_required_parameter', `${param}.${textKey}`, { expected: 'a text', received: 'nothing' });
    else if (typeof text !== 'string')
      problems.error('invalid_type', `${param}.${textKey}`, { expected: 'a text', received: describe(text) });
    else if (text.length > LIMITS.request.maxTextChars)
      problems.error('invalid_value', `${param}.${textKey}`, {
        expected: `at most ${LIMITS.request.maxTextChars} characters`,
        received: text.length,
      });
    else if (turn.weight !== undefined && turn.weight !== 0 && turn.weight !== 1)
      problems.error('invalid_value', `${param}.weight`, { expected: '0 or 1', received: describe(turn.weight) });
    else if (role !== undefined)
      turns.push({ role, text, param: `${param}.${textKey}`, ...(turn.weight === 0 ? { weight: 0 } : {}) });
  }
  return problems.errors > before ? null : turns;
}

/** User and assistant by turns, from the user on; the assistant last. What comes before the first user turn is looked at elsewhere. */
function checkTurns(turns: readonly Turn[], problems: RecordProblems): void {
  const start = turns.findIndex(({ role }) => role === 'user');
  if (start < 0) {
    problems.error('invalid_value', 'conversation', { expected: 'at least one turn of the user', received: 'none' });
    return;
  }
  for (let i = start; i < turns.length; i++) {
    const turn = turns[i];
    const expected: Role = (i - start) % 2 === 0 ? 'user' : 'assistant';
    if (turn === undefined || turn.role === expected) continue;
    // One turn too many shifts all that follow: the first that is out of step says it.
    problems.error('invalid_value', turn.param, {
      expected: `a turn of the ${expected}: user and assistant take turns`,
      received: `one of the ${turn.role}`,
    });
    return;
  }
  const last = turns.at(-1);
  if (turns.every(({ role, weight }) => role !== 'assistant' || weight === 0) && last?.role === 'assistant')
    problems.error('invalid_value', last.param, {
      expected: 'at least one turn of the assistant to learn from',
      received: 'weight 0 in all of them',
    });
  if (last !== undefined && last.role !== 'assistant')
    problems.error('invalid_value', last.param, {
      expected: 'a turn of the assistant at the end, which is what is learned',
      received: `one of the ${last.role}`,
    });
}

/** As Mantis's loader, assistant turns before the first of the user are passed over; a system turn stays. */
function withoutLeading(turns: readonly Turn[], problems: RecordProblems): Turn[] {
  const start = turns.findIndex(({ role }) => role === 'user');
  return turns.filter(({ role, param }, i) => {
    if (i >= start || role === 'system') return true;
    problems.own('warning', 'leading_turn_skipped', param, {
      expected: 'the user to speak first',
      received: 'a turn of the assistant; it is passed over',
    });
    return false;
  });
}

interface Listed {
  readonly name: string;
  readonly items: readonly unknown[];
}

function imagesOf(record: Json, problems: RecordProblems): Listed | null {
  const name = record.images !== undefined ? 'images' : 'image';
  const value = record[name];
  if (value === undefined || value === null || value === '') return { name: 'images', items: [] };
  if (Array.isArray(value)) return { name, items: value };
  if (
    typeof value === 'string' ||
    (typeof value === 'object' && !(value instanceof Uint8Array)) ||
    value instanceof Uint8Array
  )
    return { name, items: [value] };
  problems.error('invalid_type', name, { expected: 'a list of pictures', received: describe(value) });
  return null;
}

async function take(
  { name, items }: Listed,
  pictures: PictureTaker,
  problems: RecordProblems,
): Promise<{ references: string[]; notes: ImageNote[] } | null> {
  if (items.length > LIMITS.dataset.maxImagesPerExample) {
    tooManyImages(problems, name, items.length);
    return null;
  }
  const references: string[] = [];
  const notes: ImageNote[] = [];
  for (const [i, item] of items.entries()) {
    const param = `${name}[${i}]`;
    const reference = await takeOne(item, param, pictures, problems);
    if (reference === null) continue;
    references.push(reference.url);
    notes.push(reference.path === undefined ? {} : { path: reference.path });
  }
  return references.length === items.length ? { references, notes } : null;
}

async function takeOne(
  item: unknown,
  param: string,
  pictures: PictureTaker,
  problems: RecordProblems,
): Promise<{ url: string; path?: string } | null> {
  if (item instanceof Uint8Array) return named(await pictures.bytes(item, null, param, problems));
  if (typeof item === 'string') {
    if (/^(data:|https?:|file-|sha256:)/i.test(item)) return named(await pictures.reference(item, param, problems));
    return named(await pictures.path(item, param, problems), item);
  }
  if (typeof item === 'object' && item !== null && !Array.isArray(item)) {
    const { bytes, path } = item as Json;
    const name = typeof path === 'string' && path !== '' ? path : undefined;
    if (bytes instanceof Uint8Array) return named(await pictures.bytes(bytes, null, `${param}.bytes`, problems), name);
    if ((bytes === undefined || bytes === null) && name !== undefined)
      return await takeOne(name, param, pictures, problems);
  }
  problems.error('invalid_type', param, {
    expected: 'a path, a data URL, an https URL, a file id, or {bytes, path} of a Parquet file',
    received: describe(item),
  });
  return null;
}

function named(url: string | null, path?: string): { url: string; path?: string } | null {
  if (url === null) return null;
  return path === undefined ? { url } : { url, path };
}
