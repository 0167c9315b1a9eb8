import { type Capabilities, CPU_CAPABILITIES } from '../graph/capabilities.ts';
import type { Graph } from '../graph/graph.ts';
import { LoopGraph } from '../graph/loop.ts';
import { lowerGraph } from '../graph/lowering.ts';
import type { OpName } from '../graph/ops/attrs.ts';
import { liveNodes, orderForRelease } from '../graph/passes.ts';

/** Execution providers of ONNX Runtime that we run on, the fastest first. */
export const DEVICES = ['cuda', 'webgpu', 'cpu'] as const;
export type Device = (typeof DEVICES)[number];

/** What `MANTIS_DEVICE` may say. */
export const DEVICE_CHOICES = ['auto', ...DEVICES] as const;
export type DeviceChoice = (typeof DEVICE_CHOICES)[number];

/** Where the nodes of a session run. */
export interface Placement {
  readonly device: Device;
  /** Index of the card. CUDA only; default 0. */
  readonly deviceId?: number;
  /** What graphs are lowered for. */
  readonly capabilities: Capabilities;
  /** Ops that the device gets wrong in every lowering: their nodes run on the processor. WebGPU only. */
  readonly cpuOps?: readonly OpName[];
}

export const CPU_PLACEMENT: Placement = { device: 'cpu', capabilities: CPU_CAPABILITIES };

/** ONNX node names of the ops that a placement keeps off its device. */
export function cpuNodeNames(
  graph: Graph | LoopGraph,
  capabilities: Capabilities,
  { cpuOps = [] }: Placement,
): string[] {
  if (cpuOps.length === 0) return [];
  const { nodes } =
    graph instanceof LoopGraph
      ? lowerGraph(graph.body, capabilities, liveNodes(graph.body))
      : lowerGraph(graph, capabilities, orderForRelease(liveNodes(graph)));
  return nodes.flatMap(({ op, name }) => (op !== undefined && cpuOps.includes(op) ? [name] : []));
}
