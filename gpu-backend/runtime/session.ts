/**
 * ONNX Runtime behind one file: nothing else in the project imports onnxruntime-node.
 *
 * `run` blocks the calling thread (onnxruntime-node 1.30 is synchronous inside), so sessions live in worker threads or
 * child processes, never on a server's event loop.
 */
import * as ort from 'onnxruntime-node';
import { type Capabilities, CPU_CAPABILITIES } from '../graph/capabilities.ts';
import type { DType, Graph } from '../graph/graph.ts';
import { type FixedWeights, lowerGraph, type TensorValues } from '../graph/lowering.ts';
import { liveNodes, orderForRelease, verify } from '../graph/passes.ts';
import { cpuNodeNames, type Placement } from './device.ts';
import { encodeOnnx } from './onnx-encode.ts';

/** Of ONNX Runtime. */
export const RUNTIME_VERSION: string = ort.env.versions.node ?? ort.env.versions.common;

export type TensorData = TensorValues;

/** A dense row-major tensor in main memory. f16 is held as raw bits in a Uint16Array, bool as bytes. */
export interface Tensor {
  readonly dtype: DType;
  readonly shape: readonly number[];
  readonly data: TensorData;
}

export const f32 = (data: Float32Array, shape: readonly number[]): Tensor => ({ dtype: 'f32', shape, data });
export const i64 = (data: BigInt64Array, shape: readonly number[]): Tensor => ({ dtype: 'i64', shape, data });
/** int64 tensor from ordinary integers. */
export const ints = (data: ArrayLike<number>, shape: readonly number[]): Tensor => ({
  dtype: 'i64',
  shape,
  data: BigInt64Array.from(data as ArrayLike<number> & Iterable<number>, BigInt),
});
export const scalarTensor = (value: number): Tensor => f32(Float32Array.of(value), []);

const ORT_TYPE = { f32: 'float32', f16: 'float16', i64: 'int64', u8: 'uint8', i8: 'int8', bool: 'bool' } as const;
const DTYPE_OF: Readonly<Record<string, DType>> = {
  float32: 'f32',
  float16: 'f16',
  int64: 'i64',
  uint8: 'u8',
  int8: 'i8',
  bool: 'bool',
};

export interface SessionOptions {
  /** Kernel threads. Default 1. */
  readonly threads?: number;
  /** Let idle kernel threads spin: faster steps on a dedicated machine, wasted CPU on a shared one. Default false. */
  readonly spin?: boolean;
  /** Writes an ONNX Runtime profile with this file prefix. */
  readonly profilePrefix?: string;
  /** Compute once what depends on weights inside the model alone, such as the widening of f16 weights. Default false. */
  readonly foldConstants?: boolean;
  /** Weights that become constants of the session instead of feeds of each run: kernels pack them once. */
  readonly initializers?: ReadonlyMap<string, Tensor>;
  /** Where nodes run. Default: on the processor. */
  readonly placement?: Placement;
  /** Kernel capabilities the graph is lowered for. Default: those of the placement. */
  readonly capabilities?: Capabilities;
}

/**
 * Verifies, orders and lowers a graph to the bytes of an ONNX model.
 * @param fixed weights that are part of the model; with places in a file, a session is opened by path
 */
export function encodeGraph(
  graph: Graph,
  capabilities: Capabilities = CPU_CAPABILITIES,
  fixed: FixedWeights = {},
): Uint8Array {
  const nodes = orderForRelease(liveNodes(graph));
  verify(graph, nodes);
  return encodeOnnx(lowerGraph(graph, capabilities, nodes, fixed));
}

/**
 * Memory patterns are off (they double peak memory with dynamic shapes) and ORT's own optimiser too: the lowering already
 * emits fused kernels, loading is 4x faster, and common subexpression elimination would undo recomputation.
 */
function ortOptions(options: SessionOptions, graph?: Graph): ort.InferenceSession.SessionOptions {
  return {
    executionProviders: executionProviders(options, graph),
    intraOpNumThreads: options.threads ?? 1,
    interOpNumThreads: 1,
    executionMode: 'sequential',
    enableMemPattern: false,
    enableCpuMemArena: true,
    graphOptimizationLevel: options.foldConstants === true ? 'basic' : 'disabled',
    logSeverityLevel: 3,
    ...(options.profilePrefix === undefined ? {} : { enableProfiling: true, profileFilePrefix: options.profilePrefix }),
    extra: { session: { intra_op: { allow_spinning: options.spin === true ? '1' : '0' } } },
  };
}

/** The device first, then the processor for the nodes that the device has no kernel for. */
function executionProviders(
  { placement, capabilities }: SessionOptions,
  graph: Graph | undefined,
): ort.InferenceSession.ExecutionProviderConfig[] {
  switch (placement?.device) {
    case undefined:
    case 'cpu':
      return ['cpu'];
    case 'cuda':
      return [{ name: 'cuda', deviceId: placement.deviceId ?? 0 }, 'cpu'];
    case 'webgpu': {
      const forced = graph === undefined ? [] : cpuNodeNames(graph, capabilities ?? placement.capabilities, placement);
      return [{ name: 'webgpu', ...(forced.length === 0 ? {} : { forceCpuNodeNames: forced }) }, 'cpu'];
    }
  }
}

/** A compiled graph. Not thread-safe: one session belongs to one thread. */
export class Session {
  private constructor(
    private readonly session: ort.InferenceSession,
    private readonly outputNames: readonly string[],
  ) {}

  static async create(graph: Graph, options: SessionOptions = {}): Promise<Session> {
    const values = new Map([...(options.initializers ?? [])].map(([name, { data }]) => [name, data]));
    const bytes = encodeGraph(graph, options.capabilities ?? options.placement?.capabilities, { values });
    const session = await ort.InferenceSession.create(bytes, ortOptions(options, graph));
    return new Session(
      session,
      graph.outputs.map((o) => o.name),
    );
  }

  /** Opens a model file; weights that it keeps in a file beside it are mapped into memory and read when they are needed. */
  static async open(path: string, options: Omit<SessionOptions, 'capabilities'> = {}): Promise<Session> {
    const session = await ort.InferenceSession.create(path, ortOptions(options));
    return new Session(session, session.outputNames);
  }

  /**
   * Runs the graph. `outputs` limits what is fetched (every fetched byte is copied once by the binding).
   * @throws Error with the ORT message when a feed is missing or a shape does not fit.
   */
  async run(feeds: Readonly<Record<string, Tensor>>, outputs?: readonly string[]): Promise<Record<string, Tensor>> {
    const ortFeeds: Record<string, ort.Tensor> = {};
    for (const [name, t] of Object.entries(feeds))
      ortFeeds[name] = new ort.Tensor(ORT_TYPE[t.dtype], t.data as Float32Array, t.shape);
    const names = outputs ?? this.outputNames;
    const results = await this.session.run(ortFeeds, names);
    const out: Record<string, Tensor> = {};
    for (const name of names) {
      const t = results[name];
      const dtype = t === undefined ? undefined : DTYPE_OF[t.type];
      if (t === undefined || dtype === undefined)
        throw new Error(`output "${name}" came back as ${t?.type ?? 'nothing'}`);
      out[name] = { dtype, shape: t.dims, data: t.data as TensorData };
    }
    return out;
  }

  endProfiling(): void {
    this.session.endProfiling();
  }

  async release(): Promise<void> {
    await this.session.release();
  }
}
