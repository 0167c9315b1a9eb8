import assert from 'node:assert/strict';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, test } from 'node:test';
import { decodeGraph, hasPastWindow } from '../../gpu-backend/models/decode.ts';
import { emptyPast } from '../../gpu-backend/models/empty-past.ts';
import { familyOf, type Picture } from '../../gpu-backend/models/family.ts';
import { loadCheckpoint } from '../../gpu-backend/models/load.ts';
import { weightFeeds } from '../../gpu-backend/models/verify-case.ts';
import { causalBias, visionGraph } from '../../gpu-backend/models/vlm.ts';
import { randomSource } from '../../gpu-backend/runtime/conformance-operands.ts';
import type { Placement } from '../../gpu-backend/runtime/device.ts';
import { f32, ints, Session, type Tensor } from '../../gpu-backend/runtime/session.ts';
import { FAMILIES, writeRandomFamily } from '../fixtures/random-families.ts';
import { difference, TOLERANCE, testDevices } from './device.ts';

const NANO = join(import.meta.dirname, '../../gpu-backend/models/nano');
const NEW_TOKENS = 4;

const dir = mkdtempSync(join(tmpdir(), 'mantis-gpu-'));
after(() => rmSync(dir, { recursive: true }));
for (const family of FAMILIES) await writeRandomFamily(join(dir, family), family);

/** Sizes as each recipe may leave pictures. */
const PICTURES: Readonly<Record<string, readonly (readonly [number, number])[]>> = {
  nano: [
    [100, 100],
    [100, 100],
  ],
  siglip: [
    [32, 32],
    [32, 32],
  ],
  clip: [[32, 32]],
  idefics2: [
    [48, 40],
    [24, 56],
  ],
  fuyu: [
    [40, 20],
    [60, 40],
  ],
};

function pictures(name: string): Picture[] {
  const random = randomSource(5);
  return (PICTURES[name] ?? []).map(([width, height]) => ({
    width,
    height,
    pixels_CHW: Float32Array.from({ length: 3 * width * height }, () => 2 * random() - 1),
  }));
}

type Results = Readonly<Record<string, Tensor>>;

/**
 * Pictures through the encoder, a prompt with them through the decoder, then tokens one by one over the growing cache.
 * @param forced ids to go on with, so that a comparison does not end at the first near-tie; else the likeliest
 * @returns what every run gave, and the ids
 */
async function generate(name: string, folder: string, placement?: Placement, forced?: readonly number[]) {
  const { config, weights } = loadCheckpoint(folder);
  const { kvHeads, headDim, layers, hidden, slidingWindow } = config.text;
  const options = placement === undefined ? {} : { placement };
  const family = familyOf(config);
  const shown = pictures(name);
  const runs: Results[] = [];

  const vision = visionGraph(config);
  const encoder = await Session.create(vision.graph, options);
  const features = await encoder.run({
    ...weightFeeds(vision.weights, weights),
    ...family.pictureFeeds(config, shown),
  });
  await encoder.release();
  runs.push(features);

  const prompt: number[] = [1];
  const imageRows: number[] = [];
  for (const picture of shown) {
    for (const id of family.slotIds(config, picture)) {
      imageRows.push(prompt.length);
      prompt.push(id);
    }
    prompt.push(3, 4);
  }
  const features_FD = features.image_features?.data as Float32Array;
  assert.equal(features_FD.length, imageRows.length * hidden);

  const steps = { images: decodeGraph(config, { images: true }), text: decodeGraph(config, { images: false }) };
  const sessions = {
    images: await Session.create(steps.images.graph, options),
    text: await Session.create(steps.text.graph, options),
  };
  const chosen: number[] = [];
  let past = 0;
  let cache: Record<string, Tensor> = emptyPast(config, 1);
  for (let step = 0; step <= NEW_TOKENS; step++) {
    // The graph that takes pictures must take a step without any as well: an imported model has no other.
    const kind = step % 2 === 0 ? 'images' : 'text';
    const rowsNow = step === 0 ? imageRows : [];
    const ids = step === 0 ? prompt : [chosen.at(-1) ?? 0];
    const S = ids.length;
    const feeds: Record<string, Tensor> = {
      ...weightFeeds(steps[kind].weights, weights),
      ...cache,
      ids: ints(ids, [1, S]),
      positions: ints(
        Array.from(ids, (_, i) => past + i),
        [1, S],
      ),
      causal_bias: f32(causalBias(S, 1, slidingWindow), [S, S]),
      rows: ints([S - 1], [1]),
    };
    if (kind === 'images') {
      feeds.image_features = f32(features_FD.subarray(0, rowsNow.length * hidden), [rowsNow.length, hidden]);
      feeds.image_rows = ints(rowsNow, [rowsNow.length]);
    }
    const results = await sessions[kind].run(feeds);
    runs.push(results);
    const logits = results.logits?.data as Float32Array;
    chosen.push(forced?.[step] ?? logits.indexOf(Math.max(...logits)));
    const next: Record<string, Tensor> = { past_bias: f32(new Float32Array(past + S), [1, 1, 1, past + S]) };
    for (let layer = 0; layer < layers; layer++)
      for (const kv of ['k', 'v'] as const) {
        const fresh = results[`new_${kv}_${layer}`]?.data as Float32Array;
        const stored = past === 0 ? new Float32Array() : (cache[`past_${kv}_${layer}`]?.data as Float32Array);
        const joined = new Float32Array(stored.length + fresh.length);
        for (let head = 0; head < kvHeads; head++) {
          joined.set(stored.subarray(head * past * headDim, (head + 1) * past * headDim), head * (past + S) * headDim);
          joined.set(
            fresh.subarray(head * S * headDim, (head + 1) * S * headDim),
            (head * (past + S) + past) * headDim,
          );
        }
        next[`past_${kv}_${layer}`] = f32(joined, [1, kvHeads, past + S, headDim]);
      }
    past += S;
    if (hasPastWindow(config))
      next.past_positions = ints(
        Array.from({ length: past }, (_, i) => i),
        [1, past],
      );
    cache = next;
  }
  await sessions.images.release();
  await sessions.text.release();
  return { runs, chosen };
}

for (const { device, placement, skip } of await testDevices()) {
  for (const name of ['nano', ...FAMILIES]) {
    test(`${device}: ${name} sees pictures and generates as on the processor`, { skip }, async () => {
      const folder = name === 'nano' ? NANO : join(dir, name);
      const want = await generate(name, folder);
      const got = await generate(name, folder, placement, want.chosen);
      let worst = 0;
      want.runs.forEach((results, run) => {
        for (const [output, tensor] of Object.entries(results)) {
          const error = difference(tensor, got.runs[run]?.[output]);
          worst = Math.max(worst, error);
          assert.ok(error < TOLERANCE[device], `run ${run}, ${output}: ${error}`);
        }
      });
      console.log(
        `# ${device} ${name}: ${want.runs.length} runs, largest relative difference ${worst.toExponential(1)}`,
      );
    });
  }
}
