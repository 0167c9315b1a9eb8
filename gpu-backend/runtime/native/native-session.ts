import { isMainThread } from 'node:worker_threads';
import koffi from 'koffi';
import type { InferenceSession } from 'onnxruntime-node';
import type { DType } from '../../graph/graph.ts';
import type { SessionBinding } from '../bound-run.ts';
import type { Tensor } from '../session.ts';
import { withoutDenormals } from './denormals.ts';
import { type Library, OutPointer, openLibrary } from './library.ts';
import { NativeRun, type SessionHandles } from './native-run.ts';
import { checkTensor, createValue, readTypeAndShape } from './ort-value.ts';
import type { PrepackedWeights } from './prepacked-weights.ts';
import { createSessionOptions, deviceMemory } from './session-options.ts';

/** An input or output as the model declares it; sizes that are not fixed are -1. */
export interface Port {
  readonly name: string;
  /** undefined: a type that the project has no tensors of. */
  readonly dtype: DType | undefined;
  readonly shape: readonly number[];
  /** The name as a C string, in memory that does not move. */
  readonly cName: Uint8Array;
}

export interface NativeOptions {
  /** As for onnxruntime-node. */
  readonly options: InferenceSession.SessionOptions;
  /**
   * Weights by the names of initializers in the model, which may be mere placeholders there. Their memory is used as it is:
   * it must not change while the session lives. Several sessions may be given the same.
   */
  readonly initializers?: ReadonlyMap<string, Tensor>;
  /** Packed weights that sessions with the same initializers share. */
  readonly prepacked?: PrepackedWeights;
}

/** What a session holds outside of JavaScript, and the memory that native code reads. */
interface Handles extends SessionHandles {
  options: bigint;
  values: bigint[];
  /** Keeps alive what native code points into. */
  kept: readonly unknown[];
}

const out = new OutPointer();

/**
 * Sessions of a worker thread that ends. One that is terminated has no chance: what it held stays allocated, so sessions
 * are released before `terminate`.
 */
const live = new Set<Handles>();
if (!isMainThread) process.once('exit', () => live.forEach(release));

function release(handles: Handles): void {
  const { api } = handles.library;
  for (const releaseRun of handles.runs) releaseRun();
  handles.runs.clear();
  if (handles.session !== 0n) api.releaseSession(handles.session);
  if (handles.options !== 0n) api.releaseSessionOptions(handles.options);
  for (const value of handles.values) api.releaseValue(value);
  if (handles.deviceMemory !== handles.library.cpuMemory) api.releaseMemoryInfo(handles.deviceMemory);
  handles.deviceMemory = handles.library.cpuMemory;
  handles.session = 0n;
  handles.options = 0n;
  handles.values = [];
  handles.kept = [];
  live.delete(handles);
}

/** Sessions that nobody released are released when they are collected. */
const collected = new FinalizationRegistry(release);

/** A session of ONNX Runtime's C API. Belongs to the thread that created it. */
export class NativeSession implements SessionBinding {
  readonly binding = 'native';
  readonly outputNames: readonly string[];
  readonly inputs: readonly Port[];
  readonly outputs: readonly Port[];
  readonly #handles: Handles;

  /**
   * @param model bytes of an ONNX model, or the path of one
   * @throws Error with ONNX Runtime's message
   */
  constructor(model: Uint8Array | string, { options, initializers = new Map(), prepacked }: NativeOptions) {
    const library = openLibrary();
    const { api, env } = library;
    const none = { session: 0n, options: 0n, values: [], kept: [], running: 0, deviceMemory: library.cpuMemory };
    const handles: Handles = { library, runs: new Set(), ...none };
    try {
      handles.options = createSessionOptions(library, options);
      handles.deviceMemory = deviceMemory(library, options);
      if (initializers.size > 0) addInitializers(handles, initializers);
      handles.kept = [...initializers.values(), prepacked];
      const target = handles.options;
      const create = (session: BigUint64Array): void => {
        if (typeof model === 'string') {
          if (prepacked === undefined) api.createSession(env, model, target, session);
          else api.createSessionWithPrepackedWeightsContainer(env, model, target, prepacked.handle, session);
        } else if (prepacked === undefined) api.createSessionFromArray(env, model, model.byteLength, target, session);
        else {
          const { byteLength } = model;
          api.createSessionFromArrayWithPrepackedWeightsContainer(
            env,
            model,
            byteLength,
            target,
            prepacked.handle,
            session,
          );
        }
      };
      // The library sets the first session's arithmetic for the thread that creates it, once and for all.
      handles.session = out.handle((session) => withoutDenormals(() => create(session)));
      this.inputs = readPorts(library, handles.session, 'Input');
      this.outputs = readPorts(library, handles.session, 'Output');
    } catch (error) {
      release(handles);
      throw error;
    }
    this.outputNames = this.outputs.map(({ name }) => name);
    this.#handles = handles;
    live.add(handles);
    collected.register(this, handles, this);
  }

