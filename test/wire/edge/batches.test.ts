/** Batches against the real Worker, by the official client; the backend is one whose faults can be chosen. */
import assert from 'node:assert/strict';
import { after, afterEach, before, describe, it } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import OpenAI, { toFile } from 'openai';
import { MantisClient } from '../../../shared/client/client.ts';
import type { ClientError } from '../../../shared/client/http.ts';
import type { Batch, BatchResult } from '../../../shared/contract/batches.ts';
import { png } from '../../null/edge/pictures.ts';
import { FAULT_CARD, FaultBackend } from './fault-backend.ts';
import { API_KEY, type Installation, startInstallation, until } from './installation.ts';
import { type Receiver, startReceiver } from './receiver.ts';

let door: Installation;
let openai: OpenAI;
let backend: FaultBackend;
let receiver: Receiver;

before(async () => {
  receiver = await startReceiver();
  door = await startInstallation({ egressAllow: receiver.host });
  openai = door.openai;
  backend = await FaultBackend.join(door);
});
afterEach(() => {
  backend.behaviour = 'answer';
});
after(async () => {
  await backend.close();
  await door.close();
  await receiver.close();
});

const picture = `data:image/png;base64,${Buffer.from(png(8, 8)).toString('base64')}`;
const chat = (content: unknown = 'hi', more: object = {}) => ({
  model: FAULT_CARD.id,
  messages: [{ role: 'user', content }],
  ...more,
});
const line = (custom_id: string, body: object = chat(), url = '/v1/chat/completions') =>
  JSON.stringify({ custom_id, method: 'POST', url, body });

async function input(lines: readonly string[], purpose: OpenAI.FilePurpose = 'batch'): Promise<string> {
  const file = await toFile(Buffer.from(lines.join('\n')), 'input.jsonl');
  return (await openai.files.create({ file, purpose })).id;
}

async function start(lines: readonly string[], more: object = {}): Promise<Batch> {
  return (await openai.batches.create({
    input_file_id: await input(lines),
    endpoint: '/v1/chat/completions',
    completion_window: '24h',
    ...more,
  })) as unknown as Batch;
}

const retrieve = async (id: string) => (await openai.batches.retrieve(id)) as unknown as Batch;

async function ended(id: string, timeoutMs = 15_000): Promise<Batch> {
  let batch = await retrieve(id);
  await until(
    async () => {
      batch = await retrieve(id);
      return ['completed', 'failed', 'expired', 'cancelled'].includes(batch.status);
    },
    timeoutMs,
    `batch ${id} ends`,
  );
  return batch;
}

async function results(fileId: string | null): Promise<BatchResult[]> {
  if (fileId === null) return [];
  const text = await (await openai.files.content(fileId)).text();
  assert.ok(text.endsWith('\n'));
  return text
    .trimEnd()
    .split('\n')
    .map((one) => JSON.parse(one) as BatchResult);
}

const ids = (of: readonly BatchResult[]) => of.map(({ custom_id }) => custom_id);

