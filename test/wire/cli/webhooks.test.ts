/** `mantis webhooks` against the real door: what somebody types who is called back. */
import assert from 'node:assert/strict';
import { type ChildProcessWithoutNullStreams, spawn } from 'node:child_process';
import { after, before, describe, it } from 'node:test';
import { fileURLToPath } from 'node:url';
import { MantisClient } from '../../../shared/client/client.ts';
import { WebhookVerifier } from '../../../shared/client/verifyWebhook.ts';
import { API_KEY, type Installation, startInstallation, until } from '../edge/installation.ts';
import { type Receiver, startReceiver } from '../edge/receiver.ts';

const BIN = fileURLToPath(new URL('../../../gpu-backend/cli/mantis.mjs', import.meta.url));

describe('mantis webhooks', () => {
  let door: Installation;
  let receiver: Receiver;
  let api: MantisClient;
  before(async () => {
    receiver = await startReceiver();
    door = await startInstallation({ egressAllow: receiver.host, vars: { LOG_LEVEL: 'silent' } });
    api = new MantisClient({ baseUrl: door.url, apiKey: API_KEY });
  });
  after(async () => {
    await door.close();
    await receiver.close();
  });

  function start(args: string[]): { child: ChildProcessWithoutNullStreams; text: { out: string; err: string } } {
    const env = { PATH: process.env.PATH, MANTIS_BASE_URL: door.url, MANTIS_API_KEY: API_KEY };
    const child = spawn(process.execPath, [BIN, 'webhooks', ...args], { env });
    const text = { out: '', err: '' };
    child.stdout.on('data', (chunk: Buffer) => (text.out += chunk.toString()));
    child.stderr.on('data', (chunk: Buffer) => (text.err += chunk.toString()));
    return { child, text };
  }
  async function mantis(...args: string[]): Promise<{ code: number | null; out: string; err: string }> {
    const { child, text } = start(args);
    const code = await new Promise<number | null>((resolve) => child.once('close', resolve));
    return { code, ...text };
  }
  /** A batch of a file that is none: the event `batch.failed`. */
  async function happen(): Promise<string> {
    const file = await api.files.create(new Blob(['{"nothing": 1}\n']), 'x.jsonl', 'batch');
    const completion_window = '24h';
    return (await api.batches.create({ input_file_id: file.id, endpoint: '/v1/chat/completions', completion_window }))
      .id;
  }

  it('adds, tests, lists, sends again, rotates and deletes', { timeout: 150_000 }, async () => {
    const url = `http://${receiver.host}/hook`;
    const created = await mantis('create', url, '--events', 'batch.*', '--description', 'ops');
    assert.equal(created.code, 0, created.err);
    assert.match(created.out, /^whsec_\S+\n$/);
    const id = /whe_\w+/.exec(created.err)?.[0] ?? '';
    const batch = await happen();
    await until(() => receiver.received.length === 1, 10_000, 'the event comes');
    await until(
      async () => (await api.webhookDeliveries.list({ status: 'delivered' })).data.length === 1,
      5_000,
      'noted',
    );
    const [list, deliveries, test, wrong] = await Promise.all([
      mantis('list'),
      mantis('deliveries', '--endpoint', id),
      mantis('test', id),
      mantis('create', 'https://example.com/', '--events', 'batch.nothing'),
    ]);
    assert.match(list.out, new RegExp(`^${id}\\s+enabled\\s+batch\\.\\*\\s.*${url}\\s+ops`, 'm'));
    assert.match(deliveries.out, /^evt_\w+\s+batch\.failed\s+delivered\s+1\s+200/m);
    assert.deepEqual([test.code, /^200 after \d+ ms/.test(test.out)], [0, true]);
    assert.equal(wrong.code, 2);
    assert.match(wrong.err, /Expected some of \*, fine_tuning\.\*/);
    const delivery = /whd_\w+/.exec(deliveries.out)?.[0] ?? '';
    const [shown, again, range, rotated] = await Promise.all([
      mantis('delivery', delivery),
      mantis('redeliver', delivery),
      mantis('redeliver', id, '--since', '1h', '--events', 'fine_tuning.*'),
      mantis('rotate', id, '--overlap', '60'),
    ]);
    assert.match(shown.out, /Z\s+\d+ ms\s+200/);
    assert.equal(again.out, `${delivery} pending\n`);
    assert.equal(range.out, '0 deliveries begun anew\n');
    assert.match(rotated.out, /^whsec_\S+\n$/);
    const ours = () => receiver.received.filter(({ body }) => body.includes(batch));
    await until(() => ours().length === 2, 10_000, 'it comes again');
    assert.match((await mantis('update', id, '--disable')).out, new RegExp(`^${id} disabled \\(requested\\)`));
    assert.equal((await mantis('delete', id)).out, `${id} deleted\n`);
  });

  it('listens: events are printed and forwarded, signed with the secret that it prints', {
    timeout: 60_000,
  }, async () => {
    receiver.received.length = 0;
    const { child, text } = start(['listen', '--forward', `http://${receiver.host}/local`, '--events', 'batch.*']);
    await until(() => text.err.includes('signed with'), 20_000, 'it is ready');
    const secret = /whsec_\S+/.exec(text.err)?.[0] ?? '';
    receiver.answers.push(200, 500);
    const batch = await happen();
    await until(() => text.err.includes('→ 200'), 10_000, 'the first is taken');
    await happen();
    await until(() => text.err.includes('✗ 500'), 10_000, 'the second is not');
    child.kill('SIGINT');
    await new Promise((resolve) => child.once('close', resolve));
    assert.match(text.out, new RegExp(`^\\d\\d:\\d\\d:\\d\\d {2}batch\\.failed {2}${batch} #1 {2}evt_\\w+\n`));
    assert.match(text.err, /2 events, 1 of them taken by/);
    const [call] = receiver.received;
    assert.ok(call !== undefined);
    const { event } = await new WebhookVerifier(secret).verify(call.body, call.headers);
    assert.deepEqual(await api.webhookEvents.retrieve(event.id), event);
  });
});
