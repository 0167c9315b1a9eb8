/** Batches through a real backend: the answers are those of single requests, for chats with pictures and for scores. */
import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { after, before, it } from 'node:test';
import type OpenAI from 'openai';
import { toFile } from 'openai';
import type { Batch, BatchEndpoint, BatchResult } from '../../../shared/contract/batches.ts';
import type { ScoreResponse } from '../../../shared/contract/score.ts';
import { type Installation, MODEL, startInstallation, until } from './installation.ts';

let door: Installation;
before(async () => {
  door = await startInstallation({ backend: true, vars: { LOG_LEVEL: 'warn' } });
});
after(() => door.close());

const read = (name: string) => readFileSync(new URL(`../../fixtures/pictures/${name}.png`, import.meta.url));
const url = (bytes: Uint8Array) => `data:image/png;base64,${Buffer.from(bytes).toString('base64')}`;
const picture = (where: string) => ({ type: 'image_url' as const, image_url: { url: where } });
const text = (words: string) => ({ type: 'text' as const, text: words });

/** Runs a batch. @returns results by custom id */
async function run(endpoint: BatchEndpoint, bodies: readonly object[]): Promise<Map<string, BatchResult>> {
  const lines = bodies.map((body, i) => JSON.stringify({ custom_id: `${i}`, method: 'POST', url: endpoint, body }));
  const file = await toFile(Buffer.from(lines.join('\n')), 'input.jsonl');
  const { id: input_file_id } = await door.openai.files.create({ file, purpose: 'batch' });
  const asked = { input_file_id, endpoint, completion_window: '24h' } as OpenAI.BatchCreateParams;
  const { id } = await door.openai.batches.create(asked);
  let batch = (await door.openai.batches.retrieve(id)) as unknown as Batch;
  await until(
    async () => {
      batch = (await door.openai.batches.retrieve(id)) as unknown as Batch;
      return batch.status === 'completed' || batch.status === 'failed';
    },
    20_000,
    'the batch ends',
  );
  assert.equal(batch.status, 'completed', JSON.stringify(batch.errors));
  const found = new Map<string, BatchResult>();
  for (const fileId of [batch.output_file_id, batch.error_file_id]) {
    if (fileId === null) continue;
    for (const line of (await (await door.openai.files.content(fileId)).text()).trimEnd().split('\n')) {
      const result = JSON.parse(line) as BatchResult;
      assert.ok(!found.has(result.custom_id));
      found.set(result.custom_id, result);
    }
  }
  return found;
}

it('chats with pictures are answered as single requests are', async () => {
  const vision = await door.openai.files.create({ file: await toFile(read('frame-1'), 'a.png'), purpose: 'vision' });
  const pictures = [url(read('frame-2')), url(read('yellow-circle')), vision.id];
  const bodies = Array.from({ length: 24 }, (_, i) => ({
    model: MODEL,
    temperature: 0,
    max_tokens: 6,
    messages: [
      {
        role: 'user' as const,
        content: [
          picture(pictures[i % 3]!),
          text(`and `),
          picture(pictures[(i + 1) % 3]!),
          text(` question ${i % 6}?`),
        ],
      },
    ],
  }));
  const broken = { ...bodies[0]!, messages: [{ role: 'user', content: [picture('file-none')] }] };
  const results = await run('/v1/chat/completions', [...bodies, broken]);
  assert.equal(results.size, 25);
  for (const [i, body] of bodies.slice(0, 6).entries()) {
    const alone = await door.openai.chat.completions.create(body);
    const line = results.get(`${i}`)?.response?.body as OpenAI.ChatCompletion | undefined;
    assert.deepEqual(line?.choices, alone.choices);
    assert.equal(line?.usage?.prompt_tokens, alone.usage?.prompt_tokens);
  }
  assert.equal(results.get('24')?.response?.status_code, 404);
});

it('scores too', async () => {
  const messages = [{ role: 'user', content: [picture(url(read('blue-triangle'))), text('red?')] }];
  const body = { model: MODEL, messages, options: ['yes', 'no'] };
  const results = await run('/v1/score', [body, { ...body, options: ['a', 'b', 'c'] }]);
  const alone = (await door.call('POST', '/v1/score', body)).body as ScoreResponse;
  const scores = (id: string) => (results.get(id)?.response?.body as ScoreResponse | undefined)?.scores;
  assert.equal(scores('0')?.length, 2);
  for (const [i, { option, logprob }] of alone.scores.entries()) {
    assert.equal(scores('0')?.[i]?.option, option);
    // Another batch of rows adds up in another order.
    assert.ok(Math.abs((scores('0')?.[i]?.logprob ?? 0) - logprob) < 1e-3);
  }
  assert.equal(scores('1')?.length, 3);
});
