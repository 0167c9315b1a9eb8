/** The receiver's side: what is genuine passes everywhere, what was touched passes nowhere, what comes twice is told. */
import assert from 'node:assert/strict';
import { createHmac } from 'node:crypto';
import { describe, it } from 'node:test';
import OpenAI from 'openai';
import { Webhook } from 'standardwebhooks';
import { RecentIds, WebhookVerificationError, WebhookVerifier } from '../../../shared/client/verifyWebhook.ts';
import { newWebhookSecret, webhookHeaders } from '../../../shared/wire/webhookSignature.ts';
import { seeded } from '../../fixtures/virtual-time.ts';

const BODIES = 500;
const NOW_S = 1_795_700_000;
const random = seeded(2_026);
const secret = newWebhookSecret();
const pick = <T>(list: readonly T[]): T => list[Math.floor(random() * list.length)] as T;

/** Bodies of every kind: short, long, of all planes of Unicode, with what JSON escapes. */
function body(id: string, i: number): string {
  const text = Array.from({ length: i % 10 === 0 ? 5_000 : Math.floor(random() * 40) }, () =>
    pick(['a', 'ü', '€', '𝄞', '"', '\\', '\n', '\u2028', '\u0000', '.', ' ']),
  ).join('');
  const data = { id: `ftjob-${i}`, sequence: 1 + Math.floor(random() * 9), note: text.slice(0, 18_000) };
  return JSON.stringify({ id, object: 'event', type: 'batch.failed', created_at: NOW_S, data });
}

type Signed = { body: string; headers: Record<string, string> };

async function signed(i: number): Promise<Signed> {
  const id = `evt_${i}`;
  const text = body(id, i);
  return { body: text, headers: await webhookHeaders(id, NOW_S, text, secret) };
}

const withHeader = ({ body, headers }: Signed, name: string, value: string): Signed => ({
  body,
  headers: { ...headers, [name]: value },
});
const flip = (text: string): string => {
  const at = Math.floor(random() * text.length);
  const other = text[at] === 'A' ? 'B' : 'A';
  return `${text.slice(0, at)}${other}${text.slice(at + 1)}`;
};
/** Signed rightly, for a header that the sender would never write. */
const resigned = (one: Signed, timestamp: string, id = one.headers['webhook-id'] ?? ''): Signed => {
  const key = Buffer.from(secret.slice(6), 'base64');
  const mac = createHmac('sha256', key).update(`${id}.${timestamp}.${one.body}`).digest('base64');
  const headers = { 'webhook-id': id, 'webhook-timestamp': timestamp, 'webhook-signature': `v1,${mac}` };
  return { body: one.body, headers };
};
const signatureOf = (one: Signed): string => one.headers['webhook-signature'] ?? '';

const MUTATIONS: Record<string, (one: Signed) => Signed> = {
  'a character of the body': (one) => ({ ...one, body: flip(one.body) }),
  'JSON written anew': (one) => ({ ...one, body: JSON.stringify(JSON.parse(one.body), null, 1) }),
  'a line end behind it': (one) => ({ ...one, body: `${one.body}\n` }),
  'another id': (one) => withHeader(one, 'webhook-id', `${one.headers['webhook-id']}x`),
  'an id with a dot that takes the time in': (one) => ({
    body: one.body,
    headers: { ...one.headers, 'webhook-id': `${one.headers['webhook-id']}.${NOW_S}` },
  }),
  'another time': (one) => withHeader(one, 'webhook-timestamp', String(NOW_S + 1)),
  'too old': (one) => resigned(one, String(NOW_S - 301)),
  'too new': (one) => resigned(one, String(NOW_S + 301)),
  'a fraction of a second': (one) => resigned(one, `${NOW_S}.5`),
  'a negative time': (one) => resigned(one, `-${NOW_S}`),
  'another version': (one) => withHeader(one, 'webhook-signature', signatureOf(one).replace('v1,', 'v2,')),
  'a part of the signature': (one) =>
    withHeader(one, 'webhook-signature', signatureOf(one).slice(0, -1 - Math.floor(random() * 30))),
  'many signatures, none of them right': (one) =>
    withHeader(
      one,
      'webhook-signature',
      Array.from({ length: 8 }, () => `v1,${flip(signatureOf(one).slice(3))}`).join(' '),
    ),
  'another secret': (one) =>
    withHeader(one, 'webhook-signature', `v1,${Buffer.alloc(32, random() * 255).toString('base64')}`),
};

