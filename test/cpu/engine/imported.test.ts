import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, describe, it } from 'node:test';
import { ChoiceScorer } from '../../../gpu-backend/engine/choice-scorer.ts';
import { ModelLoader } from '../../../gpu-backend/engine/load-model.ts';
import { ModelPool } from '../../../gpu-backend/engine/model-pool.ts';
import { EngineModelService } from '../../../gpu-backend/engine/model-service.ts';
import { capacityFor } from '../../../gpu-backend/engine/scheduler/capacity.ts';
import { importCheckpoint } from '../../../gpu-backend/models/import.ts';
import { loadCheckpoint } from '../../../gpu-backend/models/load.ts';
import { chooseStorage } from '../../../gpu-backend/models/storage.ts';
import { DecodePool } from '../../../gpu-backend/vision/pool.ts';
import { preprocessImage } from '../../../gpu-backend/vision/preprocess.ts';
import type { GenerateRequest } from '../../../shared/contract/backend.ts';
import { writeRandomNano } from '../../fixtures/random-nano.ts';

const capacity = capacityFor({ maxRows: 4, kvTokens: 4096 });
const pictures = ['blue-triangle.png', 'yellow-circle.png', 'two-black-squares.png'].map((name) =>
  readFileSync(join(import.meta.dirname, '../../fixtures/pictures', name)),
);

describe('imported models', () => {
  let dir: string;
  let pool: ModelPool;
  let service: EngineModelService;
  const decoders = new DecodePool();
  before(async () => {
    dir = await mkdtemp(join(tmpdir(), 'mantis-imported-'));
    const from = join(dir, 'nano');
    await writeRandomNano(from);
    for (const precision of ['f32', 'int8', 'int4'] as const)
      await importCheckpoint({ from, out: join(dir, precision), storage: chooseStorage({ precision, blockSize: 16 }) });
    pool = new ModelPool({
      models: ['nano', 'f32', 'int8', 'int4'].map((id) => ({ id, dir: join(dir, id) })),
      capacity,
      featureCacheBytes: 1 << 20,
      maxOverlays: 2,
      fetchOverlay: async () => ({ base: 'int8', dir: join(dir, 'nano'), key: 'tuned' }),
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

  async function ask(model: string, images: number): Promise<string> {
    const request: GenerateRequest = {
      requestId: `${model} ${images}`,
      model,
      messages: [
        {
          role: 'user',
          parts: [
            ...pictures.slice(0, images).map((_, blob) => ({ type: 'image' as const, blob })),
            { type: 'text', text: 'How many blue squares are there?' },
          ],
        },
      ],
      sampling: { maxTokens: 24, temperature: 0, topP: 1, stop: [] },
      deadlineMs: 60_000,
    };
    let text = '';
    for await (const event of service.generate(request, pictures.slice(0, images), new AbortController().signal))
      if (event.type === 'delta') text += event.text;
    return text;
  }

  it('answer with and without pictures, alone and in a batch, in f32 as the checkpoint does', async () => {
    for (const images of [0, 1, 3]) {
      const answer = await ask('nano', images);
      assert.ok(answer.length > 0);
      assert.equal(await ask('f32', images), answer);
    }
    for (const model of ['int8', 'int4']) {
      const alone = [await ask(model, 0), await ask(model, 1), await ask(model, 3)];
      assert.ok(alone.every((answer) => answer.length > 0));
      assert.deepEqual(await Promise.all([0, 1, 3].map((images) => ask(model, images))), alone);
    }
  });

  it('say that they take no fine-tunes, and refuse one', async () => {
    for (const { id, capabilities } of service.cards())
      assert.deepEqual(capabilities.fineTune, id === 'nano' ? ['projector', 'lora', 'full'] : []);
    await assert.rejects(
      ask('ft:x', 0),
      /ft:x was tuned from int8, which is an imported model here and takes no fine-tunes/,
    );
    await assert.rejects(
      new ModelLoader().load(join(dir, 'int8'), join(dir, 'nano'), { threads: 1, kv: 'f32' }),
      /takes no fine-tunes: serve the checkpoint/,
    );
    assert.throws(() => loadCheckpoint(join(dir, 'int4')), /is an imported model, for serving only/);
  });

  it('are evaluated like others', async () => {
    const scores = async (model: string): Promise<number[]> => {
      const scorer = await ChoiceScorer.create(join(dir, model), null, 1);
      const images = pictures.map((bytes, i) => ({
        key: String(i),
        picture: () => preprocessImage(bytes, scorer.front.recipe),
      }));
      const choices = ['true', 'false', 'There are two.'];
      const questions = [
        { parts: [{ image: 0 }, { image: 2 }, 'Same?'], images, choices },
        { parts: ['No picture?'], images: [], choices },
      ];
      return (await scorer.score(questions)).flat();
    };
    const [want, f32, int8] = [await scores('nano'), await scores('f32'), await scores('int8')];
    want.forEach((score, i) => {
      assert.ok(Math.abs(score - (f32[i] ?? 0)) < 1e-3, `f32: ${f32[i]} for ${score}`);
      assert.ok(Math.abs(score - (int8[i] ?? 0)) < 0.5, `int8: ${int8[i]} for ${score}`);
    });
  });
});
