/** A batch whose Worker is killed, again and again, at moments that nobody chose: every line is in the results once. */
import assert from 'node:assert/strict';
import { readdir, readFile } from 'node:fs/promises';
import { test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { toFile } from 'openai';
import { type RunningEdge, startEdge } from '../../../deploy/edge.ts';
import type { BatchResult } from '../../../shared/contract/batches.ts';
import { FAULT_CARD, FaultBackend } from './fault-backend.ts';
import { API_KEY, SECRET, startInstallation, until } from './installation.ts';

const LONG = process.env.MANTIS_LONG_TESTS === '1';
const KILLS = LONG ? 25 : 3;
const LINES = 90 * KILLS;

/** The runtime that this process has started. */
async function workerd(): Promise<number> {
  for (const name of await readdir('/proc')) {
    const pid = Number(name);
    if (!Number.isInteger(pid)) continue;
    const text = await readFile(`/proc/${pid}/stat`, 'utf8').catch(() => '');
    const [, comm, state, parent] = /\((.*)\) (\w) (\d+)/.exec(text) ?? [];
    if (comm === 'workerd' && Number(parent) === process.pid && state !== 'Z') return pid;
  }
  throw new Error('there is no workerd');
}

test(`a batch survives ${KILLS} kills`, async (t) => {
  const vars = { LOG_LEVEL: 'warn' };
  const door = await startInstallation({ vars });
  let edge: RunningEdge = door.edge;
  const backend = await FaultBackend.join(door);
  t.after(async () => {
    await backend.close();
    await edge.dispose();
    await door.close().catch(() => {});
  });
  const restart = async () => {
    process.kill(await workerd(), 'SIGKILL');
    await edge.dispose().catch(() => {});
    const port = Number(new URL(door.url).port);
    edge = await startEdge({ port, dataDir: door.dataDir, backendSecret: SECRET, apiKey: API_KEY, vars });
    assert.equal(edge.url, door.url);
    await backend.report('register');
  };
  const lines = Array.from({ length: LINES }, (_, i) => {
    // Some lines are wrong in a way that is found when their turn comes.
    const url = i % 10 === 3 ? 'data:image/png;base64,AAAA' : null;
    const content = url === null ? `say ${i}` : [{ type: 'image_url', image_url: { url } }];
    const body = { model: FAULT_CARD.id, messages: [{ role: 'user', content }] };
    return JSON.stringify({ custom_id: `k${i}`, method: 'POST', url: '/v1/chat/completions', body });
  });
  const file = await toFile(Buffer.from(lines.join('\n')), 'input.jsonl');
  const { id: input_file_id } = await door.openai.files.create({ file, purpose: 'batch' });
  const { id } = await door.openai.batches.create({
    input_file_id,
    endpoint: '/v1/chat/completions',
    completion_window: '24h',
  });
  // Seeded, so that a failure can be looked at again: while it is validated, while lines are under way, while files are written.
  let seed = 20_261_125;
  const random = () => {
    seed = (seed * 1_103_515_245 + 12_345) % 2_147_483_648;
    return seed / 2_147_483_648;
  };
  let kills = 0;
  for (; kills < KILLS; kills++) {
    // The runtime takes up a broken alarm after two seconds.
    await sleep(kills === 0 ? 20 : 2_000 + random() * 1_500);
    if ((await door.openai.batches.retrieve(id)).status === 'completed') break;
    await restart();
  }
  const sinceMs = Date.now();
  assert.ok(kills >= 3, `it was over after ${kills} kills`);
  await until(
    async () => (await door.openai.batches.retrieve(id)).status === 'completed',
    90_000,
    'the batch is completed',
  );
  const endMs = Date.now() - sinceMs;
  const batch = await door.openai.batches.retrieve(id);
  assert.deepEqual(batch.request_counts, { total: LINES, completed: LINES * 0.9, failed: LINES * 0.1 });
  const read = async (fileId: string) =>
    (await (await door.openai.files.content(fileId)).text())
      .trimEnd()
      .split('\n')
      .map((text) => (JSON.parse(text) as BatchResult).custom_id);
  const [output, errors] = [await read(batch.output_file_id!), await read(batch.error_file_id!)];
  assert.deepEqual(
    output,
    lines.flatMap((_, i) => (i % 10 === 3 ? [] : [`k${i}`])),
  );
  assert.deepEqual(
    errors,
    lines.flatMap((_, i) => (i % 10 === 3 ? [`k${i}`] : [])),
  );
  t.diagnostic(
    `${kills} kills, the end ${endMs} ms after the last, ${backend.seen.length - output.length} of ${LINES} lines were computed twice`,
  );
});

const skip = LONG ? false : 'takes half a minute; MANTIS_LONG_TESTS=1 runs it';
test('a line at which backends die is given up after three tries, and says so', { skip }, async (t) => {
  const door = await startInstallation({ vars: { LOG_LEVEL: 'silent' } });
  const backend = await FaultBackend.join(door);
  t.after(async () => {
    await backend.close();
    await door.close();
  });
  backend.behaviour = 'die_in_stream';
  const body = { model: FAULT_CARD.id, messages: [{ role: 'user', content: 'poison' }] };
  const line = JSON.stringify({ custom_id: 'p', method: 'POST', url: '/v1/chat/completions', body });
  const { id: input_file_id } = await door.openai.files.create({
    file: await toFile(Buffer.from(line), 'input.jsonl'),
    purpose: 'batch',
  });
  const { id } = await door.openai.batches.create({
    input_file_id,
    endpoint: '/v1/chat/completions',
    completion_window: '24h',
  });
  await until(async () => (await door.openai.batches.retrieve(id)).status === 'completed', 60_000, 'it is given up');
  const batch = await door.openai.batches.retrieve(id);
  assert.deepEqual([batch.request_counts, batch.output_file_id], [{ total: 1, completed: 0, failed: 1 }, null]);
  const text = await (await door.openai.files.content(batch.error_file_id!)).text();
  const { response } = JSON.parse(text) as BatchResult;
  assert.deepEqual(
    [response?.status_code, (response?.body as { error: { code: string } } | undefined)?.error.code],
    [502, 'backend_failed'],
  );
  t.diagnostic(`${backend.seen.length} attempts`);
});
