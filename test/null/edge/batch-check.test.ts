import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { InputCheck } from '../../../edge/batches/check.ts';
import { splitLines } from '../../../edge/jobs/lines.ts';
import type { BatchEndpoint } from '../../../shared/contract/batches.ts';
import { LIMITS } from '../../../shared/contract/limits.ts';

const B = LIMITS.batches;
const chat = (content: unknown = 'hi', more: object = {}) => ({
  model: 'm',
  messages: [{ role: 'user', content }],
  ...more,
});
const request = (custom_id: unknown, body: unknown = chat(), more: object = {}) =>
  JSON.stringify({ custom_id, method: 'POST', url: '/v1/chat/completions', body, ...more });

async function* chunks(text: string | Uint8Array, size = 65_536): AsyncGenerator<Uint8Array> {
  const bytes = typeof text === 'string' ? new TextEncoder().encode(text) : text;
  for (let at = 0; at < bytes.length; at += size) yield bytes.subarray(at, at + size);
}

async function check(text: string | Uint8Array, endpoint: BatchEndpoint = '/v1/chat/completions', size?: number) {
  const input = new InputCheck(endpoint);
  for await (const line of splitLines(chunks(text, size), B.maxLineBytes)) {
    input.take(line);
    if (input.isHopeless) break;
  }
  input.finish();
  return input;
}

/** `[line, code, param]` of everything that is wrong. */
const faults = async (...args: Parameters<typeof check>) =>
  (await check(...args)).errors.map(({ line, code, param }) => [line, code, param]);

describe('the input of a batch', () => {
  it('of 10,000 lines is read in little time', async () => {
    const text = Array.from({ length: 10_000 }, (_, i) => request(`r-${i}`)).join('\n');
    const startMs = performance.now();
    const input = await check(text);
    assert.deepEqual([input.requests, input.model, input.errors], [10_000, 'm', []]);
    assert.ok(performance.now() - startMs < 30_000, `${performance.now() - startMs} ms`);
  });

  it('may have blank lines, CRLF, a byte order mark and no last line end', async () => {
    const input = await check(`\ufeff${request('a')}\r\n\r\n \t\n${request('b')}`, undefined, 3);
    assert.deepEqual([input.requests, input.errors], [2, []]);
  });

  it('is refused by line and field', async () => {
    assert.deepEqual(await faults(''), [[null, 'empty_file', null]]);
    assert.deepEqual(await faults('\n\n'), [[null, 'empty_file', null]]);
    const lines = [
      request('a'),
      '{"custom_id": ',
      request('a'),
      request('b', { ...chat(), model: 'other' }),
      request('c', chat(), { url: '/v1/score' }),
      request('d', chat('hi', { temperature: 3, nonsense: 1, tools: [] })),
      request('e', chat('hi', { stream: true })),
      request(5),
      request('f', chat(), { method: 'GET' }),
      request('g', 'text'),
      '[]',
      request('x'.repeat(B.maxCustomIdChars + 1)),
      request('h', chat([{ type: 'image_url', image_url: {} }])),
    ];
    assert.deepEqual(await faults(lines.join('\n')), [
      [2, 'invalid_json', null],
      [3, 'duplicate_custom_id', 'custom_id'],
      [4, 'mismatched_model', 'body.model'],
      [5, 'invalid_value', 'url'],
      [6, 'invalid_value', 'body.temperature'],
      [6, 'unknown_parameter', 'body.nonsense'],
      [6, 'unsupported_parameter', 'body.tools'],
      [7, 'invalid_value', 'body.stream'],
      [8, 'invalid_type', 'custom_id'],
      [9, 'invalid_value', 'method'],
      [10, 'invalid_type', 'body'],
      [11, 'invalid_type', null],
      [12, 'invalid_value', 'custom_id'],
      [13, 'missing_required_parameter', 'body.messages[0].content[0].image_url.url'],
    ]);
    assert.deepEqual(await faults(request('x').replace('"x"', '"\\ud800"')), [[1, 'invalid_value', 'custom_id']]);
    assert.deepEqual(await faults(request('\u{1f600}\u0000')), []);
    const bytes = new Uint8Array([...new TextEncoder().encode('{"custom_id":"'), 0xff, 0x0a]);
    assert.deepEqual(await faults(bytes), [[1, 'invalid_json', null]]);
  });

  it('for scores is checked by their schema', async () => {
    const line = (body: object) => request('a', body, { url: '/v1/score' });
    assert.deepEqual(await faults(line({ ...chat(), options: ['a', 'b'] }), '/v1/score'), []);
    assert.deepEqual(await faults(line({ ...chat(), options: ['a'] }), '/v1/score'), [
      [1, 'invalid_value', 'body.options'],
    ]);
  });

  it('is not read to its end where that helps nobody', async () => {
    const many = await check(Array.from({ length: 5_000 }, () => '{').join('\n'));
    assert.equal(many.errors.length, B.maxReportedErrors);
    assert.ok(many.requests <= B.maxReportedErrors + 1);
    const bomb = await check(new Uint8Array(2_000_000).fill(10));
    assert.deepEqual(bomb.errors[0]?.code, 'invalid_value');
    const deep = await check(`{"custom_id":"a","body":${'['.repeat(100_000)}`);
    assert.equal(deep.errors[0]?.code, 'invalid_json');
    const nested = request('a').replace(/}$/, `,"x":${'['.repeat(5_000)}${']'.repeat(5_000)}}`);
    assert.deepEqual((await check(nested)).errors[0]?.code, 'unknown_parameter');
  });

  it('has at most so many lines', async () => {
    const text = Array.from({ length: B.maxLines + 1 }, (_, i) => request(`${i}`, {})).join('\n');
    const input = new InputCheck('/v1/chat/completions');
    for await (const line of splitLines(chunks(text), B.maxLineBytes)) input.take(line);
    assert.ok(input.errors.length > 0 && input.isHopeless);
    const over = new InputCheck('/v1/chat/completions');
    for (let number = 1; number <= B.maxLines; number++)
      over.take({ number, at: 0, bytes: new TextEncoder().encode(request(`${number}`)) });
    assert.equal(over.errors.length, 0);
    over.take({ number: B.maxLines + 1, at: 0, bytes: new TextEncoder().encode(request('last')) });
    assert.deepEqual(
      over.errors.map(({ line, code }) => [line, code]),
      [[B.maxLines + 1, 'invalid_value']],
    );
  });
});
