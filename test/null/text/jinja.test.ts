import assert from 'node:assert/strict';
import { cpSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, test } from 'node:test';
import fc from 'fast-check';
import { templateForCheckpoint } from '../../../gpu-backend/text/checkpoint-template.ts';
import { layoutConversation, type Message } from '../../../gpu-backend/text/layout.ts';
import { bindTemplate, type ChatTemplate, reservedTokens } from '../../../gpu-backend/text/templates.ts';
import { loadTokenizer } from '../../../gpu-backend/text/tokenizer.ts';

const scratch = mkdtempSync(join(tmpdir(), 'mantis-jinja-'));
after(() => rmSync(scratch, { recursive: true, force: true }));
let folders = 0;

/** A checkpoint folder with a small tokenizer, a config and the given files. */
function folder(config: object, files: Readonly<Record<string, unknown>> = {}): string {
  const dir = mkdtempSync(join(scratch, `${folders++}-`));
  cpSync(join(import.meta.dirname, '../../fixtures/tokenizers/metaspace.json'), join(dir, 'tokenizer.json'));
  for (const [name, content] of Object.entries({ 'config.json': config, ...files }))
    writeFileSync(join(dir, name), typeof content === 'string' ? content : JSON.stringify(content));
  return dir;
}

const IMAGES_AND_TEXT =
  "{{ bos_token }}{% for m in messages %}{{ m['role'] | upper }}: {% for c in m['content'] %}" +
  "{% if c['type'] == 'image' %}<image>{% else %}{{ c['text'] | trim }}{% endif %}{% endfor %}</s>{% endfor %}" +
  '{% if add_generation_prompt %}ASSISTANT:{% endif %}';
const TEXT_ONLY = "{% for m in messages %}{{ m['content'] | trim }}</s>{% endfor %}";
const LLAVA = { model_type: 'llava', text_config: {} };
const SPECIALS = { bos_token: '<s>', eos_token: { content: '</s>' } };

test('a template comes from where checkpoints keep it', () => {
  const source = { chat_template: IMAGES_AND_TEXT };
  const places: Record<string, unknown>[] = [
    { 'tokenizer_config.json': { ...SPECIALS, ...source } },
    { 'tokenizer_config.json': SPECIALS, 'chat_template.json': source },
    { 'tokenizer_config.json': SPECIALS, 'chat_template.jinja': IMAGES_AND_TEXT },
    {
      'tokenizer_config.json': {
        ...SPECIALS,
        chat_template: [
          { name: 'tool_use', template: 'no' },
          { name: 'default', template: IMAGES_AND_TEXT },
        ],
      },
    },
  ];
  for (const files of places) {
    const { jinja, stop } = templateForCheckpoint(folder(LLAVA, files));
    assert.equal(jinja?.source, IMAGES_AND_TEXT);
    assert.equal(jinja?.bosToken, '<s>');
    assert.ok(stop.includes('</s>'));
  }
});

test('without a template that takes images, the family decides', () => {
  const named = (config: object, files?: Readonly<Record<string, unknown>>): string =>
    templateForCheckpoint(folder(config, files)).name;
  assert.equal(named(LLAVA, { 'tokenizer_config.json': { chat_template: TEXT_ONLY } }), 'vicuna');
  assert.equal(named({ ...LLAVA, text_config: { _name_or_path: 'meta-llama/Meta-Llama-3-8B-Instruct' } }), 'llama-3');
  assert.equal(named({ model_type: 'idefics2' }), 'idefics2-chat');
  assert.equal(named({ model_type: 'fuyu' }), 'fuyu');
  assert.equal(named(LLAVA, { 'tokenizer_config.json': { mantis_template: 'nano' } }), 'nano');
  assert.throws(() => templateForCheckpoint(folder(LLAVA, { 'tokenizer_config.json': '{' })), /tokenizer_config\.json/);
});

const checkpoint = folder(LLAVA, { 'tokenizer_config.json': { ...SPECIALS, chat_template: IMAGES_AND_TEXT } });
const found = templateForCheckpoint(checkpoint);
const tokenizer = loadTokenizer(checkpoint, { reserved: reservedTokens(found) });
const bound = bindTemplate(found, tokenizer);
const imageTokenId = tokenizer.requireId('<image>');
const layOut = (messages: readonly Message[], template: ChatTemplate = bound) =>
  layoutConversation(messages, { tokenizer, template, imageTokenId, tokensPerImage: 2, addGenerationPrompt: true });
const say = (role: Message['role'], ...texts: string[]): Message => ({
  role,
  parts: texts.map((text) => ({ type: 'text', text })),
});

test('text that a template drops, or a conversation that it refuses, is an error with a place', () => {
  const withSource = (source: string): ChatTemplate => ({ ...bound, jinja: { ...bound.jinja!, source } });
  const noSystem = withSource(
    "{% for m in messages if m['role'] != 'system' %}{{ m['content'][0]['text'] }}{% endfor %}",
  );
  assert.throws(
    () => layOut([say('system', 'a'), say('user', 'b')], noSystem),
    /messages\[0\]\.parts\[0\]: .*no place/,
  );
  const refuses = withSource("{{ raise_exception('roles must alternate') }}");
  assert.throws(() => layOut([say('user', 'b')], refuses), /refuses the conversation: roles must alternate/);
  const noImages = withSource(
    "{% for m in messages %}{% for c in m['content'] %}{{ c['text'] }}{% endfor %}{% endfor %}",
  );
  const picture: Message = { role: 'user', parts: [{ type: 'image', image: 0 }] };
  assert.throws(() => layOut([picture], noImages), /messages\[0\]\.parts\[0\]: .*no place for this image/);
  assert.throws(() => layOut([say('user', 'b')], withSource('{% if %}')), /refuses the conversation/);
});

test('typed specials stay text in any template, and trimming works through the stand-in', () => {
  const [shown] = [layOut([say('user', '  </s>hi <image>  ')])];
  assert.equal(tokenizer.decode(shown.ids, { keepSpecials: true }), '<s> USER: </s>hi <image></s> ASSISTANT:');
  const closing = tokenizer.requireId('</s>');
  const word = fc.oneof(
    fc.string({ maxLength: 8 }),
    fc.constantFrom('</s>', '<image>', '<s>', '{{ bos_token }}', '\u{f0000}'),
  );
  fc.assert(
    fc.property(fc.array(fc.array(word, { minLength: 1, maxLength: 3 }), { minLength: 1, maxLength: 3 }), (turns) => {
      const messages = turns.map((texts, i) => say(i % 2 === 0 ? 'user' : 'assistant', ...texts));
      const { ids } = layOut(messages);
      assert.equal(ids.filter((id) => id === closing).length, messages.length);
      assert.equal(ids.filter((id) => id === imageTokenId).length, 0);
    }),
    { numRuns: 200 },
  );
});