describe('a batch', () => {
  it('answers every line once, and says of each that fails why', async () => {
    const { endpoint } = await createHook(['batch.completed']);
    const bad = new Set([7, 20, 41]);
    const lines = Array.from({ length: 60 }, (_, i) =>
      line(
        `r${i}`,
        chat(bad.has(i) ? [{ type: 'image_url', image_url: { url: 'data:image/png;base64,AAAA' } }] : `say ${i}`),
      ),
    );
    const made = await start(lines, { metadata: { what: 'test' } });
    assert.deepEqual(
      [made.object, made.status, made.endpoint, made.metadata],
      ['batch', 'validating', '/v1/chat/completions', { what: 'test' }],
    );
    assert.equal(made.expires_at, made.created_at + 86_400);
    const batch = await ended(made.id);
    assert.equal(batch.status, 'completed', JSON.stringify(batch));
    assert.deepEqual(batch.request_counts, { total: 60, completed: 57, failed: 3 });
    assert.equal(batch.model, FAULT_CARD.id);
    const output = await results(batch.output_file_id);
    assert.deepEqual(
      ids(output),
      lines.flatMap((_, i) => (bad.has(i) ? [] : [`r${i}`])),
    );
    for (const { id, response, error } of output) {
      assert.match(id, /^batch_req_/);
      assert.deepEqual([response?.status_code, error], [200, null]);
      assert.match(response?.request_id ?? '', /^req_/);
      assert.equal((response?.body as OpenAI.ChatCompletion | undefined)?.choices[0]?.message.content, 'Hello');
    }
    const errors = await results(batch.error_file_id);
    assert.deepEqual(ids(errors), ['r7', 'r20', 'r41']);
    for (const { response } of errors) {
      assert.equal(response?.status_code, 400);
      assert.match(
        (response?.body as { error: { param: string } } | undefined)?.error.param ?? '',
        /^messages\[0\]\.content\[0\]/,
      );
    }
    const file = await openai.files.retrieve(batch.output_file_id!);
    assert.deepEqual([file.purpose, file.filename], ['batch_output', `${batch.id}_output.jsonl`]);
    const events = () =>
      receiver.received.map(({ body }) => JSON.parse(body) as { type: string; data: { id: string } });
    await until(() => events().some(({ data }) => data.id === batch.id), 15_000, 'the webhook has come');
    assert.equal(events().find(({ data }) => data.id === batch.id)?.type, 'batch.completed');
    await door.call('DELETE', `/v1/webhook_endpoints/${endpoint}`);
    assert.ok(backend.seen.every(({ request }) => request.priority === 'batch'));
  });

  it('sends a picture that stands in many lines once', async () => {
    const before = backend.seen.length;
    const body = chat([
      { type: 'image_url', image_url: { url: picture } },
      { type: 'text', text: 'what?' },
    ]);
    const batch = await ended((await start(Array.from({ length: 12 }, (_, i) => line(`p${i}`, body)))).id);
    assert.deepEqual(batch.request_counts, { total: 12, completed: 12, failed: 0 });
    assert.equal(batch.error_file_id, null);
    assert.equal(backend.seen.length - before, 12);
  });

  it('whose input is wrong fails with lines and fields', async () => {
    const made = await start([
      line('a'),
      '{',
      line('a'),
      line('b', chat('hi', { temperature: 9 })),
      line('c', { ...chat(), model: 'x' }),
    ]);
    const batch = await ended(made.id);
    assert.equal(batch.status, 'failed');
    assert.deepEqual(
      batch.errors?.data.map(({ line: number, code, param }) => [number, code, param]),
      [
        [2, 'invalid_json', null],
        [3, 'duplicate_custom_id', 'custom_id'],
        [4, 'invalid_value', 'body.temperature'],
        [5, 'mismatched_model', 'body.model'],
      ],
    );
    const unknown = await ended((await start([line('a', { ...chat(), model: 'gpt-9' })])).id);
    assert.deepEqual([unknown.status, unknown.errors?.data[0]?.code], ['failed', 'model_not_found']);
  });

  it('is refused at once where it can never be', async () => {
    const refused = async (promise: Promise<unknown>) => {
      const error = await promise.then(
        () => assert.fail('not refused'),
        (reason: unknown) => reason,
      );
      assert.ok(error instanceof OpenAI.APIError, String(error));
      return [error.status, error.code, error.param];
    };
    const create = (more: object) =>
      openai.batches.create({
        input_file_id: 'file-none',
        endpoint: '/v1/chat/completions',
        completion_window: '24h',
        ...more,
      } as never);
    assert.deepEqual(await refused(create({})), [404, 'file_not_found', 'input_file_id']);
    assert.deepEqual(await refused(create({ endpoint: '/v1/embeddings' })), [400, 'invalid_value', 'endpoint']);
    assert.deepEqual(await refused(create({ completion_window: '1h' })), [400, 'invalid_value', 'completion_window']);
    assert.deepEqual(await refused(create({ output_expires_after: { anchor: 'created_at', seconds: 1 } })), [
      400,
      'invalid_value',
      'output_expires_after.seconds',
    ]);
    assert.deepEqual(await refused(create({ input_file_id: await input([line('a')], 'user_data') })), [
      400,
      'invalid_value',
      'input_file_id',
    ]);
    assert.deepEqual(await refused(openai.batches.retrieve('batch_none')), [404, 'batch_not_found', 'id']);
    assert.deepEqual(await refused(openai.batches.cancel('batch_none')), [404, 'batch_not_found', 'id']);
  });

  it('that is cancelled keeps what is done', async () => {
    const lines = Array.from({ length: 200 }, (_, i) => line(`c${i}`));
    const { id, input_file_id } = await start(lines, {
      output_expires_after: { anchor: 'created_at', seconds: 3_600 },
    });
    await until(async () => (await retrieve(id)).request_counts.completed > 4, 10_000, 'some lines are done');
    await assert.rejects(openai.files.delete(input_file_id), /needed by a fine-tuning job or a batch/);
    assert.equal((await openai.batches.cancel(id)).status, 'cancelling');
    const batch = await ended(id, 5_000);
    assert.equal(batch.status, 'cancelled');
    const { completed, failed, total } = batch.request_counts;
    assert.ok(completed > 4 && completed < 200 && failed === 0 && total === 200, JSON.stringify(batch.request_counts));
    const output = await results(batch.output_file_id);
    const errors = await results(batch.error_file_id);
    assert.equal(output.length, completed);
    assert.ok(errors.every(({ error, response }) => error?.code === 'batch_cancelled' && response === null));
    assert.deepEqual(new Set([...ids(output), ...ids(errors)]).size, 200);
    assert.equal(output.length + errors.length, 200);
    const file = await openai.files.retrieve(batch.output_file_id!);
    assert.equal(file.expires_at, file.created_at + 3_600);
    const again = await openai.batches.cancel(id);
    assert.equal(again.status, 'cancelled');
    await openai.files.delete(input_file_id);
  });

  it('waits where backends are full, and loses no line by it', async () => {
    backend.behaviour = 'refuse_busy';
    const { id } = await start(Array.from({ length: 20 }, (_, i) => line(`w${i}`)));
    await sleep(1_500);
    const meanwhile = await retrieve(id);
    assert.deepEqual([meanwhile.status, meanwhile.request_counts.failed], ['in_progress', 0]);
    backend.behaviour = 'answer';
    const batch = await ended(id, 25_000);
    assert.deepEqual([batch.status, batch.request_counts], ['completed', { total: 20, completed: 20, failed: 0 }]);
  });

  it('can be driven by our own client', async () => {
    const client = new MantisClient({ baseUrl: door.url, apiKey: API_KEY });
    const text = Array.from({ length: 5 }, (_, i) => line(`o${i}`)).join('\n');
    const about = { filename: 'in.jsonl', purpose: 'batch', mime_type: 'application/jsonl' } as const;
    const file = await client.uploads.file(new Blob([text]), about, 300);
    assert.equal(file.bytes, text.length);
    const made = await client.batches.create({
      input_file_id: file.id,
      endpoint: '/v1/chat/completions',
      completion_window: '24h',
    });
    const seen: Batch[] = [];
    for await (const change of client.batches.follow(made.id)) seen.push(change);
    const batch = seen.at(-1);
    assert.ok(batch?.status === 'completed' && batch.output_file_id !== null, JSON.stringify(seen));
    const found: string[] = [];
    for await (const { custom_id } of client.batches.results(batch.output_file_id)) found.push(custom_id);
    assert.deepEqual(found, ['o0', 'o1', 'o2', 'o3', 'o4']);
    assert.equal(
      (await client.batches.cancel(made.id).catch((error: ClientError) => error.code)) as string,
      'invalid_state',
    );
  });

  it('is listed, newest first, page by page', async () => {
    const listed: string[] = [];
    for await (const one of openai.batches.list({ limit: 2 })) listed.push(one.id);
    assert.ok(listed.length >= 4);
    assert.equal(new Set(listed).size, listed.length);
    const [first] = listed;
    assert.deepEqual(
      (await openai.batches.list({ limit: 1 })).data.map(({ id }) => id),
      [first],
    );
  });
});

