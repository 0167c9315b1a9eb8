import assert from 'node:assert/strict';
import { existsSync } from 'node:fs';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import test from 'node:test';
import { familyOf } from '../../../gpu-backend/models/family.ts';
import { initAdapter } from '../../../gpu-backend/models/presets.ts';
import { type TrainOptions, trainGraph } from '../../../gpu-backend/models/train-graph.ts';
import {
  batchFeeds,
  readReferenceCase,
  supervisionFeeds,
  weightFeeds,
} from '../../../gpu-backend/models/verify-case.ts';
import { causalBias } from '../../../gpu-backend/models/vlm.ts';
import { f32, ints, Session, type Tensor } from '../../../gpu-backend/runtime/session.ts';
import { collate, supervisedWeight } from '../../../gpu-backend/train/batch.ts';
import { packedBatches } from '../../../gpu-backend/train/packing.ts';
import { createTrainSession } from '../../../gpu-backend/train/train-session.ts';
import { FAMILIES } from '../../fixtures/random-families.ts';
import { tinySamples } from './tiny.ts';

type Outputs = Readonly<Record<string, Tensor>>;

/** Largest difference of any output, as a share of its tensor's largest value. Logits come in another order of rows. */
function worstDifference(got: Outputs, want: Outputs): { name: string; error: number } {
  let worst = { name: '', error: 0 };
  for (const [name, { data }] of Object.entries(want)) {
    // The bias of a key moves all scores of a query alike: its gradient is zero but for rounding.
    if (name === 'logits' || name.endsWith('k_proj.bias')) continue;
    const other = got[name]?.data as Float32Array;
    let [difference, largest] = [0, 1e-12];
    for (const [i, value] of (data as Float32Array).entries()) {
      difference = Math.max(difference, Math.abs((other[i] ?? Number.NaN) - value));
      largest = Math.max(largest, Math.abs(value));
    }
    if (!(difference / largest <= worst.error)) worst = { name, error: difference / largest };
  }
  return worst;
}

function added(parts: readonly Outputs[]): Outputs {
  const sums: Record<string, Tensor> = {};
  for (const part of parts)
    for (const [name, { data, shape }] of Object.entries(part)) {
      if (name === 'logits') continue;
      const before = sums[name]?.data as Float32Array | undefined;
      sums[name] = f32(
        (data as Float32Array).map((v, i) => v + (before?.[i] ?? 0)),
        shape,
      );
    }
  return sums;
}

const BLOCKS = [2, 1, 1];
const LORA = { r: 3, alpha: 6 };

for (const family of FAMILIES)
  test(`${family}: packed rows have the loss and gradients of padded ones`, async (t) => {
    const dir = await mkdtemp(join(tmpdir(), 'mantis-packing-'));
    t.after(() => rm(dir, { recursive: true, force: true }));
    const { base, samples } = await tinySamples(dir, 9, family);
    const { config } = base;
    assert.ok(new Set(samples.map((s) => s.layout.ids.length)).size > 2, 'examples differ in length');
    const frozen = familyOf(config).hasTower ? ('towerFeatures' as const) : ('pixels' as const);
    const lora = { ...LORA, targets: familyOf(config).decoderLinears };
    const cases: TrainOptions[] = [
      { train: 'projector', images: frozen },
      { train: 'full', images: frozen },
      { train: 'full', images: frozen, checkpointing: 'layer' },
      { train: 'lora', images: frozen, lora },
      { train: 'lora', images: frozen, lora: { ...lora, dora: true } },
    ];
    for (const options of cases) {
      const outputs = async (packed: boolean): Promise<Outputs> => {
        const { graph, session, feeds } = await createTrainSession({
          config,
          options: packed ? { ...options, packedGroups: BLOCKS } : options,
          threads: 1,
        });
        const adapter = options.lora === undefined ? undefined : initAdapter(config, options.lora, 7, base.weights);
        const weights: Record<string, Tensor> = {};
        for (const name of graph.weights.keys()) {
          const tensor = base.weights.get(name) ?? adapter?.get(name);
          assert.ok(tensor !== undefined, name);
          // B starts at zero, which would hide what goes wrong with A.
          weights[name] = name.endsWith('.lora_B.weight')
            ? f32(
                (tensor.data as Float32Array).map((_, i) => 0.02 * Math.sin(i)),
                tensor.shape,
              )
            : tensor;
        }
        const batches = packed
          ? packedBatches(samples, { tokens: 150, images: 7 }, BLOCKS)
          : [collate(samples, { padId: 0, multiple: 1, totalWeight: supervisedWeight(samples) })];
        if (packed) {
          assert.ok(batches.length > 1 && batches.some(({ packed: p }) => (p?.groups[0]?.count ?? 0) > 0));
          assert.equal(
            batches.reduce((sum, b) => sum + b.length, 0),
            batches.reduce((sum, b) => sum + b.tokens, 0),
          );
        }
        const results: Outputs[] = [];
        for (const batch of batches) results.push(await session.run({ ...weights, ...feeds(batch) }));
        await session.release();
        return added(results);
      };
      const { name, error } = worstDifference(await outputs(true), await outputs(false));
      assert.ok(error <= 1e-5, `${options.train} ${JSON.stringify(options.lora ?? {})}: ${name} differs by ${error}`);
    }
  });

