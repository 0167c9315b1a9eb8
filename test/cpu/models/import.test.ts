import assert from 'node:assert/strict';
import {
  cpSync,
  existsSync,
  mkdtempSync,
  readFileSync,
  rmSync,
  truncateSync,
  utimesSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, test } from 'node:test';
import { sha256File } from '../../../gpu-backend/io/digest.ts';
import { readSafetensors } from '../../../gpu-backend/io/safetensors.ts';
import { writeSafetensors } from '../../../gpu-backend/io/safetensors-write.ts';
import { decodeGraph } from '../../../gpu-backend/models/decode.ts';
import { emptyPast } from '../../../gpu-backend/models/empty-past.ts';
import { exportCheckpoint } from '../../../gpu-backend/models/export.ts';
import { importCheckpoint } from '../../../gpu-backend/models/import.ts';
import { loadCheckpoint } from '../../../gpu-backend/models/load.ts';
import { GRAPH_NAMES, readManifest } from '../../../gpu-backend/models/manifest.ts';
import { chooseStorage, type Storage } from '../../../gpu-backend/models/storage.ts';
import {
  maxAbsolute,
  maxAbsoluteDifference,
  type ReferenceCase,
  readReferenceCase,
  weightFeeds,
} from '../../../gpu-backend/models/verify-case.ts';
import { floats } from '../../../gpu-backend/models/verify-decode.ts';
import { causalBias, type ModelGraph, visionGraph } from '../../../gpu-backend/models/vlm.ts';
import { f32, ints, Session, type Tensor } from '../../../gpu-backend/runtime/session.ts';

const fixtures = join(import.meta.dirname, '../../fixtures/checkpoints');
const scratch = mkdtempSync(join(tmpdir(), 'mantis-import-'));
after(() => rmSync(scratch, { recursive: true, force: true }));

/** The case's first row as one prefill over an empty cache, its pictures' features given. */
function prefillFeeds(
  { checkpoint, ids, length, pictures }: ReferenceCase,
  features: Float32Array,
): Record<string, Tensor> {
  const { config } = checkpoint;
  const { hidden, slidingWindow } = config.text;
  const slots = pictures.slotRows.filter((row) => row < length);
  const feeds: Record<string, Tensor> = {
    ids: ints(ids.subarray(0, length), [1, length]),
    positions: ints(
      Array.from({ length }, (_, i) => i),
      [1, length],
    ),
    causal_bias: f32(causalBias(length, 1, slidingWindow), [length, length]),
    ...emptyPast(config, 1),
    rows: ints([0, length - 1], [2]),
    image_features: f32(features.subarray(0, slots.length * hidden), [slots.length, hidden]),
    image_rows: ints(slots, [slots.length]),
  };
  return feeds;
}

interface Results {
  readonly features: Float32Array;
  readonly logits: Float32Array;
  readonly textLogits: Float32Array;
}

async function results(
  reference: ReferenceCase,
  open: (part: 'vision' | 'decode') => Promise<{ session: Session; weights: Record<string, Tensor> }>,
): Promise<Results> {
  const [vision, decode] = [await open('vision'), await open('decode')];
  const seen = await vision.session.run({ ...vision.weights, ...reference.pictures.feeds });
  const features = floats(seen, 'image_features');
  const feeds = { ...decode.weights, ...prefillFeeds(reference, features) };
  const logits = floats(await decode.session.run(feeds), 'logits');
  const none = {
    image_features: f32(new Float32Array(0), [0, reference.checkpoint.config.text.hidden]),
    image_rows: ints([], [0]),
  };
  const textLogits = floats(await decode.session.run({ ...feeds, ...none }), 'logits');
  await Promise.all([vision, decode].map(({ session }) => session.release()));
  return { features, logits, textLogits };
}

const imported = (dir: string, reference: ReferenceCase): Promise<Results> =>
  results(reference, async (part) => ({
    session: await Session.open(join(dir, GRAPH_NAMES[part]), { foldConstants: true }),
    weights: {},
  }));

/** The same graphs in f32 with the weights of a checkpoint folder as inputs. */
function original(dir: string, reference: ReferenceCase): Promise<Results> {
  const { config } = reference.checkpoint;
  const { weights } = loadCheckpoint(dir);
  const graphs: Record<'vision' | 'decode', ModelGraph> = {
    vision: visionGraph(config),
    decode: decodeGraph(config, { images: true }),
  };
  return results(reference, async (part) => ({
    session: await Session.create(graphs[part].graph),
    weights: weightFeeds(graphs[part].weights, weights),
  }));
}

const STORAGES: readonly (readonly [string, Storage, number])[] = [
  ['f32', chooseStorage({ precision: 'f32' }), 1e-6],
  ['f16', chooseStorage({ precision: 'f16' }), 1e-6],
  // The kernels round activations to int8, in blocks.
  ['int8', chooseStorage({ precision: 'int8', blockSize: 32 }), 0.03],
  ['int4', chooseStorage({ precision: 'int4', vision: 'int4', projector: 'int4', blockSize: 16 }), 0.03],
  ['mixed', chooseStorage({ precision: 'f16', decoder: 'int4', vision: 'int8', head: 'f32' }), 0.03],
];

