/**
 * What every contender has to agree with before it is timed: the model's f32 log-probabilities behind one short prompt, from
 * the whole-sequence graph, which has no cache and no engine around it.
 */
import { existsSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { loadCheckpoint } from '../../../gpu-backend/models/load.ts';
import { causalBias, forwardGraph } from '../../../gpu-backend/models/vlm.ts';
import { f32, ints, Session, type Tensor } from '../../../gpu-backend/runtime/session.ts';
import { logSoftmax } from './agreement.ts';
import { promptIds } from './model.ts';

export const REFERENCE_PROMPT = promptIds(99, 40);

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
