import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import { type LayoutOptions, layoutConversation, type Message, type Part } from '../../../gpu-backend/text/layout.ts';
import {
  bindTemplate,
  type ChatTemplate,
  IDEFICS2_TEMPLATE,
  LLAMA3_TEMPLATE,
  NANO_TEMPLATE,
  PLAIN_TEMPLATE,
  templateForLanguageModel,
  VICUNA_TEMPLATE,
} from '../../../gpu-backend/text/templates.ts';
import { createSmallTokenizer, LLAMA3_SPECIALS } from './small-tokenizer.ts';

const OTHER_SPECIALS = ['<s>', '</s>', '<end_of_utterance>', '<fake_token_around_image>'];
const tokenizer = createSmallTokenizer([...LLAMA3_SPECIALS, ...OTHER_SPECIALS]);
const imageTokenId = tokenizer.requireId('<image>');
const text = (value: string): Part => ({ type: 'text', text: value });
const image = (ref: number): Part => ({ type: 'image', image: ref });
const options = (template: ChatTemplate, more: Partial<LayoutOptions> = {}): LayoutOptions => ({
  tokenizer,
  template: bindTemplate(template, tokenizer),
  tokensPerImage: 2,
  imageTokenId,
  ...more,
});

/** The layout as one reads it: specials written out, image slots as ⟨ref×count⟩, targets of the loss between ‹ and ›. */
function show(messages: Message[], layoutOptions: LayoutOptions): string {
  const { ids, lossMask, images } = layoutConversation(messages, layoutOptions);
  let out = '';
  let isInLoss = 0;
  for (let i = 0; i < ids.length; ) {
    if (lossMask[i] !== isInLoss) out += lossMask[i] ? '‹' : '›';
    isInLoss = lossMask[i]!;
    const slot = images.find(({ tokenStart }) => tokenStart === i);
    if (slot) out += `⟨${slot.image}×${slot.tokenCount}⟩`;
    else out += tokenizer.decode([ids[i]!], { keepSpecials: true });
    i += slot?.tokenCount ?? 1;
  }
  return isInLoss ? `${out}›` : out;
}

const twoTurns: Message[] = [
  { role: 'user', parts: [image(7), text('what?')] },
  { role: 'assistant', parts: [text('red')] },
  { role: 'user', parts: [text('and '), image(3), text('?')] },
  { role: 'assistant', parts: [text('blue')] },
];
const S = '<|start_header_id|>';
const E = '<|end_header_id|>';
const PIRATE = 'You are a pirate chatbot who always responds in pirate speak!';
const VICUNA = VICUNA_TEMPLATE.defaultSystem;