// One family in every precision, every family in a mixture of all.
for (const name of ['tiny-siglip', 'tiny-clip', 'tiny-idefics2', 'tiny-fuyu'])
  for (const [kind, storage, tolerance] of name === 'tiny-siglip' ? STORAGES : STORAGES.slice(-1))
    test(`${name} imported as ${kind} gives what its exported weights give`, async () => {
      const from = join(fixtures, name);
      const [out, back] = [join(scratch, `${name}-${kind}`), join(scratch, `${name}-${kind}-back`)];
      const { manifest, outcome } = await importCheckpoint({ from, out, storage });
      assert.equal(outcome, 'imported');
      assert.deepEqual(readManifest(out), manifest);
      for (const file of manifest.files) assert.equal(await sha256File(join(out, file.name)), file.sha256, file.name);
      const { dequantized } = await exportCheckpoint({ from: out, out: back, dtype: 'f32' });
      assert.equal(dequantized > 0, kind !== 'f32' && kind !== 'f16');
      const reference = readReferenceCase(from);
      const [got, want] = [await imported(out, reference), await original(back, reference)];
      for (const key of ['features', 'logits', 'textLogits'] as const) {
        const error = maxAbsoluteDifference(got[key], want[key]) / maxAbsolute(want[key]);
        assert.ok(error <= tolerance, `${key}: relative error ${error}`);
      }
      if (kind === 'f32') assert.deepEqual(loadCheckpoint(back).weights, loadCheckpoint(from).weights);
    });

test('an import is repeated only where something changed, and never overwrites', async () => {
  const from = join(scratch, 'source');
  cpSync(join(fixtures, 'tiny-siglip'), from, { recursive: true });
  const out = join(scratch, 'repeated');
  const storage = chooseStorage({ precision: 'int8' });
  await importCheckpoint({ from, out, storage });
  assert.equal((await importCheckpoint({ from, out, storage })).outcome, 'kept');
  const later = new Date(Date.now() + 5000);
  utimesSync(join(from, 'model.safetensors'), later, later);
  await assert.rejects(importCheckpoint({ from, out, storage }), /exists and is not this import/);
  await assert.rejects(importCheckpoint({ from, out, storage: chooseStorage({}) }), /exists and is not this import/);
  await assert.rejects(
    importCheckpoint({ from: out, out: `${out}2`, storage }),
    /is an imported model, for serving only: use the checkpoint it was imported from/,
  );
  truncateSync(join(out, 'model.safetensors'), 100);
  assert.throws(
    () => readManifest(out),
    /model\.safetensors should have \d+ bytes and has 100: import the model again/,
  );
});

test('an interrupted import leaves no folder, and the next one goes on with the same bytes', async () => {
  const from = join(fixtures, 'tiny-siglip');
  const storage = chooseStorage({ precision: 'int4' });
  const whole = join(scratch, 'whole');
  const { manifest } = await importCheckpoint({ from, out: whole, storage });
  const out = join(scratch, 'interrupted');
  const stop = new AbortController();
  let pieces = 0;
  await assert.rejects(
    importCheckpoint({
      from,
      out,
      storage,
      syncEveryBytes: 1,
      signal: stop.signal,
      onProgress: () => {
        if (++pieces === 20) stop.abort(new Error('stopped'));
      },
    }),
    /stopped/,
  );
  assert.ok(!existsSync(out));
  // A crash in the middle of a tensor: more bytes than the journal knows of.
  writeFileSync(
    `${out}.partial/model.safetensors`,
    Buffer.concat([readFileSync(`${out}.partial/model.safetensors`), Buffer.alloc(999, 7)]),
  );
  const progress: number[] = [];
  const again = await importCheckpoint({ from, out, storage, onProgress: (done) => progress.push(done) });
  assert.equal(again.outcome, 'continued');
  assert.ok(progress.length > 0 && progress.length < manifest.files.length + 200 && (progress[0] ?? 0) > 5000);
  assert.deepEqual(again.manifest.files, manifest.files);
});

test('a value beyond f16 is refused by name, and kept in f32', async () => {
  const from = join(scratch, 'large');
  cpSync(join(fixtures, 'tiny-siglip'), from, { recursive: true });
  const tensors = readSafetensors(from);
  const name = 'multi_modal_projector.linear_1.weight';
  const tensor = tensors.get(name);
  assert.ok(tensor !== undefined);
  const values = new Float32Array(tensor.data.buffer, tensor.data.byteOffset, tensor.data.byteLength / 4);
  values[3] = 1e6;
  await writeSafetensors(join(from, 'model.safetensors'), tensors, {});
  const out = join(scratch, 'large-out');
  await assert.rejects(
    importCheckpoint({ from, out, storage: chooseStorage({}) }),
    /multi_modal_projector\.linear_1\.weight: a value is not finite in f16 \(beyond 65504\): keep this part in f32/,
  );
  await importCheckpoint({ from, out, storage: chooseStorage({ projector: 'f32' }) });
  values[3] = Number.NaN;
  await writeSafetensors(join(from, 'model.safetensors'), tensors, {});
  await assert.rejects(
    importCheckpoint({ from, out: `${out}2`, storage: chooseStorage({ precision: 'int8' }) }),
    /multi_modal_projector\.linear_1\.weight, from row 0: row 0: expected finite values/,
  );
});
