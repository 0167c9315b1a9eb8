import { toInt32 } from '../io/tensor.ts';
import { f32, ints, Session, type Tensor } from '../runtime/session.ts';
import type { VerifyRow } from '../text/verify-tokenizer.ts';
import { MASKED } from './llama.ts';
import type { WeightMap } from './load.ts';
import {
  batchFeeds,
  expectedFloats,
  maxAbsoluteDifference,
  type ReferenceCase,
  readReferenceCase,
  supervisionFeeds,
  weightFeeds,
} from './verify-case.ts';
import { causalBias, decodeGraph, forwardGraph, type ModelGraph, visionGraph } from './vlm.ts';

/** Compiles, runs once, releases. */
async function runOnce(
  model: ModelGraph,
  weights: ReadonlyMap<string, Tensor>,
  feeds: Readonly<Record<string, Tensor>>,
): Promise<Record<string, Tensor>> {
  const session = await Session.create(model.graph);
  try {
    return await session.run({ ...weightFeeds(model.weights, weights), ...feeds });
  } finally {
    await session.release();
  }
}

function floats(results: Readonly<Record<string, Tensor>>, name: string): Float32Array {
  const data = results[name]?.data;
  if (!(data instanceof Float32Array)) throw new Error(`the graph gave no f32 output "${name}"`);
  return data;
}

/** Largest logit error over attended positions; padding predicts nothing. */
function attendedError(reference: ReferenceCase, got: Float32Array, want: Float32Array): number {
  const width = want.length / reference.ids.length;
  let max = 0;
  reference.attended.forEach((seen, i) => {
    if (seen === 0) return;
    const [from, to] = [i * width, (i + 1) * width];
    max = Math.max(max, maxAbsoluteDifference(got.subarray(from, to), want.subarray(from, to)));
  });
  return got.length === want.length ? max : Number.POSITIVE_INFINITY;
}

/** Greedy continuation of row 0's first `promptTokens` ids through the cached decode graph, one token a step. */
async function greedy(
  reference: ReferenceCase,
  weights: WeightMap,
  features: Float32Array,
  count: number,
): Promise<number[]> {
  const { config } = reference.checkpoint;
  const { layers, kvHeads, headDim, hidden, vocab } = config.text;
  const model = decodeGraph(config, { images: true });
  const session = await Session.create(model.graph);
  const fixed = weightFeeds(model.weights, weights);
  const promptTokens = reference.file.greedy_prompt_tokens;
  let ids = [...reference.ids.subarray(0, promptTokens)];
  // One masked column stands for the empty past: a graph over zero past positions is not portable.
  let past = 1;
  let cache = new Map<string, Float32Array>();
  for (let i = 0; i < layers; i++)
    for (const kind of ['k', 'v']) cache.set(`${kind}_${i}`, new Float32Array(kvHeads * headDim));
  const produced: number[] = [];
  try {
    while (produced.length < count) {
      const length = ids.length;
      const start = past - 1;
      const imageRows = ids.flatMap((id, i) => (id === config.imageToken && start === 0 ? [i] : []));
      const pastBias = new Float32Array(past);
      pastBias[0] = MASKED;
      const feeds: Record<string, Tensor> = {
        ids: ints(ids, [1, length]),
        positions: ints(
          ids.map((_, i) => start + i),
          [1, length],
        ),
        causal_bias: f32(causalBias(length), [length, length]),
        past_bias: f32(pastBias, [1, 1, 1, past]),
        image_features: f32(features.subarray(0, imageRows.length * hidden), [imageRows.length, hidden]),
        image_rows: ints(imageRows, [imageRows.length]),
        rows: ints([length - 1], [1]),
      };
      for (const [key, data] of cache) feeds[`past_${key}`] = f32(data, [1, kvHeads, past, headDim]);
      const results = await session.run({ ...fixed, ...feeds });
      const logits = floats(results, 'logits').subarray(0, vocab);
      const token = logits.reduce((best, x, i) => (x > (logits[best] ?? 0) ? i : best), 0);
      produced.push(token);
      const next = new Map<string, Float32Array>();
      for (const [key, data] of cache) {
        const fresh = floats(results, `new_${key}`);
        const joined = new Float32Array(kvHeads * (past + length) * headDim);
        for (let head = 0; head < kvHeads; head++) {
          joined.set(
            data.subarray(head * past * headDim, (head + 1) * past * headDim),
            head * (past + length) * headDim,
          );
          joined.set(
            fresh.subarray(head * length * headDim, (head + 1) * length * headDim),
            (head * (past + length) + past) * headDim,
          );
        }
        next.set(key, joined);
      }
      cache = next;
      past += length;
      ids = [token];
    }
  } finally {
    await session.release();
  }
  return produced;
}

/**
 * Checks a checkpoint folder with reference inputs and outputs: image features, logits at attended positions, loss, greedy
 * ids through the key-value cache, and logits with the adapter. One row an expectation; `error` in the unit of `tolerance`
 * (absolute for features and logits, relative for the loss, a count of differing ids for greedy).
 */
export async function verifyCheckpoint(dir: string): Promise<VerifyRow[]> {
  const reference = readReferenceCase(dir);
  const { config, weights } = reference.checkpoint;
  const { tolerance } = reference.file;
  const out: VerifyRow[] = [];
  const row = (expectation: string, error: number, limit: number): void => {
    out.push({ case: dir, expectation, error, tolerance: limit, ok: error <= limit });
  };

  const vision = await runOnce(visionGraph(config), weights, { pixel_values: reference.pixels });
  const features = floats(vision, 'image_features');
  row(
    'image_features',
    maxAbsoluteDifference(features, expectedFloats(reference, 'image_features')),
    tolerance.logits_abs,
  );

  const feeds = batchFeeds(reference);
  const options = { images: 'pixels', keyBias: true } as const;
  const forward = await runOnce(forwardGraph(config, options), weights, feeds);
  row(
    'logits',
    attendedError(reference, floats(forward, 'logits'), expectedFloats(reference, 'logits')),
    tolerance.logits_abs,
  );

  const supervised = await runOnce(forwardGraph(config, { ...options, rows: true, loss: true }), weights, {
    ...feeds,
    ...supervisionFeeds(reference),
  });
  const loss = expectedFloats(reference, 'loss')[0] ?? Number.NaN;
  row('loss', Math.abs((floats(supervised, 'loss')[0] ?? Number.NaN) / loss - 1), tolerance.loss_rel);

  const wanted = toInt32(reference.expected.get('greedy') ?? { dtype: 'i64', shape: [0], data: new Uint8Array(0) });
  const got = await greedy(reference, weights, features, wanted.length);
  row('greedy', got.filter((id, i) => id !== wanted[i]).length, 0);

  if (reference.adapter !== undefined && reference.expected.has('lora_logits')) {
    const { lora, weights: adapterWeights } = reference.adapter;
    const adapted = await runOnce(
      forwardGraph(config, { ...options, lora }),
      new Map([...weights, ...adapterWeights]),
      feeds,
    );
    row(
      'lora_logits',
      attendedError(reference, floats(adapted, 'logits'), expectedFloats(reference, 'lora_logits')),
      tolerance.logits_abs,
    );
  }
  return out;
}
