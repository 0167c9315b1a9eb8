/** The official `openai` client, unchanged, asks about 1, 2, 3 and 6 interleaved pictures. */
import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';
import type OpenAI from 'openai';
import { toFile } from 'openai';
import sharp from 'sharp';
import { dataUrl, imagePart, PICTURES, picture, textPart } from './pictures.ts';
import { type Product, startProduct, stopAndForget } from './product.ts';

type Content = OpenAI.ChatCompletionContentPart[];

let product: Product;
let client: OpenAI;
let model: string;

before(async () => {
  // Probabilities and answers are compared with each other: formats that round would move them.
  product = await startProduct({ env: { MANTIS_PRECISION: 'f32', MANTIS_KV: 'f32' } });
  client = product.client;
  const models = await client.models.list();
  model = models.data[0]?.id ?? assert.fail('GET /v1/models lists a model');
  console.log(`# ready after ${Math.round(product.readyAfterMs)} ms with ${model}`);
});
after(() => stopAndForget(product));

/** Text, picture, text, picture, …, question: pictures stand where they are meant. */
function interleaved(count: number): Content {
  const parts: Content = PICTURES.slice(0, count).flatMap((name, i) => [
    textPart(i === 0 ? 'First look at this:' : 'then at this:'),
    imagePart(name),
  ]);
  return [...parts, textPart(`How many blue squares are in image ${count}?`)];
}

const greedy = { temperature: 0, max_completion_tokens: 12 } as const;

for (const count of [1, 2, 3, 6]) {
  test(`${count} interleaved pictures: the stream says what the plain answer says`, async () => {
    const messages = [{ role: 'user' as const, content: interleaved(count) }];
    const plain = await client.chat.completions.create({ model, messages, ...greedy });
    const [choice] = plain.choices;
    assert.equal(plain.object, 'chat.completion');
    assert.ok(choice !== undefined && typeof choice.message.content === 'string');
    assert.match(choice.finish_reason, /^(stop|length)$/);
    assert.ok(plain.usage !== undefined);
    assert.equal(plain.usage.total_tokens, plain.usage.prompt_tokens + plain.usage.completion_tokens);
    const { image_tokens: imageTokens } = plain.usage.prompt_tokens_details as { image_tokens?: number };
    assert.ok(imageTokens !== undefined && imageTokens > 0 && imageTokens % count === 0, `${imageTokens} image tokens`);

    let text = '';
    let finish: string | null = null;
    let usage: OpenAI.CompletionUsage | null | undefined;
    let chunks = 0;
    const stream = await client.chat.completions.create({
      model,
      messages,
      ...greedy,
      stream: true,
      stream_options: { include_usage: true },
    });
    for await (const chunk of stream) {
      chunks += 1;
      text += chunk.choices[0]?.delta.content ?? '';
      finish = chunk.choices[0]?.finish_reason ?? finish;
      usage = chunk.usage ?? usage;
    }
    assert.equal(text, choice.message.content);
    assert.equal(finish, choice.finish_reason);
    assert.equal(usage?.prompt_tokens, plain.usage.prompt_tokens);
    assert.equal(usage?.completion_tokens, plain.usage.completion_tokens);
    assert.ok(chunks >= 2, 'an answer comes in pieces');
  });
}

test('pictures are seen, and seen in their order', async () => {
  // Probabilities, not words: a model of any quality gives other numbers when its pictures change places.
  const ask = async (names: readonly (typeof PICTURES)[number][]): Promise<number> => {
    const content: Content = [...names.map(imagePart), textPart('Which image shows a yellow circle?')];
    const { choices } = await client.chat.completions.create({
      model,
      messages: [{ role: 'user', content }],
      temperature: 0,
      max_completion_tokens: 1,
      logprobs: true,
    });
    return choices[0]?.logprobs?.content?.[0]?.logprob ?? assert.fail('log probabilities were asked for');
  };
  const [forward, again, swapped] = [
    await ask(['yellow-circle', 'two-black-squares']),
    await ask(['yellow-circle', 'two-black-squares']),
    await ask(['two-black-squares', 'yellow-circle']),
  ];
  // The second time the prompt comes from the cache, in other pieces: the last bits may differ, the answer may not.
  assert.ok(Math.abs(forward - again) < 1e-6, `${forward} and then ${again}`);
  assert.ok(Math.abs(forward - swapped) > 1e-5, `${forward} and swapped ${swapped}`);
});

test('a picture by file id is the picture by data URL', async () => {
  const file = await client.files.create({ file: await toFile(picture('frame-1'), 'frame-1.png'), purpose: 'vision' });
  const ask = async (url: string): Promise<string | null | undefined> => {
    const content: Content = [{ type: 'image_url', image_url: { url } }, textPart('What is in image 1?')];
    const answer = await client.chat.completions.create({ model, messages: [{ role: 'user', content }], ...greedy });
    return answer.choices[0]?.message.content;
  };
  assert.equal(await ask(file.id), await ask(dataUrl(picture('frame-1'))));
});

test('JPEG, WebP and GIF are accepted as PNG is', async () => {
  const source = sharp(picture('frame-1'));
  const forms = [
    ['image/jpeg', await source.clone().jpeg().toBuffer()],
    ['image/webp', await source.clone().webp().toBuffer()],
    ['image/gif', await source.clone().gif().toBuffer()],
  ] as const;
  for (const [mime, bytes] of forms) {
    const content: Content = [
      { type: 'image_url', image_url: { url: dataUrl(bytes, mime) } },
      textPart('What is in image 1?'),
    ];
    const answer = await client.chat.completions.create({ model, messages: [{ role: 'user', content }], ...greedy });
    assert.equal(typeof answer.choices[0]?.message.content, 'string', mime);
  }
});

test('history with pictures in several turns is accepted', async () => {
  const answer = await client.chat.completions.create({
    model,
    ...greedy,
    messages: [
      { role: 'user', content: [imagePart('frame-1'), textPart('What color is the square?')] },
      { role: 'assistant', content: 'blue' },
      { role: 'user', content: [imagePart('frame-2'), textPart('Which way does the square move?')] },
    ],
  });
  assert.equal(typeof answer.choices[0]?.message.content, 'string');
});

test('many requests at once get the answers they get alone', async () => {
  const questions = PICTURES.map((name): Content => [imagePart(name), textPart('How many items are in image 1?')]);
  const ask = async (content: Content): Promise<string | null | undefined> => {
    const answer = await client.chat.completions.create({ model, messages: [{ role: 'user', content }], ...greedy });
    return answer.choices[0]?.message.content;
  };
  const alone: (string | null | undefined)[] = [];
  for (const question of questions) alone.push(await ask(question));
  assert.deepEqual(await Promise.all(questions.map(ask)), alone);
});

test('a client that hangs up stops its own answer only', async () => {
  const content: Content = [imagePart('frame-1'), textPart('Describe image 1.')];
  const messages = [{ role: 'user' as const, content }];
  const stream = await client.chat.completions.create({ model, messages, stream: true, temperature: 0 });
  for await (const chunk of stream) {
    assert.equal(chunk.object, 'chat.completion.chunk');
    break;
  }
  stream.controller.abort();
  const answer = await client.chat.completions.create({ model, messages, ...greedy });
  assert.equal(typeof answer.choices[0]?.message.content, 'string');
});
