import assert from 'node:assert/strict';
import { readFile } from 'node:fs/promises';
import { after, before, describe, it } from 'node:test';
import { Ajv2020 } from 'ajv/dist/2020.js';
import { choiceSeed } from '../../../gpu-backend/engine/random.ts';
import { loadTokenizer } from '../../../gpu-backend/text/tokenizer.ts';
import { ApiError } from '../../../shared/contract/errors.ts';
import { randomSchema } from '../../fixtures/random-schemas.ts';
import { ask, NANO_DIR, serveNano } from './nano-service.ts';

const QUESTION = 'Is there a red circle in the first picture?';
const tokenizer = loadTokenizer(NANO_DIR);

describe('how nano answers', () => {
  let nano: Awaited<ReturnType<typeof serveNano>>;
  before(async () => {
    nano = await serveNano();
  });
  after(() => nano.close());

  const drawn = { temperature: 1.5, seed: 11 };

  it('several choices: each as alone with its own seed, usage summed, one end at a time', async () => {
    const { choices, usage, types } = await nano.tell(ask(QUESTION, { ...drawn, choices: 4 }));
    let completionTokens = 0;
    for (const [index, choice] of choices.entries()) {
      const alone = await nano.tell(ask(QUESTION, { ...drawn, seed: choiceSeed(11, index) }));
      assert.equal(choice.text, alone.choices[0]!.text, `choice ${index}`);
      assert.equal(choice.reason, alone.choices[0]!.reason);
      completionTokens += alone.usage!.completionTokens;
    }
    assert.ok(new Set(choices.map(({ text }) => text)).size > 1);
    assert.equal(usage!.completionTokens, completionTokens);
    assert.deepEqual(
      types.filter((type) => type !== 'delta'),
      ['started', 'choice', 'choice', 'choice', 'finished'],
    );
  });

  it('several choices about pictures, whose pixels are sent once', async () => {
    const picture = await readFile(new URL('../../fixtures/pictures/frame-1.png', import.meta.url));
    const request = ask('', { choices: 3, maxTokens: 6 });
    const messages = [
      {
        role: 'user' as const,
        parts: [
          { type: 'image' as const, blob: 0 },
          { type: 'text' as const, text: QUESTION },
        ],
      },
    ];
    const { choices } = await nano.tell({ ...request, messages }, [picture]);
    assert.ok(choices[0]!.text.length > 0);
    for (const { text } of choices) assert.equal(text, choices[0]!.text);
  });

  it('the same seed gives the same text, whatever the batch mates', async () => {
    const alone = await nano.tell(ask(QUESTION, drawn));
    const mates = Array.from({ length: 5 }, (_, i) =>
      nano.tell(ask(`${'Which one is larger? '.repeat(i + 1)}`, { temperature: 1, seed: i, maxTokens: 10 + 3 * i })),
    );
    const together = await nano.tell(ask(QUESTION, drawn));
    await Promise.all(mates);
    assert.equal(together.choices[0]!.text, alone.choices[0]!.text);
    const other = await nano.tell(ask(QUESTION, { ...drawn, seed: 12 }));
    assert.notEqual(other.choices[0]!.text, alone.choices[0]!.text);
  });

  it('biases force and forbid tokens; penalties keep from repeating', async () => {
    const id = tokenizer.encode('red').at(-1)!;
    const word = tokenizer.decode([id]);
    const forced = await nano.tell(ask(QUESTION, { logitBias: [[id, 100]], maxTokens: 5 }));
    assert.equal(forced.choices[0]!.text, word.repeat(5));
    const penalised = await nano.tell(
      ask(QUESTION, { logitBias: [[id, 50]], frequencyPenalty: 2, presencePenalty: 2, maxTokens: 60 }),
    );
    assert.ok(penalised.choices[0]!.text.replaceAll(word, '').length > 0);
    const free = await nano.tell(ask(QUESTION, { maxTokens: 8, logprobs: 0 }));
    const first = free.choices[0]!.logprobs[0]!.token;
    const [banned] = tokenizer.encodeWithSpecials(first);
    const without = await nano.tell(ask(QUESTION, { logitBias: [[banned!, -100]], maxTokens: 8 }));
    assert.ok(!without.choices[0]!.text.startsWith(first));
    await assert.rejects(nano.tell(ask(QUESTION, { logitBias: [[5000, 1]] })), (error) => {
      assert.ok(error instanceof ApiError && error.code === 'invalid_value');
      assert.match(error.message, /below \d+, received 5000/);
      return true;
    });
  });

  it('scores options as it would generate them', async () => {
    const signal = new AbortController().signal;
    const { choices, usage } = await nano.tell(ask(QUESTION, { logprobs: 0, maxTokens: 1 }));
    const [likeliest] = choices[0]!.logprobs;
    const options = [likeliest!.token, 'zebra crossing', 'q'];
    const { scores, usage: read } = await nano.service.score({ ...ask(QUESTION), options }, [], signal);
    assert.ok(Math.abs(scores[0]!.logprob - likeliest!.logprob) < 1e-3, `${scores[0]!.logprob} ${likeliest!.logprob}`);
    for (const { logprob } of scores.slice(1)) assert.ok(logprob < scores[0]!.logprob);
    assert.deepEqual(
      scores.map(({ tokens }) => tokens),
      options.map((option) => tokenizer.encode(option).length),
    );
    assert.equal(read.promptTokens, usage!.promptTokens);
    assert.equal(read.completionTokens, 0);
    // A chain of two tokens has the probability of both.
    const pair = await nano.tell(ask(QUESTION, { logprobs: 0, maxTokens: 2 }));
    const both = pair.choices[0]!.logprobs;
    if (both.length === 2) {
      const words = both.map(({ token }) => token).join('');
      const scored = await nano.service.score({ ...ask(QUESTION), options: [words, 'no'] }, [], signal);
      if (scored.scores[0]!.tokens === 2)
        assert.ok(Math.abs(scored.scores[0]!.logprob - both[0]!.logprob - both[1]!.logprob) < 1e-3);
    }
  });

  it('fills schemas: every answer is whole and valid', async () => {
    const ajv = new Ajv2020({ strict: false, validateFormats: false, logger: false });
    await Promise.all(
      Array.from({ length: 20 }, async (_, seed) => {
        const schema = randomSchema(seed);
        const constraint = { param: 'response_format', spec: { type: 'json_schema' as const, schema } };
        const { choices } = await nano.tell(
          ask('Describe it as JSON.', { constraint, maxTokens: 300, temperature: seed % 2, seed }),
        );
        const { text, reason } = choices[0]!;
        assert.equal(reason, 'stop', `schema ${seed}: ${text}`);
        const validate = ajv.compile(schema);
        assert.ok(validate(JSON.parse(text)), `${JSON.stringify(schema)}: ${text}`);
      }),
    );
  });

  it('keeps to choices and regexes, and answers in a stop string’s company', async () => {
    const choice = { param: 'x', spec: { type: 'choice' as const, choices: ['north', 'south'] } };
    const { choices } = await nano.tell(ask(QUESTION, { constraint: choice, choices: 5, temperature: 2, seed: 1 }));
    for (const { text, reason } of choices) assert.ok(reason === 'stop' && /^(north|south)$/.test(text), text);
    const regex = { param: 'x', spec: { type: 'regex' as const, regex: '\\d{3}-\\d{2}' } };
    const told = await nano.tell(ask(QUESTION, { constraint: regex, stop: ['-'] }));
    assert.match(told.choices[0]!.text, /^\d{3}$/);
  });

  it('refuses what it cannot follow before anything starts, by path', async () => {
    const schema = { type: 'object', properties: { a: { not: {} } } };
    const constraint = {
      param: 'response_format.json_schema.schema',
      spec: { type: 'json_schema' as const, schema },
    };
    await assert.rejects(nano.tell(ask(QUESTION, { constraint })), (error) => {
      assert.ok(error instanceof ApiError && error.code === 'unsupported_parameter' && error.status === 400);
      assert.equal(error.options.param, 'response_format.json_schema.schema.properties.a.not');
      return true;
    });
    assert.equal(nano.service.inFlight, 0);
  });
});

describe('rows that give way and go on later', () => {
  it('keep their penalties, their draws and their place in the schema', async () => {
    const schema = { type: 'array', items: { type: 'string', minLength: 20 }, minItems: 6, maxItems: 8 };
    const constraint = { param: 'x', spec: { type: 'json_schema' as const, schema } };
    const requests = Array.from({ length: 6 }, (_, seed) =>
      ask(QUESTION, { constraint, temperature: 1, seed, frequencyPenalty: 0.5, maxTokens: 350 }),
    );
    const roomy = await serveNano();
    const alone: string[] = [];
    for (const request of requests) alone.push((await roomy.tell(request)).choices[0]!.text);
    await roomy.close();
    const tight = await serveNano(1024);
    const together = await Promise.all(requests.map((request) => tight.tell(request)));
    const { preemptions } = (await tight.service.stats()).models[0]!.counters;
    await tight.close();
    assert.deepEqual(
      together.map(({ choices }) => choices[0]!.text),
      alone,
    );
    assert.ok(preemptions > 0, 'expected rows to be preempted');
  });
});
