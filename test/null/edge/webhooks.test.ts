import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { Webhook } from 'standardwebhooks';
import { checkTarget, parseAllowList } from '../../../edge/egress/target.ts';
import { afterAttempt, retryAfterMs } from '../../../edge/webhooks/retry.ts';
import { LIMITS } from '../../../shared/contract/limits.ts';
import { newWebhookSecret, webhookHeaders } from '../../../shared/wire/webhookSignature.ts';

const failed = { status: 500, retryAfterMs: null };

describe('retry schedule', () => {
  it('is that of Standard Webhooks: 10 attempts over 75 h 35 min', () => {
    const gaps: number[] = [];
    for (let attempts = 1; ; attempts++) {
      const decision = afterAttempt(failed, attempts, 0);
      if (decision.kind !== 'retry') break;
      gaps.push(decision.afterMs);
    }
    assert.deepEqual(gaps, LIMITS.webhooks.retryAfterMs.slice(1));
    assert.equal(
      gaps.reduce((sum, gap) => sum + gap, 0),
      (75 * 3600 + 35 * 60 + 5) * 1000,
    );
    assert.equal(afterAttempt(failed, 10, 0.5).kind, 'give_up');
  });

  it('jitters by up to a tenth, and makes no attempt later than promised', () => {
    assert.deepEqual(afterAttempt(failed, 2, 0), { kind: 'retry', afterMs: 300_000 });
    assert.deepEqual(afterAttempt(failed, 2, 0.5), { kind: 'retry', afterMs: 285_000 });
    assert.deepEqual(afterAttempt(failed, 2, 1), { kind: 'retry', afterMs: 270_000 });
  });

  it('takes only 2xx as success and 410 as good-bye', () => {
    const kinds = [200, 204, 299, 301, 302, 400, 410, 429, 500, null].map(
      (status) => afterAttempt({ status, retryAfterMs: null }, 1, 0.5).kind,
    );
    assert.deepEqual(kinds, [
      'delivered',
      'delivered',
      'delivered',
      'retry',
      'retry',
      'retry',
      'disable',
      'retry',
      'retry',
      'retry',
    ]);
  });

  it('lets retry-after lengthen a gap, not shorten it', () => {
    const after = (ms: number, roll: number) => afterAttempt({ status: 429, retryAfterMs: ms }, 1, roll);
    assert.deepEqual(after(60_000, 0), { kind: 'retry', afterMs: 60_000 });
    assert.deepEqual(after(60_000, 1), { kind: 'retry', afterMs: 66_000 });
    assert.deepEqual(after(1_000, 0), { kind: 'retry', afterMs: 5_000 });
  });

  it('reads retry-after as seconds or a date, with 429 and 503 only, up to a day', () => {
    const nowMs = Date.UTC(2026, 10, 26, 12);
    const read = (status: number, text: string | null) => retryAfterMs(status, text, nowMs);
    assert.equal(read(429, '120'), 120_000);
    assert.equal(read(503, ' 0 '), 0);
    assert.equal(read(503, 'Thu, 26 Nov 2026 12:10:00 GMT'), 600_000);
    assert.equal(read(503, 'Thu, 26 Nov 2026 11:00:00 GMT'), 0);
    assert.equal(read(429, '9999999999'), 86_400_000);
    assert.equal(read(429, 'Thu, 26 Nov 2099 12:10:00 GMT'), 86_400_000);
    for (const text of ['-5', '1.5', 'soon', '', '1e3', null]) assert.equal(read(429, text), null, String(text));
    for (const status of [200, 302, 500, 502]) assert.equal(read(status, '120'), null);
  });
});

describe('signature', () => {
  it('is accepted by the reference library', async () => {
    const secret = newWebhookSecret();
    const body = JSON.stringify({ id: 'evt_1', text: 'ü€𝄞' });
    const headers = await webhookHeaders('evt_1', Math.floor(Date.now() / 1000), body, secret);
    assert.deepEqual(new Webhook(secret).verify(body, headers), JSON.parse(body));
    assert.throws(() => new Webhook(secret).verify(`${body} `, headers));
    assert.throws(() => new Webhook(newWebhookSecret()).verify(body, headers));
  });
});

describe('webhook target', () => {
  const none = parseAllowList('');
  const network = (url: string, allowed = none) => {
    const target = checkTarget(url, allowed);
    return 'problem' in target ? 'refused' : target.network;
  };

  it('is a public https name', () => {
    assert.equal(network('https://example.com/hook?x=1'), 'public');
    const refused = [
      'http://example.com/',
      'https://example.com:8443/',
      'https://user:pw@example.com/',
      'ftp://example.com/',
      'data:text/plain,x',
      'not a url',
      '/hook',
      'https://localhost/',
      'https://localhost./',
      'https://api.localhost/',
      'https://intranet/',
      'https://printer.local/',
      'https://localhost.localdomain/',
      'https://127.0.0.1/',
      'https://0x7f.1/',
      'https://2130706433/',
      'https://017700000001/',
      'https://[::1]/',
      'https://[::ffff:7f00:1]/',
      'https://[64:ff9b::7f00:1]/',
      'https://①②⑦.⓪.⓪.①/',
      'https://10.0.0.1/',
    ];
    for (const url of refused) assert.equal(network(url), 'refused', url);
  });

  it('may be private where development allows exactly that host and port', () => {
    const allowed = parseAllowList('127.0.0.1:9911, localhost:80');
    assert.equal(network('http://127.0.0.1:9911/x', allowed), 'private');
    assert.equal(network('http://localhost/', allowed), 'private');
    assert.equal(network('http://127.0.0.1:9912/', allowed), 'refused');
    assert.equal(network('http://user@127.0.0.1:9911/', allowed), 'refused');
  });
});