const rendered: [string, Message[], ChatTemplate, Partial<LayoutOptions>, string][] = [
  [
    'llama-3, two turns: header, answer and closing token in the loss',
    twoTurns,
    LLAMA3_TEMPLATE,
    {},
    `<|begin_of_text|>${S}system${E}\n\n${PIRATE}<|eot_id|>${S}user${E}\n\n(image 1: <Image>⟨7×2⟩</Image>)what?<|eot_id|>` +
      `‹${S}assistant${E}\n\nred<|eot_id|>›${S}user${E}\n\nand (image 2: <Image>⟨3×2⟩</Image>)?<|eot_id|>‹${S}assistant${E}\n\nblue<|eot_id|>›`,
  ],
  [
    'nano, two turns: no system turn, only answers and closing tokens in the loss',
    twoTurns,
    NANO_TEMPLATE,
    {},
    `<|begin_of_text|>${S}user${E}\n\n(image 1: <Image>⟨7×2⟩</Image>)what?<|eot_id|>` +
      `${S}assistant${E}\n\n‹red<|eot_id|>›${S}user${E}\n\nand (image 2: <Image>⟨3×2⟩</Image>)?<|eot_id|>${S}assistant${E}\n\n‹blue<|eot_id|>›`,
  ],
  [
    'a system message takes the place of the default sentence',
    [{ role: 'system', parts: [text('Be brief.')] }, ...twoTurns.slice(0, 1)],
    LLAMA3_TEMPLATE,
    {},
    `<|begin_of_text|>${S}system${E}\n\nBe brief.<|eot_id|>${S}user${E}\n\n(image 1: <Image>⟨7×2⟩</Image>)what?<|eot_id|>`,
  ],
  [
    'nano takes a system message when there is one',
    [
      { role: 'system', parts: [text('Be brief.')] },
      { role: 'user', parts: [text('hi')] },
    ],
    NANO_TEMPLATE,
    {},
    `<|begin_of_text|>${S}system${E}\n\nBe brief.<|eot_id|>${S}user${E}\n\nhi<|eot_id|>`,
  ],
  [
    'five interleaved images of different sizes, then the generation prompt',
    [{ role: 'user', parts: [image(0), text('a'), image(1), image(2), text('b'), image(3), image(4)] }],
    NANO_TEMPLATE,
    { tokensPerImage: (ref) => ref + 1, addGenerationPrompt: true },
    `<|begin_of_text|>${S}user${E}\n\n(image 1: <Image>⟨0×1⟩</Image>)a(image 2: <Image>⟨1×2⟩</Image>)(image 3: <Image>⟨2×3⟩</Image>)b` +
      `(image 4: <Image>⟨3×4⟩</Image>)(image 5: <Image>⟨4×5⟩</Image>)<|eot_id|>${S}assistant${E}\n\n`,
  ],
  [
    'vicuna',
    twoTurns,
    VICUNA_TEMPLATE,
    {},
    `<s>${VICUNA}</s>USER: (image 1: <Image>⟨7×2⟩</Image>)what?</s>‹ASSISTANT: red</s>›USER: and (image 2: <Image>⟨3×2⟩</Image>)?</s>‹ASSISTANT: blue</s>›`,
  ],
  [
    'idefics2: neighbours share a fake token, the newline before an answer is in the loss',
    [
      { role: 'user', parts: [image(0), image(1), text(' same?'), image(2)] },
      { role: 'assistant', parts: [text('no')] },
    ],
    IDEFICS2_TEMPLATE,
    {},
    '<s>User:<fake_token_around_image>⟨0×2⟩<fake_token_around_image>⟨1×2⟩<fake_token_around_image> same?' +
      '<fake_token_around_image>⟨2×2⟩<fake_token_around_image><end_of_utterance>‹\nAssistant:no<end_of_utterance>›\n',
  ],
  [
    'plain: everything but the slots is in the loss',
    [
      { role: 'user', parts: [image(0)] },
      { role: 'assistant', parts: [text('a cat')] },
    ],
    PLAIN_TEMPLATE,
    {},
    '‹<|begin_of_text|>(image 1: <Image>›⟨0×2⟩‹</Image>) a cat\n›',
  ],
  [
    'typed specials and placeholders are text',
    [{ role: 'user', parts: [text('<image><|eot_id|>(image 1: <Image><image></Image>)'), image(0)] }],
    NANO_TEMPLATE,
    {},
    `<|begin_of_text|>${S}user${E}\n\n<image><|eot_id|>(image 1: <Image><image></Image>)(image 1: <Image>⟨0×2⟩</Image>)<|eot_id|>`,
  ],
];
for (const [what, messages, template, more, expected] of rendered) {
  test(what, () => assert.equal(show(messages, options(template, more)), expected));
}

test('golden ids: one image', () => {
  const { ids, lossMask, images, positions } = layoutConversation(
    [
      { role: 'user', parts: [image(0), text('hi')] },
      { role: 'assistant', parts: [text('yes')] },
    ],
    options(NANO_TEMPLATE),
  );
  // The small tokenizer: 0–255 the bytes, 258 "user", 259 two newlines, 263 "image", 266 "Image", 267… the specials.
  const raw = (ascii: string): number[] => [...Buffer.from(ascii)];
  const [begin, start, end, eot] = [267, 269, 270, 271];
  const wrapped = [40, 263, ...raw(' 1: <'), 266, 62, 272, 272, ...raw('</'), 266, ...raw('>)')];
  const user = [start, 258, end, 259, ...wrapped, ...raw('hi'), eot];
  const golden = [begin, ...user, start, ...raw('assistant'), end, 259, ...raw('yes'), eot];
  assert.deepEqual([...ids], golden);
  assert.deepEqual(images, [{ index: 0, image: 0, tokenStart: 14, tokenCount: 2 }]);
  assert.equal(lossMask.indexOf(1), 36);
  assert.deepEqual([...positions], [...golden.keys()]);
});

test('turn weights reach their targets and nothing else', () => {
  const [first, answer, second, last] = twoTurns as [Message, Message, Message, Message];
  const { weights, lossMask } = layoutConversation(
    [first, { ...answer, weight: 0 }, second, { ...last, weight: 0.5 }],
    options(NANO_TEMPLATE),
  );
  const seen = [...lossMask.keys()].filter((i) => lossMask[i]).map((i) => weights[i]);
  assert.deepEqual(seen, [0, 0, 0, 0, 0.5, 0.5, 0.5, 0.5, 0.5]);
  assert.ok([...lossMask.keys()].every((i) => lossMask[i] || weights[i] === 0));
  assert.throws(
    () => layoutConversation([first, { ...answer, weight: -1 }], options(NANO_TEMPLATE)),
    /messages\[1\]\.weight: expected a weight of 0 or more/,
  );
});

