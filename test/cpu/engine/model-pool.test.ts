import assert from 'node:assert/strict';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, describe, it } from 'node:test';
import { ModelPool } from '../../../gpu-backend/engine/model-pool.ts';
import { EngineModelService } from '../../../gpu-backend/engine/model-service.ts';
import { capacityFor } from '../../../gpu-backend/engine/scheduler/capacity.ts';
import { writeAdapter } from '../../../gpu-backend/models/adapter.ts';
import { readConfig } from '../../../gpu-backend/models/load.ts';
import { initAdapter } from '../../../gpu-backend/models/presets.ts';
import { LLAMA_LINEARS } from '../../../gpu-backend/models/weights.ts';
import { DecodePool } from '../../../gpu-backend/vision/pool.ts';
import type { GenerateEvent, GenerateRequest } from '../../../shared/contract/backend.ts';
import { writeRandomNano } from '../../fixtures/random-nano.ts';

const TUNED = 6;
const capacity = capacityFor({ maxRows: 4, kvTokens: 4096 });

describe('ModelPool', () => {
  let dir: string;
  let pool: ModelPool;
  let service: EngineModelService;
  const decoders = new DecodePool();
  before(async () => {
    dir = await mkdtemp(join(tmpdir(), 'mantis-pool-'));
    await writeRandomNano(join(dir, 'nano'));
    const config = readConfig(join(dir, 'nano'));
    const lora = { r: 4, alpha: 8, targets: [...LLAMA_LINEARS] };
    for (let i = 0; i < TUNED; i++) {
      const weights = initAdapter(config, lora, i);
      // B starts at zero, which changes nothing: give it values, so that every adapter is a model of its own.
      for (const [name, { data }] of weights)
        if (name.endsWith('.lora_B.weight'))
          (data as Float32Array).forEach((_, at, all) => (all[at] = Math.sin(at + i)));
      await writeAdapter(join(dir, `ft${i}`), { lora, weights });
    }
    pool = new ModelPool({
      models: [
        { id: 'nano', dir: join(dir, 'nano') },
        { id: 'adapted', dir: join(dir, 'nano'), adapterDir: join(dir, 'ft2') },
      ],
      capacity,
      featureCacheBytes: 1 << 20,
      maxOverlays: 2,
      fetchOverlay: async ({ model }) => ({ base: 'nano', dir: join(dir, model.slice(3)), key: model }),
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

  const request = (model: string): GenerateRequest => ({
    requestId: model,
    model,
    messages: [{ role: 'user', parts: [{ type: 'text', text: 'How many blue squares are there?' }] }],
    sampling: { maxTokens: 16, temperature: 0, topP: 1, stop: [] },
    deadlineMs: 60_000,
  });
  async function ask(model: string): Promise<string> {
    let text = '';
    for await (const event of service.generate(
      request(model),
      [],
      new AbortController().signal,
    ) as AsyncIterable<GenerateEvent>)
      if (event.type === 'delta') text += event.text;
    return text;
  }

  it('fine-tunes answer for themselves, leave the base alone, and come and go within their limit', async () => {
    const names = Array.from({ length: TUNED }, (_, i) => `ft:ft${i}`);
    const base = await ask('nano');
    const alone: string[] = [];
    for (const name of names) alone.push(await ask(name));
    assert.equal(new Set([base, ...alone]).size, TUNED + 1, 'seven models, seven answers');
    // Two rounds at once: every model is loaded again while others answer.
    const together = await Promise.all([...names, 'nano', ...names].map(ask));
    assert.deepEqual(together, [...alone, base, ...alone]);
    for (const name of names) await ask(name);
    const { models } = await service.stats();
    assert.ok(models.length <= 2 + 3, `${models.length} models are loaded`);
  });

  it('a model configured with an adapter answers as the fine-tune does, is known apart, and is no base for jobs', async () => {
    assert.equal(await ask('adapted'), await ask('ft:ft2'));
    const [nano, adapted] = pool.cards();
    assert.notEqual(adapted?.digest, nano?.digest);
    assert.deepEqual(adapted?.capabilities.fineTune, []);
  });

  it('an adapter that does not fit is refused at start with both folders', async () => {
    const start = async (adapterDir: string): Promise<void> => {
      const other = new ModelPool({
        models: [{ id: 'odd', dir: join(dir, 'nano'), adapterDir }],
        capacity,
        featureCacheBytes: 0,
        maxOverlays: 0,
        fetchOverlay: () => Promise.reject(new Error('none here')),
        onEngineDeath: () => {},
      });
      await other.start().finally(() => other.close());
    };
    const foreign = join(import.meta.dirname, '../../fixtures/checkpoints/tiny-siglip-lora');
    await assert.rejects(
      start(foreign),
      /odd in .*nano with the adapter .*tiny-siglip-lora cannot be served: .*(base model|does not fit)/,
    );
    await assert.rejects(start(join(dir, 'nano')), /expected a PEFT adapter folder .*found no .*adapter_config\.json/);
  });

  it('an unknown model is refused with the names there are', async () => {
    await assert.rejects(ask('mantis-giga'), /model: expected one of nano, adapted, received "mantis-giga"/);
  });
});
