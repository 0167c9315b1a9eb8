import assert from 'node:assert/strict';
import type { EngineRequest } from '../../../gpu-backend/engine/live-request.ts';
import type { ForwardBatch, ForwardResult, ModelRunner } from '../../../gpu-backend/engine/runner.ts';
import type { Picture } from '../../../gpu-backend/models/family.ts';
import { PLAIN_REQUEST } from '../../fixtures/engine.ts';

export const VOCAB = 97;

function nextToken(attended: readonly (readonly [position: number, value: number])[]): number {
  let hash = 7;
  for (const [position, value] of [...attended].sort((a, b) => a[0] - b[0]))
    hash = (hash * 31 + position * 17 + value) % 1_000_003;
  return hash % VOCAB;
}

/**
 * A model whose next token is a hash of every position it attends: one row that sees another's cache, a lost or doubled key, a
 * wrong position or a misplaced picture changes the answer.
 */
export class HashRunner implements ModelRunner {
  readonly kv = { layers: 2, kvHeads: 1, headDim: 2, format: 'f32' } as const;
  encodedImages = 0;
  failAtForward = -1;
  forwards = 0;
  /** Single tokens are written where the cache is, as a runner may do. */
  writesInPlace = false;

  async encode(pictures: readonly Picture[]): Promise<Float32Array[]> {
    this.encodedImages += pictures.length;
    // Two tokens a picture, hidden size 1.
    return pictures.map(({ pixels_CHW: [value = 0] }) => Float32Array.of(1000 + value, 2000 + value));
  }

  async forward(batch: ForwardBatch): Promise<ForwardResult> {
    if (this.forwards++ === this.failAtForward) throw new Error('device lost');
    const { rows: B, newTokens: S, pastTokens: T } = batch;
    const values_BS = Float32Array.from(batch.ids_BS);
    for (const { at, features } of batch.imageRows) values_BS.set(features, at);
    const fresh = new Float32Array(B * S * 2);
    for (let index = 0; index < B * S; index++) {
      fresh[index * 2] = batch.positions_BS[index]!;
      fresh[index * 2 + 1] = values_BS[index]!;
    }
    const logits_RV = new Float32Array(batch.logitRows_R.length * VOCAB);
    for (const [r, flat] of batch.logitRows_R.entries()) {
      const row = Math.floor(flat / S);
      const attended: [number, number][] = [];
      for (let t = 0; t < T; t++) {
        if (batch.pastBias_B11T[row * T + t] !== 0) continue;
        const at = (row * T + t) * 2;
        const [first, second] = [batch.past[0]!.k, batch.past[1]!.v];
        assert.equal(first[at], second[at]);
        attended.push([first[at]!, first[at + 1]!]);
      }
      for (let s = row * S; s <= flat; s++) attended.push([fresh[s * 2]!, fresh[s * 2 + 1]!]);
      logits_RV[r * VOCAB + nextToken(attended)] = 10;
    }
    if (S === 1 && this.writesInPlace && batch.imageRows.length === 0) {
      for (let row = 0; row < B; row++)
        for (const { k, v } of batch.past)
          for (const plane of [k, v])
            plane.set(fresh.subarray(row * 2, row * 2 + 2), (row * T + batch.positions_BS[row]!) * 2);
      return { logits_RV, fresh: null };
    }
    return { logits_RV, fresh: { keys: [fresh, fresh], values: [fresh, fresh] } };
  }

  async dispose(): Promise<void> {}
}

export function makeRequest(
  id: string,
  prompt: readonly number[],
  pictures: readonly number[],
  newTokens: number,
): EngineRequest {
  // Pictures stand after the first prompt token, two positions each.
  const ids = [prompt[0]!, ...pictures.flatMap(() => [0, 0]), ...prompt.slice(1)];
  return {
    ...PLAIN_REQUEST,
    id,
    tokenIds: Int32Array.from(ids),
    images: pictures.map((pixel, index) => ({
      start: 1 + index * 2,
      tokens: 2,
      key: `picture-${pixel}`,
      picture: { pixels_CHW: Float32Array.of(pixel), width: 1, height: 1 },
    })),
    maxNewTokens: newTokens,
    stopIds: [3],
  };
}

/** The answer by definition: no cache, no batch. */
export function reference(request: EngineRequest): number[] {
  const values = [...request.tokenIds];
  for (const slot of request.images) {
    values[slot.start] = 1000 + slot.picture!.pixels_CHW[0]!;
    values[slot.start + 1] = 2000 + slot.picture!.pixels_CHW[0]!;
  }
  const answer: number[] = [];
  while (answer.length < request.maxNewTokens) {
    const token = nextToken(values.map((value, position) => [position, value] as const));
    if (request.stopIds.includes(token)) break;
    answer.push(token);
    values.push(token);
  }
  return answer;
}
