/** Reading a conversation's request: everything wrong with it, in reading order, in work proportional to its size. */
import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import fc from 'fast-check';
import { inReadingOrder, requestShape, walkRequest } from '../../../edge/chat/walk.ts';
import { ChatRequest, UNSUPPORTED_CHAT_FIELDS } from '../../../shared/contract/chat.ts';
import { ApiError, type Violation, violation, violationsOf } from '../../../shared/contract/errors.ts';
import { LIMITS } from '../../../shared/contract/limits.ts';
import { chatCase } from './random-requests.ts';

const R = LIMITS.request;
const SHAPE = requestShape<ChatRequest>(ChatRequest, {
  unsupported: UNSUPPORTED_CHAT_FIELDS,
  sizes: {
    stop: R.maxStopSequences,
    logit_bias: R.maxLogitBiases,
    metadata: R.maxMetadataPairs,
    'structured_outputs.choice': R.maxConstraintChoices,
  },
});
const walk = (value: unknown) => walkRequest(value, SHAPE);
const wrong = (value: unknown): (string | null)[] => walk(value).violations.kept.map(({ param }) => param);
const user = (content: unknown) => ({ role: 'user', content });
const image = (url: string) => ({ type: 'image_url', image_url: { url } });

describe('a request', () => {
  it('that is right comes out as its schema reads it', () => {
    const body = {
      messages: [
        user('hi'),
        { role: 'assistant', content: [{ type: 'text', text: 'a' }], refusal: null },
        user([image('file-1')]),
      ],
      model: 'm',
      temperature: null,
      stop: ['a'],
      logit_bias: { '3': 1 },
    };
    const { request, violations, images } = walk(body);
    assert.equal(violations.total, 0);
    assert.deepEqual(request, ChatRequest.parse(body));
    assert.deepEqual(images, [{ param: 'messages[2].content[0].image_url', url: 'file-1', role: 'user' }]);
  });
  it('is right or wrong as its schema says', () => {
    fc.assert(
      fc.property(chatCase, (body) => {
        const parsed = ChatRequest.safeParse(body);
        const walked = walk(body);
        assert.equal(walked.violations.total === 0, parsed.success, JSON.stringify(walked.violations.kept));
        if (parsed.success) assert.deepEqual(walked.request, parsed.data);
        else assert.equal(walked.request, null);
      }),
      { numRuns: 2_000 },
    );
  });
  it('says all that is wrong where it stands, in the order in which it is written', () => {
    assert.deepEqual(
      wrong({
        temperature: 3,
        messages: [
          { content: 7, role: 'robot' },
          {
            role: 'user',
            content: [{ text: 'x', type: 'text', bold: true }, 'y', image('a'), { type: 'image_url' }],
            extra: 1,
          },
          null,
        ],
        tools: [],
        top_p: 'much',
      }),
      [
        'temperature',
        'messages[0].content',
        'messages[0].role',
        'messages[1].content[0].bold',
        'messages[1].content[1]',
        'messages[1].content[3].image_url',
        'messages[1].extra',
        'messages[2]',
        'tools',
        'top_p',
        'model',
      ],
    );
    assert.equal(walk({ tools: [] }).violations.kept[0]?.code, 'unsupported_parameter');
  });
  it('names its pictures though other things are wrong with it', () => {
    const { images, request } = walk({
      model: 3,
      messages: [
        {
          role: 'bot',
          content: [
            image('file-1'),
            { type: 'image_file', image_file: { file_id: 'file-2', x: 1 } },
            image(3 as never),
          ],
        },
      ],
    });
    assert.equal(request, null);
    assert.deepEqual(
      images.map(({ param, url }) => [param, url]),
      [
        ['messages[0].content[0].image_url', 'file-1'],
        ['messages[0].content[1].image_file', 'file-2'],
      ],
    );
  });
  it('that is no object is told so', () => {
    for (const value of [null, 1, 'x', [], true]) {
      const [first] = walk(value).violations.kept;
      assert.deepEqual([first?.code, first?.param], ['invalid_type', null]);
    }
  });
});

