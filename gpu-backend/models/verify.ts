import { toInt32 } from '../io/tensor.ts';
import { Session, type Tensor } from '../runtime/session.ts';
import type { VerifyRow } from '../text/verify-tokenizer.ts';
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
import { CachedDecoder, type DecodeStep, floats } from './verify-decode.ts';
import { forwardGraph, type ModelGraph, visionGraph } from './vlm.ts';

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

/** The given rows of a matrix [N, width]. */
function rowsOf(data: Float32Array, width: number, rows: readonly number[]): Float32Array {
  const out = new Float32Array(rows.length * width);
  rows.forEach((row, i) => {
    out.set(data.subarray(row * width, (row + 1) * width), i * width);
  });
  return out;
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

/** Row 0's attended tokens as one sequence, with the slots of its pictures. */
function firstRow({ ids, attended, length, pictures }: ReferenceCase): {
  at: number[];
  ids: number[];
  slots: number[];
} {
  const at = [...ids.subarray(0, length).keys()].filter((i) => attended[i] === 1);
  const slots = new Set(pictures.slotRows);
  return {
    at,
    ids: at.map((i) => ids[i] ?? 0),
    slots: at.flatMap((flat, i) => (slots.has(flat) ? [i] : [])),
  };
}

/** Greedy continuation of row 0's first `promptTokens` ids through the cached decode graph, one token a step. */
async function greedy(
  reference: ReferenceCase,
  weights: WeightMap,
  features: Float32Array,
  count: number,
): Promise<number[]> {
  const { hidden, vocab } = reference.checkpoint.config.text;
  const promptTokens = reference.file.greedy_prompt_tokens ?? 0;
  const slots = reference.pictures.slotRows.filter((i) => i < promptTokens);
  const decoder = await CachedDecoder.create(reference.checkpoint.config, weights);
  let step: DecodeStep = {
    ids: [...reference.ids.subarray(0, promptTokens)],
    imageRows: slots,
    features: features.subarray(0, slots.length * hidden),
  };
  const produced: number[] = [];
  try {
    while (produced.length < count) {
      const logits = (await decoder.step(step)).subarray(-vocab);
      const token = logits.reduce((best, x, i) => (x > (logits[best] ?? 0) ? i : best), 0);
      produced.push(token);
      step = { ids: [token], imageRows: [], features: new Float32Array(0) };
    }
  } finally {
    await decoder.release();
  }
  return produced;
}

/** Largest error of row 0's logits through the key-value cache, in three pieces. */
async function cachedError(reference: ReferenceCase, weights: WeightMap, features: Float32Array): Promise<number> {
  const { hidden, vocab } = reference.checkpoint.config.text;
  const { at, ids, slots } = firstRow(reference);
  const want = expectedFloats(reference, 'logits');
  const decoder = await CachedDecoder.create(reference.checkpoint.config, weights);
  let error = 0;
  try {
    const cuts = [0, Math.ceil(ids.length / 3), Math.ceil((2 * ids.length) / 3), ids.length];
    for (const [n, from] of cuts.slice(0, -1).entries()) {
      const to = cuts[n + 1] ?? from;
      const before = slots.filter((i) => i < from).length;
      const own = slots.filter((i) => i >= from && i < to);
      const got = await decoder.step({
        ids: ids.slice(from, to),
        imageRows: own.map((i) => i - from),
        features: features.subarray(before * hidden, (before + own.length) * hidden),
      });
      for (let i = from; i < to; i++) {
        const row = at[i] ?? 0;
        error = Math.max(
          error,
          maxAbsoluteDifference(
            got.subarray((i - from) * vocab, (i - from + 1) * vocab),
            want.subarray(row * vocab, (row + 1) * vocab),
          ),
        );
      }
    }
  } finally {
    await decoder.release();
  }
  return error;
}

/**
 * Checks a checkpoint folder with reference inputs and outputs: image features, logits at attended positions, the first row's
 * logits through the key-value cache, loss, greedy ids, and logits with the adapter, as far as the folder has them. One row an expectation; `error` in the unit of `tolerance`
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

  const vision = await runOnce(visionGraph(config), weights, reference.pictures.feeds);
  const features = floats(vision, 'image_features');
  const { hidden } = config.text;
  row(
    'image_features',
    maxAbsoluteDifference(
      rowsOf(features, hidden, reference.pictures.expectedRows),
      expectedFloats(reference, 'image_features'),
    ),
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

  row('cached_logits', await cachedError(reference, weights, features), tolerance.logits_abs);

  if (reference.expected.has('loss')) {
    const supervised = await runOnce(forwardGraph(config, { ...options, rows: true, loss: true }), weights, {
      ...feeds,
      ...supervisionFeeds(reference),
    });
    const loss = expectedFloats(reference, 'loss')[0] ?? Number.NaN;
    const error = Math.abs((floats(supervised, 'loss')[0] ?? Number.NaN) / loss - 1);
    row('loss', error, tolerance.loss_rel ?? 1e-4);
  }

  const greedyIds = reference.expected.get('greedy');
  if (greedyIds !== undefined) {
    const wanted = toInt32(greedyIds);
    const got = await greedy(reference, weights, features, wanted.length);
    row('greedy', got.filter((id, i) => id !== wanted[i]).length, 0);
  }

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
