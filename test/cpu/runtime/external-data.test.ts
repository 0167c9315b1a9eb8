import assert from 'node:assert/strict';
import { closeSync, ftruncateSync, mkdtempSync, openSync, rmSync, writeFileSync, writeSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, test } from 'node:test';
import { linear, linearNBits } from '../../../gpu-backend/graph/builder.ts';
import { symbol } from '../../../gpu-backend/graph/dim.ts';
import { Graph } from '../../../gpu-backend/graph/graph.ts';
import type { ExternalPlace } from '../../../gpu-backend/graph/lowering.ts';
import { bytesOf } from '../../../gpu-backend/io/tensor.ts';
import { encodeGraph, f32, Session, type Tensor } from '../../../gpu-backend/runtime/session.ts';

const scratch = mkdtempSync(join(tmpdir(), 'mantis-external-'));
after(() => rmSync(scratch, { recursive: true, force: true }));

const [IN, OUT] = [64, 8];

function model(accuracyLevel: 0 | 4): { graph: Graph; weights: Record<string, Tensor> } {
  const graph = new Graph();
  const x = graph.input('x', 'f32', [symbol('N'), IN]);
  const dense = graph.input('dense', 'f32', [IN, IN], 'param');
  const packed = graph.input('packed', 'u8', [OUT, 2, 16], 'param');
  const scales = graph.input('scales', 'f32', [OUT, 2], 'param');
  const attrs = { bits: 4, blockSize: 32, accuracyLevel } as const;
  graph.output('y', linearNBits(graph, linear(graph, x, dense), packed, scales, attrs));
  return {
    graph,
    weights: {
      dense: f32(
        Float32Array.from({ length: IN * IN }, (_, i) => Math.sin(i) / 8),
        [IN, IN],
      ),
      packed: {
        dtype: 'u8',
        shape: [OUT, 2, 16],
        data: Uint8Array.from({ length: OUT * 32 }, (_, i) => (i * 37) % 256),
      },
      scales: f32(
        Float32Array.from({ length: OUT * 2 }, (_, i) => (i % 2 === 0 ? 0.1 : -0.07) * (1 + i)),
        [OUT, 2],
      ),
    },
  };
}

const x = f32(
  Float32Array.from({ length: 3 * IN }, (_, i) => Math.cos(i)),
  [3, IN],
);

/** A file with the weights from `offsetBytes` on; what lies before them is a hole that takes no disk. */
function writeWeights(name: string, offsetBytes: number, weights: Record<string, Tensor>): Map<string, ExternalPlace> {
  const file = openSync(join(scratch, name), 'w');
  const places = new Map<string, ExternalPlace>();
  let at = offsetBytes;
  ftruncateSync(file, at);
  for (const [key, { data }] of Object.entries(weights)) {
    places.set(key, { location: name, offsetBytes: at, lengthBytes: data.byteLength });
    writeSync(file, bytesOf(data), 0, data.byteLength, at);
    at += data.byteLength;
  }
  closeSync(file);
  return places;
}

const largestError = (a: Float32Array, b: Float32Array): number =>
  a.reduce((max, v, i) => Math.max(max, Math.abs(v - (b[i] ?? Number.NaN))), 0) /
  a.reduce((max, v) => Math.max(max, Math.abs(v)), 0);

/** The output with the weights as inputs, which the kernels always take in f32. */
async function withInputs(): Promise<Float32Array> {
  const { graph, weights } = model(0);
  const session = await Session.create(graph);
  const { y } = await session.run({ x, ...weights });
  await session.release();
  return y?.data as Float32Array;
}

async function withFile(accuracyLevel: 0 | 4, offsetBytes: number): Promise<Float32Array> {
  const { graph, weights } = model(accuracyLevel);
  const name = `level-${accuracyLevel}-at-${offsetBytes}`;
  const places = writeWeights(`${name}.safetensors`, offsetBytes, weights);
  writeFileSync(join(scratch, `${name}.onnx`), encodeGraph(graph, undefined, { places }));
  const session = await Session.open(join(scratch, `${name}.onnx`));
  const { y } = await session.run({ x });
  await session.release();
  return y?.data as Float32Array;
}

test('weights in a file beside the model give what the same weights as inputs give, wherever they lie', async () => {
  const want = await withInputs();
  // At an odd place, and beyond what 32 bits can say.
  for (const offsetBytes of [8, 4099, 5 * 2 ** 30 + 64]) {
    const error = largestError(want, await withFile(0, offsetBytes));
    assert.ok(error < 1e-6, `offset ${offsetBytes}: error ${error}`);
  }
});

test('rounding activations to int8 stays within one part in a hundred', async () => {
  const error = largestError(await withInputs(), await withFile(4, 8));
  assert.ok(error > 1e-6 && error < 0.01, `error ${error}`);
});

test('only weights of static shape can lie in a file', () => {
  const { graph } = model(0);
  const place = { location: 'w', offsetBytes: 0, lengthBytes: 4 };
  assert.throws(
    () => encodeGraph(graph, undefined, { places: new Map([['x', place]]) }),
    /input x is no weight of static shape/,
  );
});