async function createHook(events: readonly string[]): Promise<{ endpoint: string }> {
  const { status, body } = await door.call('POST', '/v1/webhook_endpoints', {
    url: `http://${receiver.host}/hook`,
    events,
  });
  assert.equal(status, 200, JSON.stringify(body));
  return { endpoint: (body as { id: string }).id };
}

describe('a batch whose time is over', () => {
  it('keeps what is done and names what is not', async () => {
    const hurried = await startInstallation({ vars: { BATCH_WINDOW_S: '3' } });
    const slow = await FaultBackend.join(hurried, 'slow');
    try {
      const lines = Array.from({ length: 2_000 }, (_, i) => line(`x${i}`));
      const file = await hurried.openai.files.create({
        file: await toFile(Buffer.from(lines.join('\n')), 'i.jsonl'),
        purpose: 'batch',
      });
      const { id } = await hurried.openai.batches.create({
        input_file_id: file.id,
        endpoint: '/v1/chat/completions',
        completion_window: '24h',
      });
      await until(async () => (await hurried.openai.batches.retrieve(id)).status === 'expired', 10_000, 'it expires');
      const batch = await hurried.openai.batches.retrieve(id);
      const lists = await Promise.all(
        [batch.output_file_id!, batch.error_file_id!].map(async (one) =>
          (await (await hurried.openai.files.content(one)).text())
            .trimEnd()
            .split('\n')
            .map((text) => JSON.parse(text) as BatchResult),
        ),
      );
      const [output = [], errors = []] = lists;
      assert.equal(output.length, batch.request_counts?.completed);
      assert.ok(output.length > 10 && errors.every(({ error }) => error?.code === 'batch_expired'));
      assert.equal(new Set(ids([...output, ...errors])).size, 2_000);
      assert.equal(output.length + errors.length, 2_000);
    } finally {
      await slow.close();
      await hurried.close();
    }
  });
});