  /** One run with bindings of its own; results are copies. */
  async run(feeds: Readonly<Record<string, Tensor>>, outputs: readonly string[]): Promise<Record<string, Tensor>> {
    const run = this.bind();
    try {
      for (const { name } of this.inputs) if (feeds[name] !== undefined) run.input(name, feeds[name]);
      for (const name of outputs) run.output(name);
      run.run();
      return run.readAll();
    } finally {
      run.release();
    }
  }

  /** Inputs and outputs that are bound once for many runs. */
  bind(): NativeRun {
    if (this.#handles.session === 0n) throw new Error('the session is released');
    return new NativeRun(this, this.#handles);
  }

  /** Ends profiling; returns the path of the profile. */
  endProfiling(): string {
    const { library, session } = this.#handles;
    if (session === 0n) throw new Error('the session is released');
    return takeText(library, (text) => library.api.sessionEndProfiling(session, library.allocator, text));
  }

  /**
   * Frees the session and everything bound to it. Releasing it again does nothing.
   * @throws Error while a run is under way on another thread
   */
  async release(): Promise<void> {
    if (this.#handles.running > 0) throw new Error('a run is under way; wait for it before releasing its session');
    collected.unregister(this);
    release(this.#handles);
  }
}

/**
 * Gives the session weights where they lie. As external initializers they replace the model's placeholders before anything
 * is derived from them; as shared ones they are packed into the container instead of the session.
 */
function addInitializers(handles: Handles, initializers: ReadonlyMap<string, Tensor>): void {
  const { library, options } = handles;
  const { api } = library;
  for (const [name, tensor] of initializers) {
    checkTensor(name, tensor);
    const value = createValue(library, tensor);
    handles.values.push(value);
    api.addInitializer(options, name, value);
  }
  const values = BigUint64Array.from(handles.values);
  api.addExternalInitializers(options, [...initializers.keys(), null], values, values.length);
}

/** Text that the API allocated: copied and freed. */
function takeText({ api, allocator }: Library, call: (out: BigUint64Array) => void): string {
  const address = out.handle(call);
  const text = koffi.decode.string(address);
  api.allocatorFree(allocator, address);
  return text;
}

function cString(text: string): Uint8Array {
  const bytes = new TextEncoder().encode(text);
  const memory = new Uint8Array(new ArrayBuffer(bytes.length + 1));
  memory.set(bytes);
  return memory;
}

function readPorts(library: Library, session: bigint, kind: 'Input' | 'Output'): Port[] {
  const { api, allocator } = library;
  const count = out.count((n) => api[`sessionGet${kind}Count`](session, n));
  return Array.from({ length: count }, (_, index) => {
    const name = takeText(library, (text) => api[`sessionGet${kind}Name`](session, index, allocator, text));
    const type = out.handle((info) => api[`sessionGet${kind}TypeInfo`](session, index, info));
    try {
      // NULL for what is no tensor (a sequence, say). The tensor info belongs to the type info.
      const tensor = out.count((info) => api.castTypeInfoToTensorInfo(type, info)) === 0 ? undefined : out.take();
      const cName = cString(name);
      return {
        name,
        cName,
        ...(tensor === undefined ? { dtype: undefined, shape: [] } : readTypeAndShape(library, tensor)),
      };
    } finally {
      api.releaseTypeInfo(type);
    }
  });
}
