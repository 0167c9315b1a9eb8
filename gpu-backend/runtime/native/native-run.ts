import koffi from 'koffi';
import type { BoundRun } from '../bound-run.ts';
import type { Tensor } from '../session.ts';
import { withoutDenormals } from './denormals.ts';
import { type Library, OutPointer } from './library.ts';
import type { NativeSession, Port } from './native-session.ts';
import { bytesOfShape, checkTensor, copyValue, createValue, readValueType } from './ort-value.ts';

const out = new OutPointer();
const length = new OutPointer();

interface Bound {
  readonly port: Port;
  isBound: boolean;
  /** Set when it is bound to memory of ours. */
  tensor: Tensor | undefined;
  /** Where each run makes room for an output that has no tensor: OrtMemoryInfo*. */
  memory: bigint;
}

/** What runs share with the session that made them. */
export interface SessionHandles {
  readonly library: Library;
  /** OrtSession*, 0 when released. */
  session: bigint;
  /** OrtMemoryInfo* of the session's device. */
  deviceMemory: bigint;
  /** Release functions of the session's runs. */
  readonly runs: Set<() => void>;
  /** Runs under way on other threads. */
  running: number;
}

/** A bound run by IO binding: no copies on the processor, one native call a run. */
export class NativeRun implements BoundRun {
  readonly #library: Library;
  readonly #session: NativeSession;
  readonly #handles: SessionHandles;
  /** OrtIoBinding* */
  readonly #binding: bigint;
  readonly #inputs: ReadonlyMap<string, Bound>;
  readonly #outputs: ReadonlyMap<string, Bound>;
  /** Outputs in the order they were first bound, which is the order of GetBoundOutputValues. */
  readonly #bound: Bound[] = [];
  readonly #release: () => void;
  readonly #state = { released: false };
  /** A device's provider copies inputs when they are bound, so they are bound again before each run. */
  readonly #copiesInputs: boolean;
  #missing: number;
  #running = false;
  #succeeded = false;
  /** Whether a run may have left results in outputs that have no tensor. */
  #leftResults = false;

