import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { after, before, describe, it } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import sharp from 'sharp';
import { eventsOf, makeRequest, TestBackend, textOf } from './backend-process.ts';

const png = (red: number, green: number, blue: number) =>
  sharp({ create: { width: 60, height: 50, channels: 3, background: { r: red, g: green, b: blue } } })
    .png()
    .toBuffer();

describe('a backend process', () => {
  let backend: TestBackend;
  let pictures: Uint8Array[];
  before(async () => {
    [backend, pictures] = await Promise.all([
      TestBackend.start(),
      Promise.all([png(255, 0, 0), png(0, 80, 255), png(10, 200, 10)]),
    ]);
  });
  after(() => backend.stop());

  it('answers about pictures: counts first, then text, then usage', async () => {
    const events = [];
    for await (const event of eventsOf(await backend.post('/v1/generate', makeRequest(2), pictures.slice(0, 2))))
      events.push(event);
    const [started] = events;
    const finished = events.at(-1);
    assert.ok(started?.type === 'started' && finished?.type === 'finished');
    assert.deepEqual(started.imageTokens, [16, 16]);
    assert.equal(finished.usage.imageTokens, 32);
    assert.equal(finished.usage.promptTokens, started.promptTokens);
    assert.ok(finished.usage.completionTokens >= 1);
    const count = await backend.post('/v1/count', makeRequest(2), pictures.slice(0, 2));
    assert.deepEqual(await count.json(), { promptTokens: started.promptTokens, imageTokens: [16, 16] });
  });

  it('twenty requests at once get what each gets alone', async () => {
    const ask = async (i: number) =>
      await textOf(
        await backend.post('/v1/generate', makeRequest(i % 4, { maxTokens: 8 + i, temperature: i % 2, seed: i }), [
          ...pictures.slice(i % 3),
          ...pictures.slice(0, i % 3),
        ]),
      );
    const indices = Array.from({ length: 20 }, (_, i) => i);
    const together = await Promise.all(indices.map(ask));
    for (const i of indices) assert.equal(together[i], await ask(i), `request ${i}`);
    assert.ok(new Set(together).size > 10, 'the answers differ from each other');
  });

  it('closing the connection stops the generation', async () => {
    const abort = new AbortController();
    const request = makeRequest(0, { maxTokens: 400, temperature: 1, seed: 3 });
    const stream = eventsOf(await backend.post('/v1/generate', request, [], abort.signal), abort.signal);
    while ((await stream.next()).value?.type !== 'delta');
    const before = await backend.metric('mantis_decode_runs');
    abort.abort();
    await stream.next().catch(() => {});
    const stoppedAt = performance.now();
    while ((await backend.metric('mantis_num_requests_running')) > 0 && performance.now() - stoppedAt < 2_000)
      await sleep(10);
    assert.equal(await backend.metric('mantis_num_requests_running'), 0);
    const runs = await backend.metric('mantis_decode_runs');
    await sleep(100);
    assert.equal(await backend.metric('mantis_decode_runs'), runs, 'nothing is computed any more');
    assert.ok(runs - before < 350, `${runs - before} steps after the first token of 400`);
    assert.equal(await backend.metric('mantis_kv_cache_usage_perc'), 0);
  });

  it('bad requests are refused by name and disturb nobody', async () => {
    const running = backend.post('/v1/generate', makeRequest(1, { maxTokens: 100 }), pictures).then(textOf);
    const cases: [object, Uint8Array[], number, string, RegExp][] = [
      [{ ...makeRequest(0), model: 'no-such' }, [], 404, 'model_not_found', /expected one of nano/],
      [{ ...makeRequest(0), model: 'ft:nano:x' }, [], 404, 'model_not_found', /without an edge/],
      [makeRequest(0, { maxTokens: 5000 }), [], 400, 'context_length_exceeded', /context is 512/],
      [
        makeRequest(1),
        [new TextEncoder().encode('not a picture')],
        400,
        'invalid_image_format',
        /messages\[0\]\.parts\[0\]/,
      ],
      [makeRequest(1), [pictures[0]!.subarray(0, 60)], 400, 'image_parse_error', /messages\[0\]\.parts\[0\]/],
      [makeRequest(2), [pictures[0]!], 400, 'invalid_value', /parts\[1\]\.blob/],
      [makeRequest(31), Array(31).fill(pictures[0]), 400, 'too_many_images', /at most 30 images/],
    ];
    for (const [request, images, status, code, message] of cases) {
      const response = await backend.post('/v1/generate', request, images);
      const { error } = (await response.json()) as { error: { code: string; message: string } };
      assert.equal(response.status, status, error.message);
      assert.equal(error.code, code);
      assert.match(error.message, message);
    }
    assert.equal(
      await running,
      await textOf(await backend.post('/v1/generate', makeRequest(1, { maxTokens: 100 }), pictures)),
    );
  });

  it('stop strings end the answer and are not shown', async () => {
    const whole = await textOf(await backend.post('/v1/generate', makeRequest(1, { maxTokens: 40 }), pictures));
    const stop = whole.slice(5, 8);
    const events = [];
    for await (const event of eventsOf(
      await backend.post('/v1/generate', makeRequest(1, { maxTokens: 40, stop: [stop] }), pictures),
    ))
      events.push(event);
    const text = events.flatMap((event) => (event.type === 'delta' ? [event.text] : [])).join('');
    assert.equal(text, whole.slice(0, whole.indexOf(stop)));
    const finished = events.at(-1);
    assert.ok(finished?.type === 'finished' && finished.finishReason === 'stop');
  });

  it('SIGTERM lets the running answer end, refuses new ones, and exits 0', async () => {
    const draining = await TestBackend.start();
    try {
      const events = eventsOf(
        await draining.post('/v1/generate', makeRequest(0, { maxTokens: 300, temperature: 1, seed: 3 }), []),
      );
      while ((await events.next()).value?.type !== 'delta');
      draining.child.kill('SIGTERM');
      let last = '';
      for await (const event of events) last = event.type;
      assert.equal(last, 'finished');
      assert.equal(await draining.exited, 0);
    } finally {
      await draining.stop();
    }
  });

  it('ends when the process that started it is killed', async () => {
    const parent = spawn('sleep', ['60']);
    const orphan = await TestBackend.start({ MANTIS_PARENT_PID: String(parent.pid) });
    try {
      parent.kill('SIGKILL');
      const exit = await Promise.race([orphan.exited, sleep(5_000, 'still running')]);
      assert.equal(exit, 1);
    } finally {
      await orphan.stop();
    }
  });
});
