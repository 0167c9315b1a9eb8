/** Each limit of a request: a body that has it at a given value, and what is said one beyond. */
import { textPart } from '../e2e/pictures.ts';

/** The models that the door of these tests serves. */
export const NANO = 'nano';
export const FUYU = 'fuyu';
export const CHAT = '/v1/chat/completions';
export const TOO_LONG = 'context_length_exceeded';

export const ask = (content: unknown, more: object = {}) => ({
  model: NANO,
  messages: [{ role: 'user', content }],
  max_tokens: 1,
  ...more,
});

export type Row = {
  limit: string;
  /** `count`: the limit, and one more. */
  body: (count: number) => unknown;
  param: string | RegExp | null;
  path?: string;
  /** What a request at the limit is refused with, for another reason; null: not at all. */
  at: string | null;
  code?: string;
};

export const chars = (count: number) => 'x'.repeat(count);
const numbered = (count: number) => Array.from({ length: count }, (_, i) => `${i}`);
const nested = (depth: number): unknown => JSON.parse(`${'['.repeat(depth)}${']'.repeat(depth)}`);

export const ROWS: readonly Row[] = [
  {
    limit: 'maxMessages',
    body: (n) => ask('', { messages: Array(n).fill({ role: 'user', content: 'x' }) }),
    param: 'messages',
    at: TOO_LONG,
  },
  {
    limit: 'maxPartsPerMessage',
    body: (n) => ask(Array(n).fill(textPart('x'))),
    param: 'messages[0].content',
    at: null,
  },
  { limit: 'maxTextChars', body: (n) => ask(chars(n)), param: 'messages[0].content', at: TOO_LONG },
  {
    limit: 'maxTotalTextChars',
    body: (n) => ask([textPart(chars(n - 10)), textPart(chars(10))]),
    param: 'messages[0].content[1].text',
    at: TOO_LONG,
  },
  { limit: 'maxModelChars', body: (n) => ask('x', { model: chars(n) }), param: 'model', at: 'model_not_found' },
  { limit: 'maxLabelChars', body: (n) => ask('x', { user: chars(n) }), param: 'user', at: null },
  {
    limit: 'maxMetadataPairs',
    body: (n) => ask('x', { metadata: Object.fromEntries(numbered(n).map((key) => [key, ''])) }),
    param: 'metadata',
    at: null,
  },
  {
    limit: 'maxMetadataKeyChars',
    body: (n) => ask('x', { metadata: { [chars(n)]: '' } }),
    param: /^metadata\.x/,
    at: null,
  },
  {
    limit: 'maxMetadataValueChars',
    body: (n) => ask('x', { metadata: { a: chars(n) } }),
    param: 'metadata.a',
    at: null,
  },
  { limit: 'maxStopSequences', body: (n) => ask('x', { stop: numbered(n) }), param: 'stop', at: null },
  { limit: 'maxStopChars', body: (n) => ask('x', { stop: chars(n) }), param: 'stop', at: null },
  {
    limit: 'maxTopLogprobs',
    body: (n) => ask('x', { logprobs: true, top_logprobs: n }),
    param: 'top_logprobs',
    at: null,
  },
  { limit: 'maxChoices', body: (n) => ask('x', { n }), param: 'n', at: null },
  {
    limit: 'maxLogitBiases',
    body: (n) => ask('x', { logit_bias: Object.fromEntries(numbered(n).map((id) => [id, 1])) }),
    param: 'logit_bias',
    at: 'invalid_value',
  },
  {
    limit: 'maxConstraintChars',
    body: (n) =>
      ask('x', {
        structured_outputs: { choice: [chars(n - JSON.stringify({ type: 'choice', choices: [''] }).length)] },
      }),
    param: 'structured_outputs.choice',
    at: 'invalid_value',
  },
  {
    limit: 'maxConstraintChoices',
    body: (n) => ask('x', { structured_outputs: { choice: numbered(n) } }),
    param: 'structured_outputs.choice',
    at: null,
  },
  {
    limit: 'maxOptions',
    path: '/v1/score',
    body: (n) => ({ ...scoring, options: numbered(n) }),
    param: 'options',
    at: null,
  },
  {
    limit: 'maxOptionChars',
    path: '/v1/score',
    body: (n) => ({ ...scoring, options: ['a', chars(n)] }),
    param: 'options[1]',
    at: TOO_LONG,
  },
  {
    limit: 'maxJsonBytes',
    body: (n) =>
      JSON.stringify(ask('x', { a: '' })).replace(
        '"a":""',
        `"a":"${chars(n - JSON.stringify(ask('x', { a: '' })).length)}"`,
      ),
    param: null,
    at: 'unknown_parameter',
    code: 'request_too_large',
  },
  {
    limit: 'maxJsonDepth',
    body: (n) => ask('x', { a: nested(n - 1) }),
    param: null,
    at: 'unknown_parameter',
    code: 'invalid_json',
  },
  {
    limit: 'maxJsonValues',
    body: (n) => ask('x', { a: Array(n - 9).fill(0) }),
    param: null,
    at: 'unknown_parameter',
    code: 'invalid_json',
  },
];
export const scoring = { model: NANO, messages: [{ role: 'user', content: 'x' }] };

/** Bounds of what is said, counted or waited for rather than of what is sent. */
export const NOT_IN_REQUESTS = new Set([
  'maxReportedViolations',
  'maxParamChars',
  'maxCountedTextBytes',
  'maxDrainedBytes',
  'maxDrainedBytesUnknown',
  'maxDrainMs',
  'deadlineMs',
]);