describe('a signature', () => {
  it('is that of the published example', async () => {
    // Of the reference library's own tests: https://github.com/standard-webhooks/standard-webhooks
    const headers = await webhookHeaders(
      'msg_p5jXN8AQM9LWM0D4loKWxJek',
      1_614_265_330,
      '{"test": 2432232314}',
      'whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw',
    );
    assert.equal(headers['webhook-signature'], 'v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=');
  });

  it(`of ${BODIES} bodies is accepted by two other libraries and ours, and after every change refused`, async (t) => {
    t.mock.timers.enable({ apis: ['Date'], now: NOW_S * 1000 });
    const library = new Webhook(secret);
    const openai = new OpenAI({ apiKey: 'none' });
    const refused = new Map<string, number>();
    for (let i = 0; i < BODIES; i++) {
      const one = await signed(i);
      const expected: unknown = JSON.parse(one.body);
      const verifier = new WebhookVerifier(secret);
      assert.deepEqual((await verifier.verify(one.body, new Headers(one.headers))).event, expected);
      assert.deepEqual(library.verify(one.body, one.headers), expected);
      assert.deepEqual(await openai.webhooks.unwrap(one.body, one.headers, secret), expected);
      for (const [kind, change] of Object.entries(MUTATIONS)) {
        const changed = change(one);
        await assert.rejects(
          new WebhookVerifier(secret).verify(changed.body, changed.headers),
          WebhookVerificationError,
          `${kind}: ${JSON.stringify(changed.headers)}`,
        );
        refused.set(kind, (refused.get(kind) ?? 0) + 1);
      }
    }
    assert.deepEqual(new Set(refused.values()), new Set([BODIES]));
    t.diagnostic(`${BODIES} accepted, ${BODIES * refused.size} refused`);
  });
});

describe('a receiver', () => {
  it('refuses what was recorded 301 s ago, and tells what it has had within that time', async () => {
    let nowMs = NOW_S * 1000;
    const verifier = new WebhookVerifier(secret, { nowMs: () => nowMs });
    const recorded: Signed[] = [];
    for (let i = 0; i < 1_000; i++) recorded.push(await signed(i));
    for (const { body, headers } of recorded) assert.equal((await verifier.verify(body, headers)).isRepeat, false);
    nowMs += 299_000;
    for (const { body, headers } of recorded) assert.equal((await verifier.verify(body, headers)).isRepeat, true);
    nowMs += 2_000;
    for (const { body, headers } of recorded)
      await assert.rejects(
        verifier.verify(body, headers),
        (error) => (error as WebhookVerificationError).reason === 'timestamp',
      );
  });

  it('takes either secret during a rotation, and lets an event come again that it could not work off', async () => {
    const next = newWebhookSecret();
    const text = body('evt_1', 1);
    const headers = await webhookHeaders('evt_1', NOW_S, text, next, secret);
    const nowMs = () => NOW_S * 1000;
    for (const secrets of [secret, next, [secret, next]])
      assert.equal((await new WebhookVerifier(secrets, { nowMs }).verify(text, headers)).event.id, 'evt_1');
    const verifier = new WebhookVerifier(next, { nowMs });
    await verifier.verify(text, headers);
    await verifier.forget('evt_1');
    assert.equal((await verifier.verify(text, headers)).isRepeat, false);
    // Signatures of other kinds beside the right one do not matter.
    const more = { ...headers, 'webhook-signature': `v1a,x v1,!! ${headers['webhook-signature']}` };
    assert.equal((await verifier.verify(text, more)).isRepeat, true);
  });

  it('remembers a bounded number of ids, and says what is wrong with its secret', async () => {
    const seen = new RecentIds(3);
    assert.deepEqual(
      ['a', 'b', 'c', 'a', 'd', 'a'].map((id) => seen.add(id)),
      [true, true, true, false, true, true],
    );
    assert.throws(() => new WebhookVerifier([]), /at least one secret/);
    const one = await signed(1);
    const short = new WebhookVerifier('whsec_AAAA', { nowMs: () => NOW_S * 1000 });
    await assert.rejects(short.verify(one.body, one.headers), /at least 24 bytes/);
    for (const name of Object.keys(one.headers)) {
      const { [name]: _, ...rest } = one.headers;
      await assert.rejects(new WebhookVerifier(secret).verify(one.body, rest), new RegExp(name));
    }
  });
});
