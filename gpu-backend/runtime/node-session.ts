import * as ort from 'onnxruntime-node';
import type { DType } from '../graph/graph.ts';
import type { BoundRun, SessionBinding } from './bound-run.ts';
import type { Tensor, TensorData } from './session.ts';

const ORT_TYPE = { f32: 'float32', f16: 'float16', i64: 'int64', u8: 'uint8', i8: 'int8', bool: 'bool' } as const;
const DTYPE_OF: Readonly<Record<string, DType>> = {
  float32: 'f32',
  float16: 'f16',
  int64: 'i64',
  uint8: 'u8',
  int8: 'i8',
  bool: 'bool',
};

const toOrt = ({ dtype, shape, data }: Tensor): ort.Tensor =>
  new ort.Tensor(ORT_TYPE[dtype], data as Float32Array, shape);

function fromOrt(name: string, t: ort.Tensor | undefined): Tensor {
  const dtype = t === undefined ? undefined : DTYPE_OF[t.type];
  if (t === undefined || dtype === undefined) throw new Error(`output "${name}" came back as ${t?.type ?? 'nothing'}`);
  return { dtype, shape: t.dims, data: t.data as TensorData };
}

/** onnxruntime-node's own binding: runs anywhere the package does; every output that is fetched is copied once. */
export class NodeSession implements SessionBinding {
  readonly binding = 'node';
  readonly #session: ort.InferenceSession;

  private constructor(session: ort.InferenceSession) {
    this.#session = session;
  }

  static async create(model: Uint8Array | string, options: ort.InferenceSession.SessionOptions): Promise<NodeSession> {
    const session =
      typeof model === 'string'
        ? await ort.InferenceSession.create(model, options)
        : await ort.InferenceSession.create(model, options);
    return new NodeSession(session);
  }

  get outputNames(): readonly string[] {
    return this.#session.outputNames;
  }

  async run(feeds: Readonly<Record<string, Tensor>>, outputs: readonly string[]): Promise<Record<string, Tensor>> {
    const ortFeeds = Object.fromEntries(Object.entries(feeds).map(([name, tensor]) => [name, toOrt(tensor)]));
    const results = await this.#session.run(ortFeeds, outputs);
    return Object.fromEntries(outputs.map((name) => [name, fromOrt(name, results[name] as ort.Tensor | undefined)]));
  }

  bind(): BoundRun {
    return new NodeRun(this.#session);
  }

  endProfiling(): void {
    this.#session.endProfiling();
  }

  async release(): Promise<void> {
    await this.#session.release();
  }
}

/**
 * A bound run without IO binding: ONNX Runtime writes bound outputs in place, and the binding makes another copy of them
 * all the same.
 */
class NodeRun implements BoundRun {
  #session: ort.InferenceSession | undefined;
  readonly #feeds: Record<string, ort.Tensor> = {};
  readonly #fetches: Record<string, ort.Tensor | null> = {};
  readonly #given = new Map<string, Tensor>();
  #results: ort.InferenceSession.ReturnType | undefined;

  constructor(session: ort.InferenceSession) {
    this.#session = session;
  }

  input(name: string, tensor: Tensor): void {
    const session = this.#open();
    if (!session.inputNames.includes(name)) unknown('input', name, session.inputNames);
    this.#feeds[name] = toOrt(tensor);
  }

  output(name: string, place?: Tensor | 'device'): void {
    const session = this.#open();
    if (!session.outputNames.includes(name)) unknown('output', name, session.outputNames);
    const tensor = place === 'device' ? undefined : place;
    this.#fetches[name] = tensor === undefined ? null : toOrt(tensor);
    if (tensor === undefined) this.#given.delete(name);
    else this.#given.set(name, tensor);
  }

  async run(): Promise<void> {
    const session = this.#open();
    this.#results = undefined;
    if (Object.keys(this.#fetches).length === 0) throw new Error('no output is bound: nothing to run for');
    this.#results = await session.run(this.#feeds, this.#fetches);
  }

  runAsync(): Promise<void> {
    return this.run();
  }

  feedBack(output: string, input: string): void {
    if (this.#given.has(output)) throw new Error(`output "${output}" is bound to a tensor; bind that as the input`);
    this.input(input, this.read(output));
  }

  shapeOf(name: string): readonly number[] {
    return this.read(name).shape;
  }

  read(name: string): Tensor {
    const result = this.#results?.[name];
    if (result === undefined) throw new Error(`output "${name}" is there after a run that asked for it and succeeded`);
    return this.#given.get(name) ?? fromOrt(name, result as ort.Tensor);
  }

  release(): void {
    this.#session = undefined;
    this.#results = undefined;
    this.#given.clear();
    for (const tensors of [this.#feeds, this.#fetches]) for (const name of Object.keys(tensors)) delete tensors[name];
  }

  #open(): ort.InferenceSession {
    if (this.#session === undefined) throw new Error('the run is released');
    return this.#session;
  }
}

function unknown(kind: string, name: string, names: readonly string[]): never {
  throw new Error(`the model has no ${kind} "${name}"; it has ${names.join(', ')}`);
}
