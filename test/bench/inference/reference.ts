/**
 * What every contender has to agree with before it is timed: the model's f32 log-probabilities behind one short prompt, from
 * the whole-sequence graph, which has no cache and no engine around it.
 */
import { existsSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { loadCheckpoint } from '../../../gpu-backend/models/load.ts';
import { causalBias, forwardGraph } from '../../../gpu-backend/models/vlm.ts';
import { f32, ints, Session, type Tensor } from '../../../gpu-backend/runtime/session.ts';
import { promptIds } from './checkpoint.ts';

export const REFERENCE_PROMPT = promptIds(99, 40);

/** log softmax; entries that are NaN (not reported) are left out. */
export function logSoftmax(logits: Float32Array): Float32Array {
  let most = Number.NEGATIVE_INFINITY;
  for (const value of logits) if (value > most) most = value;
  let sum = 0;
  for (const value of logits) if (!Number.isNaN(value)) sum += Math.exp(value - most);
  return logits.map((value) => value - most - Math.log(sum));
}

/** Log-probabilities [vocab] behind `REFERENCE_PROMPT`; kept beside the checkpoint once computed. */
export async function referenceLogprobs(checkpointDir: string): Promise<Float32Array> {
  const kept = join(checkpointDir, 'reference.f32');
  if (existsSync(kept)) return new Float32Array(new Uint8Array(readFileSync(kept)).buffer);
  const { config, weights } = loadCheckpoint(checkpointDir);
  const { graph, weights: needed } = forwardGraph(config, { images: 'none', rows: true });
  const S = REFERENCE_PROMPT.length;
  const feeds: Record<string, Tensor> = {
    ids: ints(REFERENCE_PROMPT, [1, S]),
    positions: ints([...REFERENCE_PROMPT.keys()], [1, S]),
    causal_bias: f32(causalBias(S), [S, S]),
    rows: ints([S - 1], [1]),
  };
  for (const name of needed.keys()) {
    const weight = weights.get(name);
    if (weight === undefined) throw new Error(`the checkpoint has no ${name}`);
    feeds[name] = weight;
  }
  const session = await Session.create(graph);
  const { logits } = await session.run(feeds, ['logits']);
  await session.release();
  const logprobs = logSoftmax(logits?.data as Float32Array);
  writeFileSync(kept, new Uint8Array(logprobs.buffer, logprobs.byteOffset, logprobs.byteLength));
  return logprobs;
}

export interface Agreement {
  /** Root mean square of the differences of log-probabilities, as a share of the reference's standard deviation. */
  readonly error: number;
  readonly sameArgmax: boolean;
  /** Log-probabilities compared. */
  readonly count: number;
}

/** @param logits of the whole vocabulary, or log-probabilities with NaN where the contender reports none */
export function agreement(logits: Float32Array, reference: Float32Array): Agreement {
  const isWhole = !logits.some(Number.isNaN);
  const own = isWhole ? logSoftmax(logits) : logits;
  const mean = reference.reduce((sum, x) => sum + x, 0) / reference.length;
  const variance = reference.reduce((sum, x) => sum + (x - mean) ** 2, 0) / reference.length;
  let squares = 0;
  let count = 0;
  let best = -1;
  for (const [id, value] of own.entries()) {
    if (Number.isNaN(value)) continue;
    squares += (value - reference[id]!) ** 2;
    count++;
    if (best < 0 || value > own[best]!) best = id;
  }
  const most = reference.reduce((top, value, id) => (value > reference[top]! ? id : top), 0);
  return { error: Math.sqrt(squares / count / variance), sameArgmax: best === most, count };
}
