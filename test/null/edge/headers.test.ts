/** Headers that say who may read an answer, where it belongs, and whether to ask again. */
import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import fc from 'fast-check';
import { errorResponse, shouldRetry } from '../../../edge/middleware/errors.ts';
import { serverTiming, traceOf } from '../../../edge/middleware/trace.ts';
import { ApiError, ERRORS, type ErrorCode } from '../../../shared/contract/errors.ts';
import { parseOrigins } from '../../../shared/wire/origins.ts';

const SETTING =
  'https://app.example.com, https://*.example.org,http://localhost:*,http://127.0.0.1:3000,https://[::1]:8443, https://*.dev.test:*, http://plain.test:80';

/** Origin → whether its pages may call under SETTING. */
const ORIGINS: readonly (readonly [origin: string, allowed: boolean])[] = [
  ['https://app.example.com', true],
  ['http://app.example.com', false],
  ['https://app.example.com:8443', false],
  ['https://app.example.com.evil.net', false],
  ['https://evil.net/https://app.example.com', false],
  ['https://xapp.example.com', false],
  ['https://APP.example.com', false],
  ['https://app.example.com/', false],
  ['https://app.example.com ', false],
  ['https://a.example.org', true],
  ['https://a.b.example.org', true],
  ['https://example.org', false],
  ['https://evilexample.org', false],
  ['https://a.example.org.evil.net', false],
  ['https://a.example.org:444', false],
  ['http://a.example.org', false],
  ['https://.example.org', false],
  ['https://a..example.org', false],
  ['https://evil.net#.example.org', false],
  ['https://evil.net?.example.org', false],
  ['https://user@a.example.org', false],
  ['http://localhost', true],
  ['http://localhost:5173', true],
  ['http://localhost:99999999', false],
  ['https://localhost:5173', false],
  ['http://localhost.evil.net:5173', false],
  ['http://127.0.0.1:3000', true],
  ['http://127.0.0.1:3001', false],
  ['http://127.0.0.1', false],
  ['https://[::1]:8443', true],
  ['https://[::2]:8443', false],
  ['https://x.dev.test:1234', true],
  ['https://x.dev.test', true],
  ['https://dev.test:1', false],
  ['http://plain.test', true],
  ['http://plain.test:80', false],
  ['null', false],
  ['*', false],
  ['', false],
  ['file://', false],
  ['chrome-extension://abcdef', false],
];

describe('origins', () => {
  const origins = parseOrigins(SETTING);
  for (const [origin, allowed] of ORIGINS) {
    it(`${JSON.stringify(origin)} may${allowed ? '' : ' not'} call`, () => {
      assert.equal(origins?.allows(origin), allowed);
    });
  }

  it('are none by default, all by * alone, and named where they are wrong', () => {
    assert.equal(parseOrigins(''), null);
    assert.equal(parseOrigins(' , '), null);
    assert.equal(parseOrigins('*')?.any, true);
    for (const text of [
      'example.com',
      'https://',
      'https://*.com',
      'https://a.com/x',
      '*, https://a.com',
      'https://a*.com',
      'ftp://a.com',
    ])
      assert.throws(() => parseOrigins(text), /MANTIS_CORS_ORIGINS: expected origins/, text);
  });

  it('of a sub-domain rule end in the domain, whatever is tried', () => {
    fc.assert(
      fc.property(fc.string({ unit: 'binary-ascii', maxLength: 40 }), fc.constantFrom('', '.', 'x'), (junk, dot) => {
        const origin = `https://${junk}${dot}example.org`;
        if (origins?.allows(origin) === true)
          assert.match(origin, /^https:\/\/[a-z0-9-]+(\.[a-z0-9-]+)*\.example\.org$/);
      }),
      { numRuns: 2_000 },
    );
  });
});

describe('traceparent', () => {
  const id = '4bf92f3577b34da6a3ce929d0e0e4736';
  it('goes on with a trace that can be read', () => {
    for (const [given, flags] of [
      [`00-${id}-00f067aa0ba902b7-01`, '01'],
      [`00-${id}-00f067aa0ba902b7-00`, '00'],
      [`00-${id}-00f067aa0ba902b7-ff`, '01'],
      [`01-${id}-00f067aa0ba902b7-01-what-comes-later`, '01'],
    ] as const) {
      const trace = traceOf(given);
      assert.equal(trace.id, id, given);
      assert.match(trace.traceparent, new RegExp(`^00-${id}-[0-9a-f]{16}-${flags}$`));
      assert.ok(!trace.traceparent.includes('00f067aa0ba902b7'), 'the span is ours');
    }
  });

  it('begins one where there is none or none that can be read', () => {
    for (const given of [
      undefined,
      '',
      'x',
      `ff-${id}-00f067aa0ba902b7-01`,
      `00-${'0'.repeat(32)}-00f067aa0ba902b7-01`,
      `00-${id}-${'0'.repeat(16)}-01`,
      `00-${id.toUpperCase()}-00f067aa0ba902b7-01`,
      `00-${id}-00f067aa0ba902b7-01-more`,
      `00-${id}-00f067aa0ba902b7`,
      `01-${id}-00f067aa0ba902b7-01-${'x'.repeat(600)}`,
    ]) {
      const trace = traceOf(given);
      assert.notEqual(trace.id, id, given);
      assert.match(trace.traceparent, /^00-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-00$/);
    }
  });

  it('timings leave out what is not known', () => {
    const known = serverTiming([
      ['queue', 0],
      ['ttft', null],
      ['total', 41],
    ]);
    assert.equal(known, 'queue;dur=0, total;dur=41');
  });
});

describe('x-should-retry', () => {
  it('is said of every error: when we are at fault or too busy, and for the one 409 that passes', () => {
    const retried = (Object.keys(ERRORS) as ErrorCode[]).filter((code) => {
      const header = errorResponse(new ApiError(code, 'x')).headers.get('x-should-retry');
      assert.ok(header === 'true' || header === 'false', code);
      return header === 'true';
    });
    for (const code of retried) assert.ok(ERRORS[code].status === 429 || ERRORS[code].status >= 500, code);
    assert.ok(retried.includes('overloaded') && retried.includes('rate_limit_exceeded'));
    assert.equal(shouldRetry(new ApiError('invalid_state', 'x')), false);
    assert.equal(shouldRetry(new ApiError('idempotency_in_progress', 'x', { shouldRetry: true })), true);
    assert.equal(shouldRetry(new ApiError('rate_limit_exceeded', 'x', { shouldRetry: false })), false);
  });

  it('comes with when, in seconds that are not too few', () => {
    const { headers } = errorResponse(
      new ApiError('overloaded', 'x', { retryAfterMs: 1_200, headers: { 'x-a': 'b' } }),
    );
    assert.deepEqual(
      ['retry-after', 'retry-after-ms', 'x-a'].map((name) => headers.get(name)),
      ['2', '1200', 'b'],
    );
  });
});