const ORACLES = join(import.meta.dirname, '../../../../shared/oracles');

for (const name of ['mantis-siglip', 'mantis-clip', 'mantis-idefics2', 'mantis-fuyu']) {
  const skip = existsSync(join(ORACLES, name, 'case.json')) ? false : `there is no reference checkpoint ${name}`;
  test(`${name}: a reference checkpoint's batch, packed`, { skip }, async () => {
    const reference = readReferenceCase(join(ORACLES, name));
    const { rows, length, ids, attended, supervised, pictures } = reference;
    const config = pictures.config;
    const base = { train: 'full', images: 'pixels' } as const;
    const padded = trainGraph(config, { ...base, keyBias: true });
    const shared = weightFeeds(padded.weights, reference.checkpoint.weights);
    const run = async (graph: (typeof padded)['graph'], feeds: Record<string, Tensor>): Promise<Outputs> => {
      const session = await Session.create(graph);
      const results = await session.run({ ...shared, ...feeds });
      await session.release();
      return results;
    };
    const want = await run(padded.graph, { ...batchFeeds(reference), ...supervisionFeeds(reference) });

    // Padding is taken out; each conversation's own positions stand one behind the other, in one group.
    const kept = [...ids.keys()].filter((i) => attended[i] === 1);
    const packedRow = new Map(kept.map((i, row) => [i, row]));
    const first = Array.from({ length: rows }, (_, r) => kept.find((i) => Math.floor(i / length) === r) ?? 0);
    const groupRows = new Int32Array(rows * length);
    const places = new Int32Array(kept.length);
    for (const [row, i] of kept.entries()) {
      const r = Math.floor(i / length);
      const place = r * length + (i - (first[r] as number));
      groupRows[place] = row;
      places[row] = place;
    }
    const at = (flat: readonly number[]) => flat.map((i) => packedRow.get(i) as number);
    const got = await run(trainGraph(config, { ...base, packedGroups: [1] }).graph, {
      ids: ints(
        kept.map((i) => ids[i] as number),
        [1, kept.length],
      ),
      places: ints(places, [kept.length]),
      'group_rows.0': ints(groupRows, [rows * length]),
      'group_positions.0': ints(
        Int32Array.from({ length: rows * length }, (_, i) => i % length),
        [rows, length],
      ),
      'group_bias.0': f32(causalBias(length, 1, config.text.slidingWindow), [length, length]),
      ...pictures.feeds,
      image_rows: ints(at(pictures.slotRows), [pictures.slotRows.length]),
      ...supervisionFeeds({ ...reference, supervised: { ...supervised, rows: at(supervised.rows) } }),
    });
    const { name: worst, error } = worstDifference(got, want);
    assert.ok(error <= 1e-5, `${worst} differs by ${error}`);
    const recorded = reference.file.train?.full?.loss[0];
    if (recorded !== undefined)
      assert.ok(Math.abs(Number(got.loss?.data[0]) / recorded - 1) < 1e-5, `${got.loss?.data[0]} and ${recorded}`);
  });
}
