import assert from 'node:assert/strict';
import { test } from 'node:test';
import { dimKey, evaluateDim } from '../../../gpu-backend/graph/dim.ts';
import { liveNodes, orderForRelease, peakLiveBytes, printGraph, verify } from '../../../gpu-backend/graph/passes.ts';
import { decodeGraph } from '../../../gpu-backend/models/decode.ts';
import { prefillGraph } from '../../../gpu-backend/models/prefill.ts';
import { initAdapter, initWeights, nanoConfig, parameterCount } from '../../../gpu-backend/models/presets.ts';
import { isTrainable, trainGraph } from '../../../gpu-backend/models/train-graph.ts';
import { causalBias, forwardGraph, visionGraph } from '../../../gpu-backend/models/vlm.ts';

const config = nanoConfig({
  vocab: 300,
  imageToken: 290,
  bosToken: 1,
  eosTokens: [2],
  padToken: 3,
  layers: 2,
  visionLayers: 2,
});
const lora = { r: 4, alpha: 8, targets: ['q_proj', 'down_proj'] };

test('every graph of a model passes verification', () => {
  const graphs = [
    visionGraph(config),
    forwardGraph(config, { images: 'pixels', causalBlocks: 3, keyBias: true, rows: true, loss: true }),
    decodeGraph(config, { images: true }),
    trainGraph(config, { train: 'all', images: 'pixels', checkpointing: 'layer', causalBlocks: 2 }),
    trainGraph(config, { train: 'lora+projector', images: 'towerFeatures', lora, checkpointing: 'attention' }),
  ];
  for (const { graph } of graphs) verify(graph, orderForRelease(liveNodes(graph)));
  assert.match(printGraph(visionGraph(config).graph), /param multi_modal_projector\.linear_1\.weight: f32\[192, 128\]/);
});

test('a mode trains what it says and computes no other weight gradient', () => {
  const names = (train: 'projector' | 'full' | 'all'): readonly string[] =>
    trainGraph(config, { train, images: 'pixels' }).trainable;
  assert.deepEqual(
    [...names('projector')].sort(),
    ['linear_1.bias', 'linear_1.weight', 'linear_2.bias', 'linear_2.weight'].map((n) => `multi_modal_projector.${n}`),
  );
  assert.ok(names('full').every((n) => !n.startsWith('vision_tower.')));
  assert.equal(names('all').length, trainGraph(config, { train: 'all', images: 'pixels' }).weights.size);
  const adapted = trainGraph(config, { train: 'lora', images: 'towerFeatures', lora });
  assert.equal(adapted.trainable.length, 2 * 2 * config.text.layers);
  assert.equal(adapted.graph.outputs.length, 1 + adapted.trainable.length);
  assert.ok(!isTrainable('language_model.model.norm.weight', 'lora'));
});

test('frozen parts cost nothing in the backward pass', () => {
  const count = (train: 'projector' | 'full' | 'all'): number =>
    liveNodes(trainGraph(config, { train, images: 'pixels' }).graph).length;
  assert.ok(count('projector') < count('full') && count('full') < count('all'));
});

test('the last layer feeds only the rows that are read forward', () => {
  const { intermediate } = config.text;
  const graphs = [
    forwardGraph(config, { images: 'none', rows: true }),
    decodeGraph(config, { images: false, adapterTargets: ['down_proj'] }),
    prefillGraph(config, { images: false, adapterTargets: ['down_proj'] }),
    trainGraph(config, { train: 'full', images: 'none', lossOnly: true, packedGroups: [1, 2] }),
  ];
  for (const { graph } of graphs) {
    verify(graph, orderForRelease(liveNodes(graph)));
    const rowsOf = (scope: string) =>
      new Set(
        liveNodes(graph)
          .filter((node) => node.scope.startsWith(scope) && node.outputs[0]?.shape[1] === intermediate)
          .map((node) => dimKey(node.outputs[0]!.shape[0]!)),
      );
    assert.deepEqual([...rowsOf('layer1')], ['R']);
    assert.ok(rowsOf('layer0').size > 0 && !rowsOf('layer0').has('R'));
  }
});

test('options that contradict each other are refused', () => {
  assert.throws(() => trainGraph(config, { train: 'lora', images: 'pixels' }), /needs the option lora/);
  assert.throws(() => trainGraph(config, { train: 'full', images: 'pixels', lora }), /does not take the option lora/);
  assert.throws(() => trainGraph(config, { train: 'all', images: 'towerFeatures' }), /needs images: "pixels"/);
  assert.throws(() => trainGraph(config, { train: 'projector', images: 'none' }), /trains nothing/);
  assert.throws(() => forwardGraph(config, { images: 'none', loss: true }), /rows: true/);
  assert.throws(() => forwardGraph(config, { images: 'none', causalBlocks: 0 }), /positive integer/);
});

test('checkpointing lowers the peak of live activations', () => {
  const sizes = new Map([
    ['B', 2],
    ['C', 128],
    ['N', 2],
    ['R', 8],
  ]);
  const peak = (checkpointing: 'none' | 'layer'): number => {
    const deep = nanoConfig({ vocab: 300, imageToken: 290, bosToken: 1, eosTokens: [2], padToken: 3, layers: 8 });
    const { graph } = trainGraph(deep, { train: 'full', images: 'pixels', causalBlocks: 2, checkpointing });
    return peakLiveBytes(
      graph,
      liveNodes(graph),
      (v) => 4 * v.shape.reduce<number>((n, d) => n * evaluateDim(d, sizes), 1),
    );
  };
  assert.ok(peak('layer') < 0.6 * peak('none'), `${peak('layer')} against ${peak('none')}`);
});

test('the causal bias of n blocks: zeros, then a triangle', () => {
  assert.deepEqual(
    [...causalBias(2, 2)].map((x) => (x === 0 ? 0 : 1)),
    [0, 0, 0, 1, 0, 0, 0, 0],
  );
});

test('initial weights depend on the seed and on nothing else', () => {
  const [a, b, c] = [initWeights(config, 1), initWeights(config, 1), initWeights(config, 2)];
  const name = 'language_model.model.layers.0.self_attn.q_proj.weight';
  assert.deepEqual(a.get(name), b.get(name));
  assert.notDeepEqual(a.get(name), c.get(name));
  assert.equal(
    [...a.values()].reduce((sum, t) => sum + t.data.length, 0),
    parameterCount(config),
  );
  const values = a.get(name)?.data as Float32Array;
  const std = Math.sqrt(values.reduce((s, x) => s + x * x, 0) / values.length);
  assert.ok(Math.abs(std * Math.sqrt(192) - 1) < 0.05, `standard deviation ${std}`);
  const adapter = initAdapter(config, lora, 1);
  assert.ok([...adapter].every(([n, t]) => !n.endsWith('lora_B.weight') || t.data.every((x) => x === 0)));
});
