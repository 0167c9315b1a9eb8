import { type ImageSource, supervisedWeight, type TrainingSample } from './batch.ts';
import type { Selection } from './examples.ts';
import { Rng } from './nano/random.ts';
import type { StagePlan } from './stage-plan.ts';
import type { StageSessions } from './stage-sessions.ts';
import type { ParameterState } from './state.ts';
import type { DataSource } from './trainer.ts';

/** Examples of a store, as positions in it, and what makes samples of them. */
export interface StageData {
  readonly selection: Selection;
  readonly sampleAt: (entry: number) => Promise<TrainingSample<ImageSource>>;
}

/** Epochs of different stages never share a stream of the seed. */
const STREAMS_PER_STAGE = 1 << 20;

/** Batches of an epoch's random order; the order depends on seed, stage and epoch alone. The cursor counts examples. */
export function epochs({ selection, sampleAt }: StageData, plan: StagePlan, seed: number): DataSource {
  const { entries } = selection;
  const count = entries.length;
  let order: { readonly epoch: number; readonly list: readonly number[] } | undefined;
  return {
    next: async (cursor) => {
      const epoch = Math.floor(cursor / count);
      if (order?.epoch !== epoch)
        order = { epoch, list: new Rng(seed, plan.index * STREAMS_PER_STAGE + epoch).shuffle(entries) };
      const end = Math.min(cursor + plan.stage.batch_size, (epoch + 1) * count);
      const samples: TrainingSample<ImageSource>[] = [];
      for (const entry of order.list.slice(cursor - epoch * count, end - epoch * count))
        samples.push(await sampleAt(entry));
      return { samples, cursor: end };
    },
  };
}

/** Validation examples that are in memory at once, without their pictures. */
const MEASURED_AT_ONCE = 64;

/** Loss a token and share of right tokens over all validation examples. */
export async function measure(
  sessions: StageSessions,
  state: ParameterState,
  { selection, sampleAt }: StageData,
  microBatchTokens: number,
  pace: (() => void | Promise<void>) | undefined,
): Promise<{ loss: number; accuracy: number }> {
  let [loss, weight, correct, supervised] = [0, 0, 0, 0];
  for (let from = 0; from < selection.entries.length; from += MEASURED_AT_ONCE) {
    const samples: TrainingSample<ImageSource>[] = [];
    for (const entry of selection.entries.slice(from, from + MEASURED_AT_ONCE)) samples.push(await sampleAt(entry));
    const own = supervisedWeight(samples);
    if (own === 0) continue;
    weight += own;
    for (const batch of sessions.batches(samples, microBatchTokens)) {
      await pace?.();
      const part = await sessions.evaluate(state, [batch]);
      loss += part.loss * own;
      correct += part.correct;
      supervised += part.supervised;
    }
  }
  return { loss: loss / weight, accuracy: correct / supervised };
}
