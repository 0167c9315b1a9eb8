/** An adapter beside the base's weights computes what the merged one does, and leaves the base as it was. */
import assert from 'node:assert/strict';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, describe, it } from 'node:test';
import { type Loaded, ModelLoader } from '../../../gpu-backend/engine/load-model.ts';
import { writeAdapter } from '../../../gpu-backend/models/adapter.ts';
import { loadCheckpoint } from '../../../gpu-backend/models/load.ts';
import { initAdapter } from '../../../gpu-backend/models/presets.ts';
import { LLAMA_LINEARS, type LoraSpec } from '../../../gpu-backend/models/weights.ts';
import { writeRandomNano } from '../../fixtures/random-nano.ts';

const TOKENS = 7;

/** Logits [TOKENS, V] of a prompt without a past. */
async function logits({ runner, adapter }: Loaded): Promise<Float32Array> {
  const { layers, kvHeads, headDim } = runner.kv;
  const nothing = () => new Float32Array(kvHeads * headDim);
  const past = Array.from({ length: layers }, () => ({ k: nothing(), v: nothing(), kScale: null, vScale: null }));
  const result = await runner.forward({
    rows: 1,
    newTokens: TOKENS,
    pastTokens: 1,
    ids_BS: Int32Array.from({ length: TOKENS }, (_, i) => 20 + 3 * i),
    positions_BS: Int32Array.from({ length: TOKENS }, (_, i) => i),
    imageRows: [],
    past,
    pastBias_B11T: Float32Array.of(-1e9),
    isPastEmpty: true,
    adapters: [adapter],
    logitRows_R: Int32Array.from({ length: TOKENS }, (_, i) => i),
  });
  return result.logits_RV.slice();
}

const distance = (a: Float32Array, b: Float32Array): number =>
  a.reduce((most, x, i) => Math.max(most, Math.abs(x - (b[i] ?? Number.NaN))), 0);

describe('adapters, merged and unmerged', () => {
  let dir: string;
  const specs: Readonly<Record<string, LoraSpec>> = {
    lora: { r: 4, alpha: 8, targets: [...LLAMA_LINEARS] },
    narrow: { r: 2, alpha: 8, targets: ['q_proj', 'down_proj'] },
    dora: { r: 4, alpha: 8, targets: [...LLAMA_LINEARS], dora: true },
  };
  before(async () => {
    dir = await mkdtemp(join(tmpdir(), 'mantis-adapter-mode-'));
    await writeRandomNano(join(dir, 'nano'));
    const { config, weights: base } = loadCheckpoint(join(dir, 'nano'));
    for (const [name, lora] of Object.entries(specs)) {
      const weights = initAdapter(config, lora, 3, base);
      // B starts at zero, which changes nothing.
      for (const [tensor, { data }] of weights)
        if (tensor.endsWith('.lora_B.weight'))
          (data as Float32Array).forEach((_, at, all) => (all[at] = 0.3 * Math.sin(at)));
      await writeAdapter(join(dir, name), { lora, weights });
    }
  });
  after(async () => {
    await rm(dir, { recursive: true, force: true });
  });

  for (const name of Object.keys(specs))
    it(`${name}: the same logits either way, and other ones than the base's`, async () => {
      const loader = new ModelLoader();
      const load = (mode: 'merged' | 'unmerged' | 'auto', overlay: string | null = join(dir, name)) =>
        loader.load(join(dir, 'nano'), overlay, { threads: 1, kv: 'f32' }, mode).then(logits);
      const [base, merged, unmerged, auto] = [
        await load('auto', null),
        await load('merged'),
        await load('unmerged'),
        await load('auto'),
      ];
      assert.ok(distance(base, merged) > 0.05, `the adapter changes logits by ${distance(base, merged)} only`);
      assert.ok(distance(merged, unmerged) < 1e-4, `merged and unmerged differ by ${distance(merged, unmerged)}`);
      // By default LoRA stays beside and DoRA is folded in: bit for bit the one or the other.
      assert.deepEqual(auto, specs[name]?.dora === true ? merged : unmerged);
      assert.deepEqual(await load('auto', null), base);
    });
});
