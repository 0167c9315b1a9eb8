/** Entry of the process that opens a device: it answers one request at a time and may die at any of them. */
import * as g from '../graph/builder.ts';
import { CPU_CAPABILITIES, STANDARD_CAPABILITIES } from '../graph/capabilities.ts';
import { Graph } from '../graph/graph.ts';
import { compareCase } from './conformance-compare.ts';
import type { Device } from './device.ts';
import { type Adapter, nvidiaAdapters, vulkanAdapters } from './device-adapter.ts';
import type { DeviceReply, DeviceRequest } from './device-protocol.ts';
import { f32, RUNTIME_VERSION, Session } from './session.ts';

/** A product and a sum whose results are whole numbers, so that every right device gives the same. */
async function open(device: Device): Promise<DeviceReply> {
  const startedAt = performance.now();
  // Names first: where a provider aborts, they say of whom.
  const adapters = await adaptersOf(device);
  const graph = new Graph();
  const x_NK = graph.input('x', 'f32', [2, 3]);
  const w_MK = graph.input('w', 'f32', [4, 3]);
  graph.output('y', g.linear(graph, x_NK, w_MK, graph.input('b', 'f32', [4])));
  const capabilities = device === 'cpu' ? CPU_CAPABILITIES : STANDARD_CAPABILITIES;
  const session = await Session.create(graph, { placement: { device, capabilities } });
  const { y } = await session.run({
    x: f32(Float32Array.of(1, 2, 3, 4, 5, 6), [2, 3]),
    w: f32(Float32Array.of(1, 0, 0, 0, 1, 0, 0, 0, 1, 1, 1, 1), [4, 3]),
    b: f32(Float32Array.of(10, 20, 30, 40), [4]),
  });
  const got = [...(y?.data ?? [])].join();
  const want = '11,22,33,46,14,25,36,55';
  if (got !== want) return { kind: 'failed', message: `a matrix product gave ${got}, expected ${want}` };
  return { kind: 'opened', adapters, runtimeVersion: RUNTIME_VERSION, ms: performance.now() - startedAt };
}

async function adaptersOf(device: Device): Promise<Adapter[]> {
  if (device === 'cuda') return nvidiaAdapters();
  if (device === 'cpu' || process.platform !== 'linux') return [];
  return await vulkanAdapters().catch(() => []);
}

process.on('message', (request: DeviceRequest) => {
  const answer: Promise<DeviceReply> =
    request.kind === 'open'
      ? open(request.device)
      : compareCase(request.index, request.placement).then((error) => ({ kind: 'compared', error }));
  answer
    .catch(
      (error: unknown): DeviceReply => ({
        kind: 'failed',
        message: error instanceof Error ? error.message : String(error),
      }),
    )
    .then((reply) => process.send?.(reply));
});
// A parent that is gone needs no answers.
process.on('disconnect', () => process.exit(0));
