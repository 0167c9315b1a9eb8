import { randomBytes } from 'node:crypto';
import { Template } from '@huggingface/jinja';
import type { Layout, LayoutOptions, Message } from './layout.ts';
import { LayoutError } from './layout-error.ts';
import { checkWeight, LayoutWriter } from './layout-writer.ts';
import type { Tokenizer } from './tokenizer.ts';

/** A checkpoint's own chat template, in the Jinja dialect of Hugging Face. */
export interface JinjaTemplate {
  readonly source: string;
  /** Written forms of the tokenizer's special tokens, which templates name. */
  readonly bosToken: string | null;
  readonly eosToken: string | null;
  /** The tokenizer puts the begin-of-text token in front where the template has not. */
  readonly addsBos: boolean;
}

/** A piece of a rendered conversation. */
type Rendered =
  | { readonly kind: 'text'; readonly text: string }
  | { readonly kind: 'special'; readonly token: string }
  /** Text part `part` of message `message`. */
  | { readonly kind: 'content'; readonly message: number; readonly part: number; readonly text: string };

/** Longest template that is parsed, characters; published ones have a few thousand. */
const MAX_SOURCE = 65_536;

const compiled = new Map<string, Template>();

/** @throws Error when the source is too long or no Jinja */
function compile(source: string): Template {
  let template = compiled.get(source);
  if (template === undefined) {
    if (source.length > MAX_SOURCE)
      throw new Error(`chat template: expected at most ${MAX_SOURCE} characters, got ${source.length}`);
    template = new Template(source);
    if (compiled.size >= 16) compiled.clear();
    compiled.set(source, template);
  }
  return template;
}

/** Renders messages in Hugging Face's form. @throws Error with the template's own words (`raise_exception`) */
function renderMessages(jinja: JinjaTemplate, messages: readonly object[], addGenerationPrompt: boolean): string {
  return compile(jinja.source).render({
    messages,
    add_generation_prompt: addGenerationPrompt,
    bos_token: jinja.bosToken ?? '',
    eos_token: jinja.eosToken ?? '',
  });
}

/**
 * Renders a conversation with the checkpoint's template and cuts it into template text, special tokens and content.
 *
 * The template never sees what a user typed: each text is a stand-in with a random name that nobody can guess, and is put
 * back after the cut. So special tokens in the result are the template's, and text stays text. White space around a text is
 * left with the stand-in, so that a template's `trim` does what it means to. A template that looks into texts (for a word,
 * say) sees the stand-in.
 *
 * @throws LayoutError when the template refuses the conversation or leaves a text out
 */
function renderChat(
  messages: readonly Message[],
  jinja: JinjaTemplate,
  tokenizer: Tokenizer,
  addGenerationPrompt: boolean,
): Rendered[] {
  const name = randomBytes(16).toString('hex');
  const standIn = (message: number, part: number): string => `\u{f0000}${name}:${message}.${part}\u{f0001}`;
  const shown = messages.map(({ role, parts }, m) => ({
    role,
    content: parts.map((part, p) => {
      if (part.type === 'image') return { type: 'image' };
      const core = part.text.trim();
      const from = part.text.indexOf(core);
      const text =
        part.text === '' ? '' : part.text.slice(0, from) + standIn(m, p) + part.text.slice(from + core.length);
      return { type: 'text', text };
    }),
  }));
  let rendered: string;
  try {
    rendered = renderMessages(jinja, shown, addGenerationPrompt);
  } catch (cause) {
    throw new LayoutError(
      `the model's chat template refuses the conversation: ${cause instanceof Error ? cause.message : String(cause)}`,
      'messages',
    );
  }
  const out: Rendered[] = [];
  const seen = new Set<string>();
  const pattern = new RegExp(`\u{f0000}${name}:(\\d+)\\.(\\d+)\u{f0001}`, 'gu');
  let end = 0;
  for (const match of rendered.matchAll(pattern)) {
    out.push(...cutAtSpecials(rendered.slice(end, match.index), tokenizer));
    const [message, part] = [Number(match[1]), Number(match[2])];
    const content = messages[message]?.parts[part];
    if (content?.type !== 'text') throw new Error(`internal: no text part ${message}.${part}`);
    out.push({ kind: 'content', message, part, text: content.text.trim() });
    seen.add(`${message}.${part}`);
    end = match.index + match[0].length;
  }
  out.push(...cutAtSpecials(rendered.slice(end), tokenizer));
  for (const [m, { parts }] of messages.entries())
    for (const [p, part] of parts.entries())
      if (part.type === 'text' && part.text !== '' && !seen.has(`${m}.${p}`))
        throw new LayoutError("the model's chat template has no place for this text", `messages[${m}].parts[${p}]`);
  return out;
}