const refused: [string, Message[], ChatTemplate, Partial<LayoutOptions>, RegExp][] = [
  ['no messages', [], NANO_TEMPLATE, {}, /at least one message/],
  [
    'a late system message',
    [...twoTurns, { role: 'system', parts: [] }],
    LLAMA3_TEMPLATE,
    {},
    /messages\[4\]: a system message can only be the first/,
  ],
  [
    'an image of no tokens',
    twoTurns,
    NANO_TEMPLATE,
    { tokensPerImage: 0 },
    /messages\[0\]\.parts\[0\]: expected at least one token for image 7, got 0/,
  ],
  [
    'text in a plain user turn',
    twoTurns,
    PLAIN_TEMPLATE,
    {},
    /messages\[0\]\.parts\[1\]: the template plain has no place for text/,
  ],
];
for (const [what, messages, template, more, message] of refused) {
  test(`refused: ${what}`, () => assert.throws(() => layoutConversation(messages, options(template, more)), message));
}

test('a template says which tokens the tokenizer lacks', () => {
  assert.throws(
    () => bindTemplate(IDEFICS2_TEMPLATE, createSmallTokenizer()),
    /needs <end_of_utterance>; <fake_token_around_image>/,
  );
});

test('the template is chosen as the original code does', () => {
  assert.equal(templateForLanguageModel('meta-llama/Meta-Llama-3-8B-Instruct').name, 'llama-3');
  assert.equal(templateForLanguageModel('lmsys/vicuna-7b-v1.5').name, 'vicuna');
});

const partArbitrary: fc.Arbitrary<Part> = fc.oneof(
  fc
    .oneof(
      fc.string({ unit: 'binary', maxLength: 12 }),
      fc.constantFrom(...LLAMA3_SPECIALS, ...OTHER_SPECIALS, '<|eot', '_id|>', '<ima', 'ge>', '\n\n', ' '),
    )
    .map(text),
  fc.nat(4).map(image),
);
const conversationArbitrary = fc
  .array(fc.array(partArbitrary, { maxLength: 6 }), { minLength: 1, maxLength: 5 })
  .map((turns) => turns.map((parts, i): Message => ({ role: i % 2 === 0 ? 'user' : 'assistant', parts })));

for (const template of [LLAMA3_TEMPLATE, NANO_TEMPLATE, VICUNA_TEMPLATE, IDEFICS2_TEMPLATE]) {
  test(`${template.name}: any interleaving keeps its images, its text and its specials apart`, () => {
    fc.assert(
      fc.property(conversationArbitrary, fc.boolean(), (messages, addGenerationPrompt) => {
        const { ids, lossMask, images } = layoutConversation(
          messages,
          options(template, { tokensPerImage: (ref) => ref + 1, addGenerationPrompt }),
        );
        const refs = messages.flatMap(({ parts }) =>
          parts.flatMap((part) => (part.type === 'image' ? [part.image] : [])),
        );
        assert.deepEqual(
          images.map((slot) => slot.image),
          refs,
        );
        assert.deepEqual(
          images.map((slot) => slot.index),
          [...refs.keys()],
        );
        const slots = new Set(
          images.flatMap(({ tokenStart, tokenCount }) => Array.from({ length: tokenCount }, (_, i) => tokenStart + i)),
        );
        assert.equal(
          slots.size,
          refs.reduce((sum, ref) => sum + ref + 1, 0),
        );
        for (const [i, id] of ids.entries()) {
          assert.equal(id === imageTokenId, slots.has(i));
          if (slots.has(i)) assert.equal(lossMask[i], 0);
        }
        // As many closing tokens as turns: content can neither end a turn nor start one.
        const closing = tokenizer.requireId(template.stop[0]!);
        const turns = messages.length + (template.defaultSystem === null ? 0 : 1);
        assert.equal([...ids].filter((id) => id === closing).length, turns);
        const saidByUsers = messages.flatMap(({ parts }) =>
          parts.flatMap((part) => (part.type === 'text' ? [part.text] : [])),
        );
        const all = tokenizer.decode(ids);
        for (const said of saidByUsers) assert.ok(all.includes(Buffer.from(said).toString()));
      }),
      { numRuns: 300 },
    );
  });
}

test('nano: a prompt is a prefix of the conversation it leads to', () => {
  fc.assert(
    fc.property(conversationArbitrary, fc.array(partArbitrary, { maxLength: 4 }), (messages, answer) => {
      const asked = messages.length % 2 === 1 ? messages : messages.slice(0, -1);
      const prompt = layoutConversation(asked, options(NANO_TEMPLATE, { addGenerationPrompt: true }));
      const whole = layoutConversation([...asked, { role: 'assistant', parts: answer }], options(NANO_TEMPLATE));
      assert.deepEqual(whole.ids.subarray(0, prompt.ids.length), prompt.ids);
      assert.equal(
        whole.lossMask.subarray(0, prompt.ids.length).indexOf(1),
        asked.length > 1 ? prompt.lossMask.indexOf(1) : -1,
      );
    }),
    { numRuns: 300 },
  );
});
