/**
 * What people type never becomes a special token or the slot of a picture: every special token of every format, in every role and in rows to train on,
 * as it is, disguised, cut over parts and wrapped in other things.
 */
import assert from 'node:assert/strict';
import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { after, test } from 'node:test';
import { type Layout, layoutConversation, type Message, type Part } from '../../../gpu-backend/text/layout.ts';
import { LayoutError } from '../../../gpu-backend/text/layout-error.ts';
import {
  bindTemplate,
  type ChatTemplate,
  IDEFICS2_CHAT_TEMPLATE,
  reservedTokens,
  templateByName,
} from '../../../gpu-backend/text/templates.ts';
import { loadTokenizer, type Tokenizer } from '../../../gpu-backend/text/tokenizer.ts';
import { TokenizerError } from '../../../gpu-backend/text/tokenizer-error.ts';

const fixtures = join(import.meta.dirname, '../../fixtures/tokenizers');
const nano = join(import.meta.dirname, '../../../gpu-backend/models/nano');

const TOKENS_PER_IMAGE = 3;

/** Idefics2's own template, as checkpoints carry it. */
const JINJA =
  "{% for message in messages %}{{message['role'].capitalize()}}{{': '}}{% for line in message['content'] %}{% if line['type'] == 'text' %}" +
  "{{line['text']}}{% elif line['type'] == 'image' %}{{ '<image>' }}{% endif %}{% endfor %}<end_of_utterance>\n{% endfor %}" +
  "{% if add_generation_prompt %}{{ 'Assistant:' }}{% endif %}";

type Format = { name: string; file: string; template: ChatTemplate };
const FORMATS: readonly Format[] = [
  { name: 'llama-3', file: join(fixtures, 'byte-level.json'), template: templateByName('llama-3') },
  { name: 'vicuna', file: join(fixtures, 'metaspace.json'), template: templateByName('vicuna') },
  {
    name: 'vicuna, spaces at the start only',
    file: join(fixtures, 'metaspace-first.json'),
    template: templateByName('vicuna'),
  },
  { name: 'idefics2', file: join(fixtures, 'metaspace.json'), template: templateByName('idefics2-chat') },
  { name: 'fuyu', file: join(fixtures, 'metaspace.json'), template: templateByName('fuyu') },
  { name: 'nano', file: nano, template: templateByName('nano') },
  {
    name: "a checkpoint's own",
    file: join(fixtures, 'metaspace.json'),
    template: {
      ...IDEFICS2_CHAT_TEMPLATE,
      name: 'checkpoint',
      jinja: { source: JINJA, bosToken: '<s>', eosToken: '</s>', addsBos: true },
    },
  },
];

/** Tokens of formats that are not the model's own, and what libraries use for pictures. */
const FOREIGN = [
  '<image>',
  '<|image|>',
  '<image_pad>',
  '[INST]',
  '<|im_start|>',
  '<|vision_start|>',
  '(image 1: <Image><image></Image>)',
  '<unk>',
  '<pad>',
];

const ZERO_WIDTH = ['\u200b', '\u200d', '\u2060', '\ufeff', '\u00ad', '\ufe0f'];

/** Full-width and other letters that compatibility normalisation turns back into those of the token. */
function compatible(token: string): string {
  return [...token]
    .map((letter) => (letter > ' ' && letter <= '~' ? String.fromCodePoint(letter.codePointAt(0)! + 0xfee0) : letter))
    .join('');
}

/** The token in every disguise, as one text. */
function* disguises(token: string): Generator<string> {
  yield token;
  yield `${token}${token}`;
  yield ` ${token} `;
  yield `\n${token}\n`;
  yield `x${token}y`;
  yield token.toUpperCase();
  yield compatible(token);
  yield token.normalize('NFD');
  for (const [i, mark] of ZERO_WIDTH.entries()) {
    const at = [1, Math.floor(token.length / 2), token.length][i % 3];
    yield token.slice(0, at) + mark + token.slice(at);
  }
  yield JSON.stringify({ text: token, messages: [{ role: 'system', content: [token] }] });
  yield `{"type":"image_url","image_url":{"url":"${token}"}}`;
  yield `![${token}](file-${token}.png)`;
  yield token.replaceAll('<', '&lt;');
  yield [...token].map((letter) => `\\u${letter.charCodeAt(0).toString(16).padStart(4, '0')}`).join('');
  yield encodeURIComponent(token);
}

/** The token cut in two or three. */
function* cuts(token: string): Generator<readonly string[]> {
  for (const at of new Set([1, Math.floor(token.length / 2), token.length - 1]))
    yield [token.slice(0, at), token.slice(at)];
  yield [...token];
}

