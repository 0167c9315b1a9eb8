/**
 * ONNX Runtime behind one file: nothing outside of this folder names onnxruntime-node. Two bindings call the library that
 * it ships: its own, and its C API (native/), which writes outputs in place and reads weights where they lie.
 *
 * `run` blocks the calling thread with either, so sessions live in worker threads or
 * child processes, never on a server's event loop.
 */
import * as ort from 'onnxruntime-node';
import { type Capabilities, CPU_CAPABILITIES } from '../graph/capabilities.ts';
import type { DType, Graph } from '../graph/graph.ts';
import { LoopGraph, lowerLoop } from '../graph/loop.ts';
import { type FixedWeights, lowerGraph, type TensorValues } from '../graph/lowering.ts';
import { liveNodes, orderForRelease, verify } from '../graph/passes.ts';
import type { BoundRun, SessionBinding } from './bound-run.ts';
import { constantsOf } from './constants.ts';
import { cpuNodeNames, type Placement } from './device.ts';
import { type BindingChoice, chooseBinding } from './native/choose-binding.ts';
import { type NativeOptions, NativeSession } from './native/native-session.ts';
import type { PrepackedWeights } from './native/prepacked-weights.ts';
import { NodeSession } from './node-session.ts';
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
  /** Packed weights shared by sessions that are given the same initializers. onnxruntime-node's binding packs for each. */
  readonly prepacked?: PrepackedWeights;
  /** Default: auto. onnxruntime-node's binding opens WebGPU whatever is asked. */
  readonly binding?: BindingChoice;
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
  graph: Graph | LoopGraph,
  capabilities: Capabilities = CPU_CAPABILITIES,
  fixed: FixedWeights = {},
): Uint8Array {
  if (graph instanceof LoopGraph) {
    verify(graph.body, liveNodes(graph.body));
    return encodeOnnx(lowerLoop(graph, capabilities, fixed));
  }
  const nodes = orderForRelease(liveNodes(graph));
  verify(graph, nodes);
  return encodeOnnx(lowerGraph(graph, capabilities, nodes, fixed));
}

/**
 * Memory patterns are off (they double peak memory with dynamic shapes) and ORT's own optimiser too: the lowering already
 * emits fused kernels, loading is 4x faster, and common subexpression elimination would undo recomputation.
 */
function ortOptions(options: SessionOptions, graph?: Graph | LoopGraph): ort.InferenceSession.SessionOptions {
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
  graph: Graph | LoopGraph | undefined,
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
  private constructor(private readonly session: SessionBinding) {}

  /**
   * Compiles a graph.
   * @throws Error naming a weight that is not what the graph declares, or with ONNX Runtime's message
   */
  static async create(graph: Graph | LoopGraph, options: SessionOptions = {}): Promise<Session> {
    const { declared, used } = constantsOf(graph instanceof LoopGraph ? graph.body : graph, options.initializers);
    const capabilities = options.capabilities ?? options.placement?.capabilities;
    if (bindingOf(options) === 'node') {
      // Beside the model's bytes, not in them: those are copied once more and may not exceed 2 GB.
      const files = [...declared].map(([name, { data }], i) => ({ name, path: `weight${i}`, data: bytesOf(data) }));
      const places = new Map(
        files.map(({ name, path, data }) => [name, { location: path, offsetBytes: 0, lengthBytes: data.byteLength }]),
      );
      const bytes = encodeGraph(graph, capabilities, { places });
      const externalData = files.map(({ path, data }) => ({ path, data }));
      return new Session(await NodeSession.create(bytes, { ...ortOptions(options, graph), externalData }));
    }
    // Placeholders: the session reads weights where they lie.
    const place = ({ data }: Tensor) => ({ location: 'initializers', offsetBytes: 0, lengthBytes: data.byteLength });
    const places = new Map([...declared].map(([name, tensor]) => [name, place(tensor)]));
    const native: NativeOptions = {
      options: ortOptions(options, graph),
      initializers: used,
      ...(options.prepacked === undefined ? {} : { prepacked: options.prepacked }),
    };
    return new Session(new NativeSession(encodeGraph(graph, capabilities, { places }), native));
  }

  /** Opens a model file; weights that it keeps in a file beside it are mapped into memory and read when they are needed. */
  static async open(
    path: string,
    options: Omit<SessionOptions, 'capabilities' | 'initializers'> = {},
  ): Promise<Session> {
    if (bindingOf(options) === 'node') return new Session(await NodeSession.create(path, ortOptions(options)));
    return new Session(new NativeSession(path, { options: ortOptions(options) }));
  }

  /** How ONNX Runtime is called. */
  get binding(): 'node' | 'native' {
    return this.session.binding;
  }

  /**
   * Runs the graph once. `outputs` limits what is fetched: every fetched byte is copied once.
   * @throws Error when a feed is missing, or with ONNX Runtime's message when a shape does not fit.
   */
  async run(feeds: Readonly<Record<string, Tensor>>, outputs?: readonly string[]): Promise<Record<string, Tensor>> {
    return await this.session.run(feeds, outputs ?? this.session.outputNames);
  }

  /** Binds inputs and outputs for many runs. What is bound is released with the session. */
  bind(): BoundRun {
    return this.session.bind();
  }

  endProfiling(): void {
    this.session.endProfiling();
  }

  async release(): Promise<void> {
    await this.session.release();
  }
}

const bytesOf = ({ buffer, byteOffset, byteLength }: TensorData): Uint8Array =>
  new Uint8Array(buffer, byteOffset, byteLength);

/** WebGPU's provider is opened by onnxruntime-node alone. */
const bindingOf = ({ binding, placement }: SessionOptions): 'node' | 'native' =>
  placement?.device === 'webgpu' ? 'node' : chooseBinding(binding);
