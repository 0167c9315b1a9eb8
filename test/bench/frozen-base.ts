/**
 * What a base in fewer bits costs: relative error of the weights, change of the loss of the bundled model on held-out dialogues of its
 * generator, change of the gradient of fresh adapters, bytes fed; and the peak memory of a larger decoder (frozen-memory.ts). The last line is JSON.
 *
 *     npm run bench -- frozen-base [--dialogues 64]
 */
import { execFileSync } from 'node:child_process';
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import { familyOf } from '../../gpu-backend/models/family.ts';
import { asFrozenLinear, storageOfBase, storeFrozen } from '../../gpu-backend/models/frozen-weights.ts';
import { initAdapter } from '../../gpu-backend/models/presets.ts';
import { PRECISIONS, partOf } from '../../gpu-backend/models/storage.ts';
import { trainGraph } from '../../gpu-backend/models/train-graph.ts';
import type { LoraSpec } from '../../gpu-backend/models/weights.ts';
import { f32, Session, type Tensor } from '../../gpu-backend/runtime/session.ts';
import { loadBaseModel } from '../../gpu-backend/train/base-model.ts';
import { encodeDialogue } from '../../gpu-backend/train/nano/encode.ts';
import { NanoStream } from '../../gpu-backend/train/nano/samples.ts';
import { packedBatches } from '../../gpu-backend/train/packing.ts';
import { batchFeeds } from '../../gpu-backend/train/train-session.ts';

const { values } = parseArgs({ options: { dialogues: { type: 'string', default: '64' } } });
const base = loadBaseModel(join(import.meta.dirname, '../../gpu-backend/models/nano'));
const { config, weights } = base;
const lora: LoraSpec = { r: 16, alpha: 32, targets: familyOf(config).decoderLinears };
const stream = new NanoStream({
  seed: 4103,
  phases: [
    {
      until: Number.POSITIVE_INFINITY,
      mix: { perception: 1, statements: 4, skills: 3 },
      turns: [7, 11],
      describeChance: 0,
      statementSets: [1, 2, 3, 3],
      skillSets: [2, 3, 3],
    },
  ],
});
const layout = { ...base.layout, tokensPerImage: config.tokensPerImage };
const samples = Array.from({ length: Number(values.dialogues) }, (_, i) =>
  encodeDialogue(stream.dialogue(i), layout, config.vision.imageSize),
);
const packedGroups = [1];
const batches = packedBatches(samples, { tokens: 1500, images: 64 }, packedGroups);
const adapter = initAdapter(config, lora, 1, weights);
// As after some training: a B of zero would leave A without a gradient.
for (const [name, { data }] of adapter)
  if (name.endsWith('.lora_B.weight'))
    (data as Float32Array).forEach((_, i) => {
      data[i] = ((i % 11) - 5) / 2000;
    });

interface Measured {
  readonly loss: number;
  readonly gradient: Float64Array;
  readonly fedMb: number;
}

async function measure(basePrecision: 'f32' | 'f16' | 'int8' | 'int4'): Promise<Measured> {
  const options = { train: 'lora', images: 'pixels', packedGroups, lora, basePrecision } as const;
  const model = trainGraph(config, options);
  const moves = new Set(model.trainable);
  const frozen = storeFrozen(
    model.graph,
    (name) => weights.get(name),
    (name) => moves.has(name),
  );
  const trained = Object.fromEntries(model.trainable.map((name) => [name, adapter.get(name) as Tensor]));
  const session = await Session.create(model.graph);
  let loss = 0;
  const sums = new Map<string, Float64Array>();
  for (const batch of batches) {
    const results = await session.run({ ...frozen, ...trained, ...batchFeeds(batch, config, options) });
    loss += Number(results.loss?.data[0]);
    for (const name of model.trainable) {
      const grad = results[`grad.${name}`]?.data as Float32Array;
      const sum = sums.get(name) ?? new Float64Array(grad.length);
      sums.set(name, sum);
      grad.forEach((x, i) => {
        sum[i] = (sum[i] as number) + x;
      });
    }
  }
  await session.release();
  const bytes = Object.entries(frozen)
    .filter(([name]) => name.startsWith('language_model.'))
    .reduce((total, [, { data }]) => total + data.byteLength, 0);
  return { loss, gradient: Float64Array.from([...sums.values()].flatMap((x) => [...x])), fedMb: bytes / 1e6 };
}

const norm = (x: Float64Array): number => Math.sqrt(x.reduce((sum, v) => sum + v * v, 0));
const want = await measure('f32');
const results = [];
for (const precision of ['f32', 'f16', 'int8', 'int4'] as const) {
  const got = precision === 'f32' ? want : await measure(precision);
  const storage = storageOfBase(precision);
  let [error, size] = [0, 0];
  for (const [name, tensor] of weights) {
    if (storage === undefined || !/^language_model\.model\.layers\..*_proj\.weight$/.test(name)) continue;
    const worth = asFrozenLinear(f32(tensor.data as Float32Array, tensor.shape), storage, partOf(name)).data;
    for (const [i, x] of (tensor.data as Float32Array).entries()) {
      error += (x - Number(worth[i])) ** 2;
      size += x * x;
    }
  }
  const difference = got.gradient.map((x, i) => x - (want.gradient[i] as number));
  const cosine =
    got.gradient.reduce((sum, x, i) => sum + x * (want.gradient[i] as number), 0) /
    norm(got.gradient) /
    norm(want.gradient);
  const row = {
    precision,
    weightError: size === 0 ? 0 : Math.sqrt(error / size),
    loss: got.loss,
    lossChange: got.loss - want.loss,
    gradientError: norm(difference) / norm(want.gradient),
    gradientCosine: cosine,
    fedMb: Number(got.fedMb.toFixed(2)),
  };
  results.push(row);
  console.log(
    `${precision.padEnd(5)} weights off by ${(100 * row.weightError).toFixed(3)} %, loss ${row.loss.toFixed(4)} (${row.lossChange >= 0 ? '+' : ''}${row.lossChange.toFixed(4)}), gradients off by ${(100 * row.gradientError).toFixed(2)} % (cosine ${row.gradientCosine.toFixed(5)}), ${row.fedMb} MB fed`,
  );
}
const memory = [];
for (const mode of ['projector', 'lora'])
  for (const precision of PRECISIONS) {
    const script = join(import.meta.dirname, 'frozen-memory.ts');
    const output = execFileSync(process.execPath, ['--import', 'tsx', script, mode, precision], { encoding: 'utf8' });
    const row = JSON.parse(output.trimEnd().split('\n').at(-1) ?? '{}') as Record<string, number | string>;
    memory.push(row);
    console.log(
      `147 M, ${mode}, ${precision}: ${row.fedMb} MB fed, peak ${row.peakMb} MB, ${row.cpuMs} ms a pass of 64 positions`,
    );
  }
console.log(JSON.stringify({ bench: 'frozen-base', dialogues: samples.length, results, memory }));
