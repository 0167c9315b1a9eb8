import assert from 'node:assert/strict';
import { join } from 'node:path';
import { test } from 'node:test';
import * as g from '../../gpu-backend/graph/builder.ts';
import { Graph } from '../../gpu-backend/graph/graph.ts';
import { decodeGraph } from '../../gpu-backend/models/decode.ts';
import { emptyPast } from '../../gpu-backend/models/empty-past.ts';
import { loadCheckpoint } from '../../gpu-backend/models/load.ts';
import { weightFeeds } from '../../gpu-backend/models/verify-case.ts';
import { causalBias } from '../../gpu-backend/models/vlm.ts';
import { profilePlacement } from '../../gpu-backend/runtime/device-placement.ts';
import { f32, ints } from '../../gpu-backend/runtime/session.ts';
import { testDevices } from './device.ts';

const NANO = join(import.meta.dirname, '../../gpu-backend/models/nano');

/** ONNX operators that compute over activations: each one on the processor would cost two copies. */
const COMPUTE =
  /^(Gemm|MatMul|FusedMatMul|MatMulNBits|Softmax|RotaryEmbedding|SimplifiedLayerNormalization|Sigmoid|Gelu)$/;

for (const { device, placement, skip } of await testDevices()) {
  test(`${device}: every kernel that computes over activations runs there`, { skip }, async () => {
    const { config, weights } = loadCheckpoint(NANO);
    const decode = decodeGraph(config, { images: false });
    const S = 3;
    const { placed, copies } = await profilePlacement(
      decode.graph,
      {
        ...weightFeeds(decode.weights, weights),
        ...emptyPast(config, 1),
        ids: ints([1, 2, 3], [1, S]),
        positions: ints([0, 1, 2], [1, S]),
        causal_bias: f32(causalBias(S), [S, S]),
        rows: ints([S - 1], [1]),
      },
      placement,
    );
    const count = (of: string) =>
      placed.filter((p) => p.device === of).reduce((sum, { nodes }) => sum + nodes.length, 0);
    const left = placed.filter((p) => p.device === 'cpu');
    console.log(
      `# ${device}: ${count(device)} nodes there, ${count('cpu')} on the processor (${left.map(({ op, nodes }) => `${nodes.length} ${op}`).join(', ')}), ${copies.length} copies between`,
    );
    assert.ok(count(device) > 5 * count('cpu'));
    assert.deepEqual(
      left.filter(({ op }) => COMPUTE.test(op)).map(({ op }) => op),
      [],
    );
  });
}

for (const { placement, skip } of (await testDevices()).filter(({ device }) => device === 'webgpu'))
  test('webgpu: an op that is kept off the device runs on the processor', { skip }, async () => {
    const graph = new Graph();
    const x = graph.input('x', 'f32', [2, 3]);
    graph.output('y', g.softmax(graph, g.add(graph, x, x)));
    const feeds = { x: f32(Float32Array.of(1, 2, 3, 4, 5, 6), [2, 3]) };
    const { placed, copies } = await profilePlacement(graph, feeds, { ...placement, cpuOps: ['softmax'] });
    assert.deepEqual(placed.map(({ device, op }) => `${device} ${op}`).sort(), ['cpu Softmax', 'webgpu Add']);
    assert.equal(copies.length, 1);
  });
