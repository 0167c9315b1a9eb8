import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import type { JinjaTemplate } from '../../../gpu-backend/text/jinja.ts';
import { layoutConversation, type Message } from '../../../gpu-backend/text/layout.ts';
import {
  bindTemplate,
  type ChatTemplate,
  IDEFICS2_CHAT_TEMPLATE,
  reservedTokens,
  templateByName,
} from '../../../gpu-backend/text/templates.ts';
import { loadTokenizer, type Tokenizer } from '../../../gpu-backend/text/tokenizer.ts';

/*
 * Id sequences of whole conversations in each family's format, from the reference's strings and the tokenizers library
 * (test/fixtures/tokenizers/make_tokenizers.py).
 */
interface Golden {
  readonly template: string;
  readonly name: string;
  readonly messages: readonly {
    readonly role: Message['role'];
    readonly parts: readonly ({ readonly type: 'text'; readonly text: string } | { readonly type: 'image' })[];
  }[];
  readonly ask: boolean;
  readonly ids: readonly number[];
}

const fixtures = join(import.meta.dirname, '../../fixtures/tokenizers');
const golden = JSON.parse(readFileSync(join(fixtures, 'golden.json'), 'utf8')) as Golden[];

function setUp(template: ChatTemplate): { template: ChatTemplate; tokenizer: Tokenizer } {
  const file = template.name === 'llama-3' ? 'byte-level.json' : 'metaspace.json';
  const tokenizer = loadTokenizer(join(fixtures, file), { reserved: reservedTokens(template) });
  return { template: bindTemplate(template, tokenizer), tokenizer };
}

function layOut(template: ChatTemplate, tokenizer: Tokenizer, { messages, ask }: Golden) {
  let image = 0;
  const isFuyu = template.name === 'fuyu';
  const imageTokenId = tokenizer.requireId(isFuyu ? '|SPEAKER|' : '<image>');
  const row = [imageTokenId, imageTokenId, imageTokenId, isFuyu ? tokenizer.requireId('|NEWLINE|') : 0];
  return layoutConversation(
    messages.map(({ role, parts }) => ({
      role,
      parts: parts.map((part) => (part.type === 'image' ? { type: 'image', image: image++ } : part)),
    })),
    {
      tokenizer,
      template,
      imageTokenId,
      tokensPerImage: isFuyu ? () => [...row, ...row] : 3,
      addGenerationPrompt: ask,
    },
  );
}

for (const expected of golden) {
  test(`${expected.template}: ${expected.name}`, () => {
    const { template, tokenizer } = setUp(templateByName(expected.template));
    const { ids, images } = layOut(template, tokenizer, expected);
    assert.deepEqual([...ids], expected.ids);
    assert.equal(
      images.length,
      expected.messages.flatMap(({ parts }) => parts).filter(({ type }) => type === 'image').length,
    );
  });
}

// The template that Idefics2's processor carries (chat_template.json); image parts and the colon rule are its own.
const IDEFICS2_JINJA =
  "{% for message in messages %}{{message['role'].capitalize()}}{% if message['content'][0]['type'] == 'image' %}{{':'}}" +
  "{% else %}{{': '}}{% endif %}{% for line in message['content'] %}{% if line['type'] == 'text' %}{{line['text']}}" +
  "{% elif line['type'] == 'image' %}{{ '<image>' }}{% endif %}{% endfor %}<end_of_utterance>\n{% endfor %}" +
  "{% if add_generation_prompt %}{{ 'Assistant:' }}{% endif %}";
const jinja: JinjaTemplate = { source: IDEFICS2_JINJA, bosToken: '<s>', eosToken: '</s>', addsBos: true };

for (const expected of golden.filter(({ template }) => template === 'idefics2-chat')) {
  test(`the checkpoint's own template gives the same ids: ${expected.name}`, () => {
    const { template, tokenizer } = setUp({ ...IDEFICS2_CHAT_TEMPLATE, name: 'checkpoint', jinja });
    assert.equal(template.stop[0], '<end_of_utterance>');
    assert.deepEqual([...layOut(template, tokenizer, expected).ids], expected.ids);
  });
}

test('fuyu: an answer and its end are in the loss, with its header', () => {
  const expected = golden.find(({ template, name }) => template === 'fuyu' && name === 'trained on');
  assert.ok(expected);
  const { template, tokenizer } = setUp(templateByName('fuyu'));
  const { ids, lossMask } = layOut(template, tokenizer, expected);
  const inLoss = [...ids].filter((_, i) => lossMask[i] === 1);
  assert.equal(
    tokenizer.decode(inLoss, { keepSpecials: true }),
    'ASSISTANT: a circle|ENDOFTEXT|ASSISTANT: Déjà vu|ENDOFTEXT|',
  );
});

test('fuyu: a control character that the model can only write as its answer mark is refused by name', () => {
  const { template, tokenizer } = setUp(templateByName('fuyu'));
  const typed = (text: string): Golden => ({
    template: 'fuyu',
    name: '',
    messages: [{ role: 'user', parts: [{ type: 'text', text }] }],
    ask: true,
    ids: [],
  });
  assert.throws(() => layOut(template, tokenizer, typed('a\u0004b')), /reserved token <0x04>: leave it out/);
  const mark = tokenizer.requireId('<0x04>');
  const count = (text: string): number =>
    [...layOut(template, tokenizer, typed(text)).ids].filter((id) => id === mark).length;
  assert.equal(count('a<0x04>b'), 1); // the turn's own
});