  /** @param session that owns the handles; it is kept alive by the run */
  constructor(session: NativeSession, handles: SessionHandles) {
    const { library, runs } = handles;
    this.#library = library;
    this.#session = session;
    this.#handles = handles;
    const bound = (ports: readonly Port[]) =>
      new Map(
        ports.map((port): [string, Bound] => [
          port.name,
          { port, isBound: false, tensor: undefined, memory: library.cpuMemory },
        ]),
      );
    this.#inputs = bound(session.inputs);
    this.#outputs = bound(session.outputs);
    this.#missing = session.inputs.length;
    this.#copiesInputs = handles.deviceMemory !== library.cpuMemory;
    const binding = out.handle((handle) => library.api.createIoBinding(handles.session, handle));
    const state = this.#state;
    this.#binding = binding;
    this.#release = () => {
      if (state.released) return;
      state.released = true;
      library.api.releaseIoBinding(binding);
    };
    runs.add(this.#release);
    collected.register(this, { runs, release: this.#release }, this);
  }

  input(name: string, tensor: Tensor): void {
    this.#check();
    const input = this.#inputOf(name);
    if (isSame(input.tensor, tensor)) return;
    checkPort('input', input.port, tensor);
    this.#bindInput(input, tensor);
    this.#markInput(input, tensor);
  }

  output(name: string, place?: Tensor | 'device'): void {
    this.#check();
    const output = this.#outputs.get(name) ?? unknownPort('output', name, this.#session.outputs);
    if (place === undefined || place === 'device') {
      output.memory = place === 'device' ? this.#handles.deviceMemory : this.#library.cpuMemory;
      this.#makeRoom(output);
      output.tensor = undefined;
    } else {
      if (output.isBound && isSame(output.tensor, place)) return;
      checkPort('output', output.port, place);
      const { api } = this.#library;
      const value = createValue(this.#library, place);
      try {
        api.bindOutput(this.#binding, output.port.cName, value);
      } finally {
        api.releaseValue(value); // The binding shares it.
      }
      output.tensor = place;
    }
    if (!output.isBound) this.#bound.push(output);
    output.isBound = true;
  }

  run(): void {
    this.#prepare();
    withoutDenormals(() => this.#library.api.runWithBinding(this.#handles.session, null, this.#binding));
    this.#succeeded = true;
  }

  /** On a thread of koffi's pool, with that one's arithmetic (denormals.ts). At most 256 such runs at a time in a process. */
  runAsync(): Promise<void> {
    this.#prepare();
    this.#running = true;
    this.#handles.running++;
    const { api } = this.#library;
    return new Promise((resolve, reject) => {
      api.runWithBindingAsync(this.#handles.session, null, this.#binding, (error, status) => {
        this.#running = false;
        this.#handles.running--;
        try {
          if (error !== null && error !== undefined) throw error;
          api.throwStatus(status);
          this.#succeeded = true;
          resolve();
        } catch (failure) {
          reject(failure);
        }
      });
    });
  }

  feedBack(outputName: string, inputName: string): void {
    const output = this.#outputOf(outputName);
    const input = this.#inputOf(inputName);
    if (output.tensor !== undefined)
      throw new Error(`output "${outputName}" is bound to a tensor; bind that as the input`);
    if (output.port.dtype !== input.port.dtype)
      throw new Error(`output "${outputName}" is ${output.port.dtype}, input "${inputName}" is ${input.port.dtype}`);
    this.#withValues((handleOf) => {
      this.#library.api.bindInput(this.#binding, input.port.cName, handleOf(output));
    });
    this.#markInput(input, undefined);
  }

  shapeOf(name: string): readonly number[] {
    const output = this.#outputOf(name);
    return output.tensor?.shape ?? this.#withValues((handleOf) => readValueType(this.#library, handleOf(output)).shape);
  }

  read(name: string): Tensor {
    const output = this.#outputOf(name);
    return output.tensor ?? this.#withValues((handleOf) => this.#copy(output, handleOf(output)));
  }

  /** All outputs that are bound, by name. */
  readAll(): Record<string, Tensor> {
    return this.#withValues((handleOf) =>
      Object.fromEntries(this.#bound.map((o) => [o.port.name, o.tensor ?? this.#copy(o, handleOf(o))])),
    );
  }

  release(): void {
    if (this.#running) throw new Error('a run is under way; wait for it before releasing');
    collected.unregister(this);
    this.#handles.runs.delete(this.#release);
    this.#release();
    for (const port of [...this.#inputs.values(), ...this.#outputs.values()]) port.tensor = undefined;
  }

  #check(): void {
    if (this.#state.released) throw new Error('the run or its session is released');
    if (this.#running) throw new Error('a run is under way; wait for it before changing what is bound');
  }

  /** Refuses a run that native code would not survive, and makes room for results. */
  #prepare(): void {
    this.#check();
    if (this.#missing > 0) {
      const missing = [...this.#inputs.values()].filter(({ isBound }) => !isBound);
      throw new Error(`input ${missing.map(({ port }) => `"${port.name}"`).join(', ')} is missing`);
    }
    if (this.#bound.length === 0) throw new Error('no output is bound: nothing to run for');
    for (const input of this.#inputs.values()) {
      if (input.tensor === undefined) continue;
      checkStillThere(input.port, input.tensor);
      if (this.#copiesInputs) this.#bindInput(input, input.tensor);
    }
    for (const output of this.#bound) {
      if (output.tensor !== undefined) checkStillThere(output.port, output.tensor);
      // A run leaves its result bound, and the next would write into it, whatever shape it has.
      else if (this.#leftResults) this.#makeRoom(output);
    }
    this.#succeeded = false;
    this.#leftResults = true;
  }

  #bindInput({ port }: Bound, tensor: Tensor): void {
    const { api } = this.#library;
    const value = createValue(this.#library, tensor);
    try {
      api.bindInput(this.#binding, port.cName, value);
    } finally {
      api.releaseValue(value);
    }
  }

  #markInput(input: Bound, tensor: Tensor | undefined): void {
    if (!input.isBound) this.#missing--;
    input.isBound = true;
    input.tensor = tensor;
  }

  #makeRoom({ port, memory }: Bound): void {
    this.#library.api.bindOutputToDevice(this.#binding, port.cName, memory);
  }

  #inputOf(name: string): Bound {
    return this.#inputs.get(name) ?? unknownPort('input', name, this.#session.inputs);
  }

  /** An output that the last run gave. */
  #outputOf(name: string): Bound {
    this.#check();
    const output = this.#outputs.get(name) ?? unknownPort('output', name, this.#session.outputs);
    if (!output.isBound) throw new Error(`output "${name}" is not bound`);
    if (!this.#succeeded) throw new Error(`output "${name}" is there after a run that succeeded`);
    return output;
  }

  #copy(output: Bound, value: bigint): Tensor {
    if (output.memory !== this.#library.cpuMemory)
      throw new Error(`output "${output.port.name}" lies in the device's memory; bind it without 'device' to read it`);
    return copyValue(this.#library, output.port.name, value);
  }

  /** Gives `use` the OrtValue* that the last run left for each output. */
  #withValues<T>(use: (handleOf: (output: Bound) => bigint) => T): T {
    const { api, allocator } = this.#library;
    length.memory[0] = 0n;
    const list = out.handle((values) => api.getBoundOutputValues(this.#binding, allocator, values, length.memory));
    const values = [...new BigUint64Array(koffi.view(list, length.number() * 8))];
    api.allocatorFree(allocator, list);
    try {
      return use((output) => {
        const value = values[this.#bound.indexOf(output)];
        if (value === undefined) throw new Error(`output "${output.port.name}" was not made`);
        return value;
      });
    } finally {
      for (const value of values) api.releaseValue(value);
    }
  }
}

/** Runs that nobody released are released when they are collected; their session, which they hold, lives till then. */
const collected = new FinalizationRegistry(
  ({ runs, release }: { readonly runs: Set<() => void>; readonly release: () => void }) => {
    runs.delete(release);
    release();
  },
);

const isSame = (a: Tensor | undefined, b: Tensor): boolean =>
  a !== undefined &&
  (a === b ||
    (a.data === b.data &&
      a.dtype === b.dtype &&
      a.shape.length === b.shape.length &&
      a.shape.every((size, axis) => size === b.shape[axis])));

function checkPort(kind: 'input' | 'output', port: Port, tensor: Tensor): void {
  const { name, dtype, shape } = port;
  if (dtype === undefined) throw new Error(`${kind} "${name}" of the model is of a type that tensors here cannot have`);
  const fits =
    tensor.dtype === dtype &&
    tensor.shape.length === shape.length &&
    shape.every((size, axis) => size < 0 || size === tensor.shape[axis]);
  if (!fits)
    throw new Error(
      `${kind} "${name}" of the model is ${dtype} [${shape.map((size) => (size < 0 ? '?' : size))}], got ${tensor.dtype} [${tensor.shape}]`,
    );
  checkTensor(name, tensor);
}

/** A buffer that was transferred to another thread is gone, and its memory may be another's. */
function checkStillThere(port: Port, tensor: Tensor): void {
  if (tensor.data.byteLength !== bytesOfShape(tensor.dtype, tensor.shape))
    throw new Error(`the memory of "${port.name}" was transferred away while it was bound`);
}

function unknownPort(kind: string, name: string, ports: readonly Port[]): never {
  throw new Error(`the model has no ${kind} "${name}"; it has ${ports.map((port) => port.name).join(', ')}`);
}
