/** A real backend process under more load than it has rows. How fast it is, `test/bench/responsive.ts` measures. */
import assert from 'node:assert/strict';
import { join } from 'node:path';
import { after, before, describe, it } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import sharp from 'sharp';
import { readConfig } from '../../../gpu-backend/models/load.ts';
import { eventsOf, makeRequest, TestBackend, textOf } from './backend-process.ts';

const STREAMS = 24;

const png = (grey: number): Promise<Uint8Array> =>
  sharp({ create: { width: 40, height: 40, channels: 3, background: { r: grey, g: 255 - grey, b: grey } } })
    .png()
    .toBuffer();

describe('a backend with more requests than rows', () => {
  let backend: TestBackend;
  let pictures: Uint8Array[];
  /** Keeps answers from ending before they have outgrown their room. */
  let noEnd: [number, number][];
  before(async () => {
    // Less memory than eight rows of these answers want: rows wait, and may be preempted.
    const tight = { MANTIS_MAX_ROWS: '8', MANTIS_KV_TOKENS: '768', MANTIS_PRECISION: 'f32', MANTIS_KV: 'f32' };
    [backend, pictures] = await Promise.all([TestBackend.start(tight), Promise.all([0, 90, 200].map(png))]);
    noEnd = readConfig(join(backend.dir, 'nano')).text.eosTokens.map((id) => [id, -100]);
  });
  after(() => backend.stop());

  /** Requests of two tenants, with up to two pictures, greedy and drawn. */
  const send = (index: number, signal?: AbortSignal) => {
    const images = index % 3;
    const request = {
      ...makeRequest(images, {
        maxTokens: 180 + (index % 4) * 10,
        temperature: index % 2,
        seed: index,
        ...(index % 4 === 3 ? {} : { logitBias: noEnd }),
      }),
      requestId: `req_${index}_${Math.random()}`,
      tenant: String(index % 2).repeat(32),
    };
    return backend.post('/v1/generate', request, pictures.slice(0, images), signal);
  };

  it(`${STREAMS} streams at once say what each says alone, and some are broken off`, async (t) => {
    const broken = (index: number) => index % 5 === 4;
    const together = await Promise.all(
      Array.from({ length: STREAMS }, async (_, index) => {
        if (!broken(index)) return await textOf(await send(index));
        const abort = new AbortController();
        let text = '';
        try {
          for await (const event of eventsOf(await send(index, abort.signal), abort.signal)) {
            if (event.type === 'delta') text += event.text;
            if (text.length > 5) abort.abort();
          }
        } catch (error) {
          if (!abort.signal.aborted) throw error;
        }
        return text;
      }),
    );
    // How many depends on how the requests arrive; that they change nothing is what test/cpu/engine/batching.test.ts is about.
    t.diagnostic(`${await backend.metric('mantis_num_preemptions_total')} preemptions`);
    for (const [index, text] of together.entries()) {
      const alone = await textOf(await send(index));
      assert.equal(text, broken(index) ? alone.slice(0, text.length) : alone, `request ${index}`);
    }
  });

  it('leaves nothing behind', async () => {
    for (let tries = 0; (await backend.metric('mantis_num_requests_running')) > 0 && tries < 200; tries++)
      await sleep(10);
    for (const name of ['num_requests_running', 'num_requests_waiting', 'kv_cache_usage_perc'])
      assert.equal(await backend.metric(`mantis_${name}`), 0, name);
    const [queries, hits] = [
      await backend.metric('mantis_prefix_cache_queries_total'),
      await backend.metric('mantis_prefix_cache_hits_total'),
    ];
    assert.ok(hits > 0 && hits < queries, `${hits} of ${queries} tokens were found`);
    assert.ok((await backend.metric('mantis_prefix_cache_bytes')) > 0);
  });

  it('an aborted request computes nothing more, while others go on', async () => {
    const abort = new AbortController();
    const others = Promise.all([0, 1, 2].map(async (index) => textOf(await send(index))));
    const stream = eventsOf(await send(6, abort.signal), abort.signal);
    while ((await stream.next()).value?.type !== 'delta');
    abort.abort();
    await stream.next().catch(() => {});
    assert.equal((await others).length, 3);
    for (let tries = 0; (await backend.metric('mantis_num_requests_running')) > 0 && tries < 200; tries++)
      await sleep(10);
    const runs = await backend.metric('mantis_decode_runs');
    await sleep(50);
    assert.equal(await backend.metric('mantis_decode_runs'), runs);
  });

  it('answers /health and /metrics while it reads prompts', async () => {
    let isReading = true;
    const reading = Promise.all(Array.from({ length: 12 }, (_, index) => send(index).then(textOf))).finally(() => {
      isReading = false;
    });
    let answers = 0;
    while (isReading) {
      const response = await fetch(`${backend.url}/health`);
      const { status, inFlight } = (await response.json()) as { status: string; inFlight: number };
      assert.equal(status, 'ready');
      assert.ok(inFlight <= 12);
      answers++;
    }
    assert.equal((await reading).length, 12);
    assert.ok(answers > 3, `${answers} answers`);
  });
});