function cutAtSpecials(text: string, tokenizer: Tokenizer): Rendered[] {
  const out: Rendered[] = [];
  // Longest first, so that no special hides a longer one that starts alike.
  const specials = [...tokenizer.specials.keys()].filter((token) => token !== '').sort((a, b) => b.length - a.length);
  const escaped = specials.map((token) => token.replace(/[.*+?^${}()|[\]\\]/g, '\\$&'));
  let end = 0;
  for (const match of specials.length === 0 ? [] : text.matchAll(new RegExp(escaped.join('|'), 'gu'))) {
    if (match.index > end) out.push({ kind: 'text', text: text.slice(end, match.index) });
    out.push({ kind: 'special', token: match[0] });
    end = match.index + match[0].length;
  }
  if (end < text.length) out.push({ kind: 'text', text: text.slice(end) });
  return out;
}

/**
 * Lays out a conversation by the checkpoint's template. Each image token that the template writes is the next image; what the
 * family puts around it and how long its slot is comes from the options. In the loss are an assistant's text, the template's text
 * right before it, and what follows up to and with the next special token, its closing one.
 */
export function layoutRendered(messages: readonly Message[], jinja: JinjaTemplate, options: LayoutOptions): Layout {
  const { tokenizer, imageTokenId, addGenerationPrompt = false } = options;
  const pieces = renderChat(messages, jinja, tokenizer, addGenerationPrompt);
  const images = messages.flatMap(({ parts }, m) =>
    parts.flatMap((part, p) =>
      part.type === 'image' ? [{ image: part.image, path: `messages[${m}].parts[${p}]` }] : [],
    ),
  );
  const writer = new LayoutWriter(options);
  const [first] = pieces;
  const hasBos = first?.kind === 'special' && first.token === jinja.bosToken;
  if (jinja.addsBos && jinja.bosToken !== null && !hasBos) writer.pieces([{ special: jinja.bosToken }], false);
  let next = 0;
  let isAnswer = false;
  for (const [i, piece] of pieces.entries()) {
    if (piece.kind === 'content' || piece.kind === 'text') {
      // Text right before an answer belongs to its run, and a run is in the loss as a whole.
      const owner = piece.kind === 'content' ? piece : pieces.slice(i).find(({ kind }) => kind !== 'text');
      if (owner?.kind === 'content') {
        const message = messages[owner.message];
        isAnswer = message?.role === 'assistant';
        writer.weight = isAnswer ? checkWeight(message?.weight, `messages[${owner.message}]`) : 0;
      }
      writer.text(piece.text, isAnswer);
    } else if (tokenizer.idOf(piece.token) === imageTokenId) {
      const image = images[next++];
      if (image === undefined)
        throw new LayoutError(
          `the model's chat template writes more than the ${images.length} images there are`,
          'messages',
        );
      writer.image(image.image, isAnswer, image.path);
    } else {
      writer.pieces([{ special: piece.token }], isAnswer);
      isAnswer = false;
    }
  }
  const left = images[next];
  if (left !== undefined) throw new LayoutError("the model's chat template has no place for this image", left.path);
  return writer.finish();
}

/** The special token that the template writes after an assistant's text: where an answer ends. Null where there is none. */
export function closingToken(jinja: JinjaTemplate, tokenizer: Tokenizer): string | null {
  const say = (role: 'user' | 'assistant'): Message => ({ role, parts: [{ type: 'text', text: 'x' }] });
  const pieces = renderChat([say('user'), say('assistant')], jinja, tokenizer, false);
  const answer = pieces.findLastIndex((piece) => piece.kind === 'content');
  const closing = pieces.slice(answer + 1).find((piece) => piece.kind === 'special');
  return closing?.kind === 'special' ? closing.token : null;
}

/** Whether a template knows what an image part is: text-only templates come with most language models. */
export function takesImages(jinja: JinjaTemplate, imageToken: string): boolean {
  try {
    const content = [{ type: 'image' }, { type: 'text', text: 'x' }];
    const rendered = renderMessages(jinja, [{ role: 'user', content }], true);
    return rendered.split(imageToken).length === 2 && rendered.includes('x');
  } catch {
    return false;
  }
}