const text = (value: string): Part => ({ type: 'text', text: value });
const image: Part = { type: 'image', image: 0 };

/** Conversations that differ only in what somebody typed. */
function* places(typed: readonly string[]): Generator<{ where: string; messages: Message[]; training: boolean }> {
  const said = typed.map(text);
  const user = (...parts: Part[]): Message => ({ role: 'user', parts });
  const assistant = (...parts: Part[]): Message => ({ role: 'assistant', parts });
  yield { where: 'user', messages: [user(image, ...said)], training: false };
  yield { where: 'user, before a picture', messages: [user(...said, image)], training: false };
  yield { where: 'system', messages: [{ role: 'system', parts: said }, user(image, text('q'))], training: false };
  yield { where: 'history', messages: [user(image, text('q')), assistant(...said), user(text('q'))], training: false };
  yield { where: 'row to train on', messages: [user(image, ...said), assistant(...said)], training: true };
}

let total = 0;
let refusedByName = 0;
after(() => {
  console.log(`# ${JSON.stringify({ injection: { cases: total, refusedByName } })}`);
  assert.ok(total >= 5_000, `${total} cases`);
});

for (const { name, file, template: format } of FORMATS) {
  const reason = existsSync(file) ? false : `${file} is not here`;
  test(`${name}: nothing typed becomes special`, { skip: reason }, () => {
    const tokenizer = loadTokenizer(file, { reserved: reservedTokens(format) });
    const template = bindTemplate(format, tokenizer);
    const [imageToken = '<image>'] = format.slotTokens ?? [];
    const imageTokenId = tokenizer.requireId(imageToken);
    const layOut = (messages: readonly Message[], training: boolean): Layout =>
      layoutConversation(messages, {
        tokenizer,
        template,
        imageTokenId,
        tokensPerImage: TOKENS_PER_IMAGE,
        addGenerationPrompt: !training,
      });
    const specialsOf = (layout: Layout): number[] => [...layout.ids].filter((id) => tokenizer.isSpecial(id));
    const harmless = new Map(
      [...places(['x'])].map(({ where, messages, training }) => [where, specialsOf(layOut(messages, training))]),
    );
    const foreign = name === 'llama-3' ? FOREIGN : FOREIGN.slice(0, 2);
    const tokens = [...new Set([...tokenizer.specials.keys(), ...reservedTokens(format), ...foreign, '<0x04>'])];
    for (const token of tokens) {
      for (const typed of [...[...disguises(token)].map((one) => [one]), ...cuts(token)]) {
        for (const one of typed) checkText(tokenizer, one);
        for (const { where, messages, training } of places(typed)) {
          total++;
          let layout: Layout;
          try {
            layout = layOut(messages, training);
          } catch (error) {
            if (!(error instanceof LayoutError && /reserved token/.test(error.message))) throw error;
            refusedByName++;
            continue;
          }
          const shown = `${where}: ${JSON.stringify(typed)}`;
          assert.deepEqual(specialsOf(layout), harmless.get(where), shown);
          assert.equal(layout.images.length, 1, shown);
          const slots = [...layout.ids].filter((id) => id === imageTokenId).length;
          assert.equal(slots, TOKENS_PER_IMAGE, shown);
          const [slot] = layout.images;
          const inSlot = [...layout.ids.slice(slot!.tokenStart, slot!.tokenStart + slot!.tokenCount)];
          assert.ok(
            inSlot.every((id) => id === imageTokenId),
            shown,
          );
          // Nothing in a slot is learned, and nothing typed by a user is.
          assert.ok(
            layout.lossMask.slice(slot!.tokenStart, slot!.tokenStart + slot!.tokenCount).every((bit) => bit === 0),
          );
        }
      }
    }
  });
}

/** The text encoder, as options of `/v1/score` go through it: no special id, and the same text back. */
function checkText(tokenizer: Tokenizer, typed: string): void {
  let ids: number[];
  try {
    ids = tokenizer.encode(typed);
  } catch (error) {
    if (!(error instanceof TokenizerError)) throw error;
    return;
  }
  assert.ok(!ids.some((id) => tokenizer.isSpecial(id)), JSON.stringify(typed));
  // Some vocabularies write a space in front of every text that does not begin with one, and take it off again.
  const said = tokenizer.decode(ids);
  assert.ok(said === typed || (tokenizer.stripsLeadingSpace && ` ${said}` === typed), JSON.stringify([said, typed]));
}
