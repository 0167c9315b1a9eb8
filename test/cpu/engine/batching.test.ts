import assert from 'node:assert/strict';
import { before, describe, it } from 'node:test';
import type { EngineRequest } from '../../../gpu-backend/engine/live-request.ts';
import { OnnxRunner } from '../../../gpu-backend/engine/onnx-runner.ts';
import { uniform } from '../../../gpu-backend/engine/random.ts';
import type { VlmConfig } from '../../../gpu-backend/models/config.ts';
import { decodeGraph } from '../../../gpu-backend/models/decode.ts';
import { causalBias, forwardGraph, visionGraph } from '../../../gpu-backend/models/vlm.ts';
import { f32, ints, Session, type Tensor } from '../../../gpu-backend/runtime/session.ts';
import { PLAIN_REQUEST, smallCapacity, startEngine } from '../../fixtures/engine.ts';

/** A small model with random weights, large enough that a wrong row, position or mask changes its greedy choices. */
const config: VlmConfig = {
  family: 'llava',
  vision: {
    kind: 'siglip',
    hidden: 16,
    intermediate: 32,
    layers: 2,
    heads: 2,
    imageSize: 12,
    patchSize: 4,
    layerNormEpsilon: 1e-6,
    activation: 'tanh',
  },
  text: {
    hidden: 32,
    intermediate: 64,
    layers: 3,
    heads: 4,
    kvHeads: 2,
    headDim: 8,
    vocab: 101,
    ropeTheta: 10_000,
    rmsNormEpsilon: 1e-6,
    maxPositions: 256,
    tiedHead: false,
    bosToken: null,
    eosTokens: [1],
    padToken: 0,
  },
  projectorActivation: 'erf',
  projectorBias: true,
  visionLayers: 2,
  dropFirstFeature: false,
  imageToken: 2,
  tokensPerImage: 9,
};

const capacity = smallCapacity({
  maxRows: 6,
  kvTokens: 6 * 128,
  kvStepTokens: 16,
  idleChunkTokens: 32,
  busyChunkTokens: 7,
  imagesPerRun: 2,
});

/** Roughly normal values, the same on every machine. */
function randomTensor(shape: readonly number[], seed: number): Tensor {
  const size = shape.reduce((a, b) => a * b, 1);
  const scale = shape.length === 1 ? 0.1 : 1.2 / Math.sqrt(shape.at(-1)!);
  const data = Float32Array.from({ length: size }, (_, i) => {
    let sum = -6;
    for (let k = 0; k < 12; k++) sum += uniform(seed, i * 12 + k);
    return sum * scale + (shape.length === 1 ? 1 : 0);
  });
  return f32(data, shape);
}

function randomWeights(): Map<string, Tensor> {
  const weights = new Map<string, Tensor>();
  for (const { weights: shapes } of [visionGraph(config), decodeGraph(config, { images: true })])
    for (const [name, shape] of shapes) weights.set(name, randomTensor(shape, weights.size));
  return weights;
}

const picture = (seed: number) => ({
  pixels_CHW: Float32Array.from({ length: 3 * 12 * 12 }, (_, i) => uniform(1000 + seed, i) * 2 - 1),
  width: 12,
  height: 12,
});

function makeRequest(index: number): EngineRequest {
  const draw = (counter: number, below: number) => Math.floor(uniform(77 + index, counter) * below);
  const ids: number[] = [];
  const images: EngineRequest['images'][number][] = [];
  const text = (count: number) => {
    for (let i = 0; i < count; i++) ids.push(3 + draw(ids.length, config.text.vocab - 3));
  };
  text(1 + draw(900, 12));
  for (let i = 0; i < draw(901, 4); i++) {
    const seed = draw(910 + i, 3);
    images.push({ start: ids.length, tokens: config.tokensPerImage, key: `p${seed}`, picture: picture(seed) });
    for (let t = 0; t < config.tokensPerImage; t++) ids.push(config.imageToken);
    text(1 + draw(920 + i, 5));
  }
  return {
    ...PLAIN_REQUEST,
    id: `r${index}`,
    tokenIds: Int32Array.from(ids),
    images,
    maxNewTokens: 4 + draw(902, 16),
    stopIds: [1],
    topLogprobs: 0,
  };
}

describe('continuous batching over ONNX Runtime', () => {
  const weights = randomWeights();
  let runner: OnnxRunner;
  before(async () => {
    runner = await OnnxRunner.create(config, weights, { threads: 1 });
  });

  async function serve(requests: readonly EngineRequest[], atStep: (index: number) => number, limit = capacity) {
    const { engine, events, end } = startEngine({ runner, capacity: limit });
    for (let step = 0; step < 2000; step++) {
      for (const [i, request] of requests.entries()) if (atStep(i) === step) engine.submit(request);
      await engine.step();
      if (!engine.busy && step > 60) break;
    }
    return requests.map(({ id }) => {
      const tokens = events.flatMap((event) => (event.type === 'token' && event.id === id ? [event.token] : []));
      return { tokens: tokens.map((token) => token.id), logprobs: tokens.map((token) => token.logprob), end: end(id) };
    });
  }

  it('24 ragged requests that join and leave give exactly their one-by-one greedy tokens', async () => {
    const requests = Array.from({ length: 24 }, (_, i) => makeRequest(i));
    const together = await serve(requests, (i) => Math.floor(i * 1.7));
    let worst = 0;
    for (const [i, request] of requests.entries()) {
      const [alone] = await serve([request], () => 0);
      assert.deepEqual(together[i]!.tokens, alone!.tokens, request.id);
      assert.deepEqual(together[i]!.end, alone!.end);
      for (const [t, value] of alone!.logprobs.entries())
        worst = Math.max(worst, Math.abs(value - together[i]!.logprobs[t]!));
    }
    assert.ok(worst < 1e-4, `log-probabilities differ by ${worst}`);
    assert.ok(new Set(together.flatMap(({ tokens }) => tokens)).size > 20, 'the model says more than a few tokens');
  });

  it('with the cache = without it: every token is the argmax of a whole forward pass', async () => {
    const { graph, weights: needed } = forwardGraph(config, { images: 'pixels', rows: true });
    const session = await Session.create(graph);
    const request = [...Array(24).keys()].map(makeRequest).find(({ images }) => images.length >= 2)!;
    const [served] = await serve([request], () => 0, { ...capacity, idleChunkTokens: 5 });
    const ids = [...request.tokenIds];
    for (const token of served!.tokens) {
      const S = ids.length;
      const feeds: Record<string, Tensor> = {
        ids: ints(ids, [1, S]),
        positions: ints([...ids.keys()], [1, S]),
        causal_bias: f32(causalBias(S), [S, S]),
        rows: ints([S - 1], [1]),
        image_rows: ints(
          request.images.flatMap(({ start, tokens }) => Array.from({ length: tokens }, (_, t) => start + t)),
          [request.images.length * config.tokensPerImage],
        ),
        pixel_values: f32(Float32Array.from(request.images.flatMap(({ picture }) => [...picture!.pixels_CHW])), [
          request.images.length,
          3,
          12,
          12,
        ]),
      };
      for (const name of needed.keys()) feeds[name] = weights.get(name)!;
      const logits = (await session.run(feeds)).logits!.data as Float32Array;
      assert.equal(token, logits.indexOf(Math.max(...logits)));
      ids.push(token);
    }
  });
});
