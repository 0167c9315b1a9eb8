import { mkdtemp, readdir, readFile, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { Graph } from '../graph/graph.ts';
import type { LoopGraph } from '../graph/loop.ts';
import { DEVICES, type Device, type Placement } from './device.ts';
import { Session, type Tensor } from './session.ts';

/** Kernels of one ONNX operator that ran on one device. */
export interface PlacedNodes {
  readonly device: Device;
  readonly op: string;
  /** Names of the nodes, each once. */
  readonly nodes: readonly string[];
}

export interface PlacementReport {
  readonly placed: readonly PlacedNodes[];
  /** Copies between device and main memory that ONNX Runtime put between nodes, by the node that makes them; not feeds and results. */
  readonly copies: readonly string[];
}

const PROVIDER: Readonly<Record<string, Device>> = {
  CPUExecutionProvider: 'cpu',
  WebGpuExecutionProvider: 'webgpu',
  CUDAExecutionProvider: 'cuda',
};

/** One event of an ONNX Runtime profile (the trace format of Chromium). */
interface ProfileEvent {
  readonly cat?: string;
  readonly name?: string;
  readonly args?: { readonly provider?: string; readonly op_name?: string };
}

/**
 * Where the nodes of a graph really ran, from the profile of one run: a provider leaves what it has no kernel for to the
 * processor, and each such node costs copies.
 */
export async function profilePlacement(
  graph: Graph | LoopGraph,
  feeds: Readonly<Record<string, Tensor>>,
  placement: Placement,
): Promise<PlacementReport> {
  const dir = await mkdtemp(join(tmpdir(), 'mantis-profile-'));
  try {
    const session = await Session.create(graph, { placement, profilePrefix: join(dir, 'run') });
    await session.run(feeds);
    session.endProfiling();
    await session.release();
    const [file] = await readdir(dir);
    if (file === undefined) throw new Error('ONNX Runtime wrote no profile');
    return readProfile(JSON.parse(await readFile(join(dir, file), 'utf8')) as ProfileEvent[]);
  } finally {
    await rm(dir, { recursive: true });
  }
}

/** @param events of a profile */
export function readProfile(events: readonly ProfileEvent[]): PlacementReport {
  const groups = new Map<string, { device: Device; op: string; nodes: Set<string> }>();
  const copies = new Set<string>();
  for (const { cat, name = '', args } of events) {
    const device = PROVIDER[args?.provider ?? ''];
    const op = args?.op_name;
    if (cat !== 'Node' || device === undefined || op === undefined) continue;
    const node = name.replace(/_kernel_time$/, '');
    if (op.startsWith('Memcpy')) {
      copies.add(node);
      continue;
    }
    const key = `${device} ${op}`;
    const group = groups.get(key) ?? { device, op, nodes: new Set() };
    group.nodes.add(node);
    groups.set(key, group);
  }
  const order = (device: Device): number => DEVICES.indexOf(device);
  return {
    placed: [...groups.values()]
      .map(({ device, op, nodes }) => ({ device, op, nodes: [...nodes] }))
      .sort((a, b) => order(a.device) - order(b.device) || b.nodes.length - a.nodes.length),
    copies: [...copies],
  };
}
