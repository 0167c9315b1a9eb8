import assert from 'node:assert/strict';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, describe, it } from 'node:test';
import sharp from 'sharp';
import { ModelPool } from '../../../gpu-backend/engine/model-pool.ts';
import { EngineModelService } from '../../../gpu-backend/engine/model-service.ts';
import { capacityFor } from '../../../gpu-backend/engine/scheduler/capacity.ts';
import { DecodePool } from '../../../gpu-backend/vision/pool.ts';
import type { GenerateRequest } from '../../../shared/contract/backend.ts';
import { writeRandomFamily } from '../../fixtures/random-families.ts';

const capacity = capacityFor({ maxRows: 4, kvTokens: 4096 });
/** Features of the largest picture of the tiny Fuyu: 28 rows of 48 floats. The cache holds one such picture. */
const LARGEST_BYTES = 28 * 48 * 4;

const png = (width: number, height: number, background: string) =>
  sharp({ create: { width, height, channels: 3, background } })
    .png()
    .toBuffer();

describe('EngineModelService over models whose slots depend on the picture', () => {
  let dir: string;
  let pool: ModelPool;
  let service: EngineModelService;
  const decoders = new DecodePool();
  before(async () => {
    dir = await mkdtemp(join(tmpdir(), 'mantis-service-'));
    await writeRandomFamily(join(dir, 'fuyu'), 'fuyu');
    await writeRandomFamily(join(dir, 'idefics2'), 'idefics2');
    pool = new ModelPool({
      models: ['fuyu', 'idefics2'].map((id) => ({ id, dir: join(dir, id) })),
      capacity,
      featureCacheBytes: LARGEST_BYTES + 100,
      maxOverlays: 1,
      fetchOverlay: async () => assert.fail('no fine-tune is asked for'),
      onEngineDeath: (error) => assert.fail(error.message),
    });
    service = new EngineModelService(pool, capacity, decoders);
    await pool.start();
  });
  after(async () => {
    await decoders.close();
    await pool.close();
    await rm(dir, { recursive: true, force: true });
  });

  const request = (model: string, images: readonly number[], maxTokens = 6): GenerateRequest => ({
    requestId: `${model} ${images}`,
    tenant: 'a'.repeat(32),
    model,
    messages: [
      {
        role: 'user',
        parts: [
          ...images.map((blob) => ({ type: 'image' as const, blob })),
          { type: 'text', text: 'Compare the first and the second picture.' },
        ],
      },
    ],
    sampling: { maxTokens, temperature: 0, topP: 1, stop: [] },
    deadlineMs: 60_000,
  });

  async function ask(asked: GenerateRequest, blobs: readonly Uint8Array[]) {
    let text = '';
    let counts: { promptTokens: number; imageTokens: number[] } | undefined;
    for await (const event of service.generate(asked, blobs, new AbortController().signal)) {
      if (event.type === 'started') counts = { promptTokens: event.promptTokens, imageTokens: event.imageTokens };
      if (event.type === 'delta') text += event.text;
    }
    return { text, counts };
  }

  it('counts as it generates, before and after it has seen a picture, in any order, beside another model', async () => {
    const blobs = await Promise.all([png(60, 40, '#a33'), png(90, 15, '#3a3'), png(11, 35, '#33a')]);
    const asked = request('fuyu', [0, 2, 1, 0]);
    const unseen = await service.count(asked, blobs);
    // 60 x 40 → 4 rows of 6, 11 x 35 → 4 rows of 2, 90 x 15 → 60 x 10 → 1 row of 6, each with its end.
    assert.deepEqual(unseen.imageTokens, [28, 12, 7, 28]);
    const [first, other, again] = await Promise.all([
      ask(asked, blobs),
      ask(request('idefics2', [1, 0]), blobs),
      ask({ ...asked, requestId: 'again' }, blobs),
    ]);
    assert.deepEqual(first.counts, unseen);
    assert.deepEqual(other.counts?.imageTokens, [4, 4]);
    assert.equal(again.text, first.text);
    assert.deepEqual(await service.count(asked, blobs), unseen);
    assert.equal((await ask({ ...asked, requestId: 'later' }, blobs)).text, first.text);
  });

  it('many who ask about the same new pictures at once have them decoded once', async () => {
    const blobs = await Promise.all([png(60, 40, '#1a2'), png(31, 22, '#2a1')]);
    const { decoded } = (await service.stats()).pictures;
    const asked = Array.from({ length: 10 }, (_, i) => ({ ...request('fuyu', [0, 1]), requestId: `at once ${i}` }));
    const [first, ...others] = await Promise.all(asked.map((one) => ask(one, blobs)));
    for (const other of others) assert.deepEqual(other, first);
    assert.equal((await service.stats()).pictures.decoded, decoded + 2);
    const broken = new TextEncoder().encode('no picture at all');
    const refused = await Promise.allSettled([0, 1].map((blob) => ask(request('fuyu', [blob]), [broken, broken])));
    for (const one of refused)
      assert.match(String(one.status === 'rejected' && one.reason), /messages\[0\]\.parts\[0\]: /);
  });

  it('a refusal after pictures were looked up lets go of them', async () => {
    const [first, second] = await Promise.all([png(60, 40, '#111'), png(60, 40, '#eee')]);
    await ask(request('fuyu', [0]), [first]);
    await assert.rejects(ask(request('fuyu', [0], 5000), [first]), /context is 512 tokens.*28 image/);
    const broken = new TextEncoder().encode('no picture');
    await assert.rejects(ask(request('fuyu', [0, 1]), [first, broken]), /messages\[0\]\.parts\[1\]: /);
    // Were the first one still pinned, it would be the one to stay.
    await ask(request('fuyu', [0]), [second]);
    const { hits, entries } = (await service.stats()).cache;
    assert.equal(entries, 1);
    await ask(request('fuyu', [0]), [second]);
    assert.ok((await service.stats()).cache.hits > hits, 'the second picture is found again');
  });
});