describe('lists of violations', () => {
  it('keep the published number and count the others, in one entry more', () => {
    const unknown = Object.fromEntries(Array.from({ length: 250 }, (_, i) => [`field_${i}`, i]));
    const { violations } = walk({ model: 'm', messages: [user('hi')], ...unknown });
    assert.equal(violations.total, 250);
    const { error } = ApiError.from(violations.kept, violations.total).envelope();
    assert.equal(error.details?.length, R.maxReportedViolations + 1);
    assert.match(error.details?.at(-1)?.message ?? '', /^150 more /);
    assert.match(error.message, /249 more/);
    const parsed = ChatRequest.safeParse({ model: 'm', messages: [], ...unknown });
    const same = ApiError.from(violationsOf(parsed.error?.issues ?? [], {})).envelope().error;
    assert.equal(same.details?.length, R.maxReportedViolations + 1);
  });
  it('have no tail where nothing is left out', () => {
    const some = Array.from({ length: R.maxReportedViolations }, (_, i) =>
      violation('invalid_value', `f${i}`, { expected: 'x' }),
    );
    assert.equal(ApiError.from(some).envelope().error.details?.length, some.length);
    assert.equal(ApiError.from(some.slice(0, 1)).envelope().error.message, 'f0: expected x.');
  });
  it('cut keys and paths that are long', () => {
    const [param] = wrong({ model: 'm', messages: [user('x')], ['k'.repeat(1e6)]: 1 });
    assert.ok(param !== null && param !== undefined && param.length <= 64, param?.slice(0, 80));
    const { error } = ApiError.from(walk({ ['k'.repeat(1e6)]: 1 }).violations.kept).envelope();
    assert.ok(JSON.stringify(error).length < 4_000);
  });
  it('are sorted by where their fields stand, what is missing last', () => {
    const body = { b: [{ x: 1, y: 2 }], a: { c: 1 } };
    const of = (param: string | null): Violation => ({ code: 'invalid_value', param, message: '' });
    const sorted = inReadingOrder(
      [of('a.c'), of('missing'), of('a.d'), of('b[0].y'), of('b[0].x'), of('b'), of(null)],
      body,
    );
    assert.deepEqual(
      sorted.map(({ param }) => param),
      [null, 'b', 'b[0].x', 'b[0].y', 'a.c', 'a.d', 'missing'],
    );
  });
});

describe('work', () => {
  // As many values as a body may have.
  const HUGE: Record<string, () => unknown> = {
    'a body of messages': () => ({ model: 'm', messages: Array(R.maxJsonValues).fill(1) }),
    '65,536 wrong parts': () => ({
      model: 'm',
      messages: Array(256).fill(user(Array(256).fill({ type: 'text', a: 1, b: 2 }))),
    }),
    'a body of unknown fields': () =>
      Object.fromEntries(Array.from({ length: R.maxJsonValues / 2 }, (_, i) => [`f${i}`, 1])),
    'a body of unknown fields of a part': () => ({
      model: 'm',
      messages: [
        user([
          Object.fromEntries([
            ['type', 'text'],
            ...Array.from({ length: R.maxJsonValues / 2 }, (_, i) => [`f${i}`, 1]),
          ]),
        ]),
      ],
    }),
    'a body of stops': () => ({ model: 'm', messages: [user('x')], stop: Array(R.maxJsonValues).fill(1) }),
    'a body of biases': () => ({
      model: 'm',
      messages: [user('x')],
      logit_bias: Object.fromEntries(Array.from({ length: R.maxJsonValues / 2 }, (_, i) => [`b${i}`, 'x'])),
    }),
    'a body of choices': () => ({
      model: 'm',
      messages: [user('x')],
      structured_outputs: { choice: Array(R.maxJsonValues).fill(1) },
    }),
  };
  for (const [name, make] of Object.entries(HUGE)) {
    it(`on ${name} stays in proportion`, () => {
      const value = make();
      const startedAt = performance.now();
      const { violations } = walk(value);
      const error = ApiError.from(inReadingOrder(violations.kept, value), violations.total).envelope();
      const ms = performance.now() - startedAt;
      assert.ok(violations.total > 0);
      assert.ok(JSON.stringify(error).length < 100_000);
      assert.ok(ms < 15_000, `${ms} ms`);
    });
  }
});
