import koffi from 'koffi';
import type { BoundRun } from '../bound-run.ts';
import type { Tensor } from '../session.ts';
import { type Library, OutPointer } from './library.ts';
import type { NativeSession, Port } from './native-session.ts';
import { bytesOfShape, checkTensor, copyValue, createValue, readValueType } from './ort-value.ts';

const out = new OutPointer();
const length = new OutPointer();

interface Bound {
  readonly port: Port;
  /** undefined: not bound (inputs), or allocated by each run (outputs). */
  tensor: Tensor | undefined;
}

const bound = (ports: readonly Port[]) =>
  new Map(ports.map((port): [string, Bound] => [port.name, { port, tensor: undefined }]));

/** A bound run by IO binding: no copies, one native call a run. */
export class NativeRun implements BoundRun {
  readonly #library: Library;
  readonly #session: NativeSession;
  readonly #sessionHandle: bigint;
  readonly #binding: bigint;
  readonly #inputs: ReadonlyMap<string, Bound>;
  readonly #outputs: ReadonlyMap<string, Bound>;
  /** Outputs in the order they were first bound, which is the order of GetBoundOutputValues. */
  readonly #bound: Bound[] = [];
  readonly #runs: Set<() => void>;
  readonly #release: () => void;
  readonly #state = { released: false };
  #missing: number;
  #running = false;
  #hasRun = false;

  /** @param runs release functions of the session's runs, to which this one adds its own */
  constructor(library: Library, session: NativeSession, sessionHandle: bigint, runs: Set<() => void>) {
    this.#library = library;
    this.#session = session;
    this.#sessionHandle = sessionHandle;
    this.#inputs = bound(session.inputs);
    this.#outputs = bound(session.outputs);
    this.#missing = session.inputs.length;
    this.#runs = runs;
    const binding = out.handle((handle) => library.api.createIoBinding(sessionHandle, handle));
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
    const input = this.#inputs.get(name) ?? unknownPort('input', name, this.#session.inputs);
    if (isSame(input.tensor, tensor)) return;
    checkPort('input', input.port, tensor);
    const { api } = this.#library;
    const value = createValue(this.#library, tensor);
    try {
      api.bindInput(this.#binding, input.port.cName, value);
    } finally {
      api.releaseValue(value); // The binding shares it.
    }
    if (input.tensor === undefined) this.#missing--;
    input.tensor = tensor;
  }

  output(name: string, tensor?: Tensor): void {
    this.#check();
    const output = this.#outputs.get(name) ?? unknownPort('output', name, this.#session.outputs);
    const isNew = !this.#bound.includes(output);
    if (!isNew && tensor !== undefined && isSame(output.tensor, tensor)) return;
    if (tensor === undefined) this.#bindToMainMemory(output);
    else {
      checkPort('output', output.port, tensor);
      const { api } = this.#library;
      const value = createValue(this.#library, tensor);
      try {
        api.bindOutput(this.#binding, output.port.cName, value);
      } finally {
        api.releaseValue(value);
      }
    }
    if (isNew) this.#bound.push(output);
    output.tensor = tensor;
  }

  run(): void {
    this.#prepare();
    this.#hasRun = false;
    this.#library.api.runWithBinding(this.#sessionHandle, null, this.#binding);
    this.#hasRun = true;
  }

  /** Runs on a thread of libuv's pool, so that this one stays free. At most 256 such runs at a time in a process. */
  runAsync(): Promise<void> {
    this.#prepare();
    this.#hasRun = false;
    this.#running = true;
    const { api } = this.#library;
    return new Promise((resolve, reject) => {
      api.runWithBindingAsync(this.#sessionHandle, null, this.#binding, (error, status) => {
        this.#running = false;
        try {
          if (error !== null && error !== undefined) throw error;
          api.throwStatus(status);
          this.#hasRun = true;
          resolve();
        } catch (failure) {
          reject(failure);
        }
      });
    });
  }

  shapeOf(name: string): readonly number[] {
    const output = this.#outputOf(name);
    return output.tensor?.shape ?? this.#withValues((handleOf) => readValueType(this.#library, handleOf(output)).shape);
  }

  read(name: string): Tensor {
    const output = this.#outputOf(name);
    return output.tensor ?? this.#withValues((handleOf) => copyValue(this.#library, name, handleOf(output)));
  }

  /** All outputs that are bound, by name. */
  readAll(): Record<string, Tensor> {
    return this.#withValues((handleOf) =>
      Object.fromEntries(
        this.#bound.map((o) => [o.port.name, o.tensor ?? copyValue(this.#library, o.port.name, handleOf(o))]),
      ),
    );
  }

  release(): void {
    if (this.#running) throw new Error('a run is under way; wait for it before releasing');
    collected.unregister(this);
    this.#runs.delete(this.#release);
    this.#release();
    for (const port of [...this.#inputs.values(), ...this.#outputs.values()]) port.tensor = undefined;
  }

  #check(): void {
    if (this.#state.released) throw new Error('the run or its session is released');
    if (this.#running) throw new Error('a run is under way; wait for it before changing what is bound');
  }

  /** Refuses a run that native code would not survive. */
  #prepare(): void {
    this.#check();
    if (this.#missing > 0) {
      const missing = [...this.#inputs.values()].filter(({ tensor }) => tensor === undefined);
      throw new Error(`input ${missing.map(({ port }) => `"${port.name}"`).join(', ')} is missing`);
    }
    if (this.#bound.length === 0) throw new Error('no output is bound: nothing to run for');
    for (const input of this.#inputs.values()) checkStillThere(input);
    for (const output of this.#bound) {
      if (output.tensor !== undefined) checkStillThere(output);
      // A run leaves its result bound, and the next would write into it, whatever shape it has.
      else if (this.#hasRun) this.#bindToMainMemory(output);
    }
  }

  #bindToMainMemory({ port }: Bound): void {
    this.#library.api.bindOutputToDevice(this.#binding, port.cName, this.#library.cpuMemory);
  }

  #outputOf(name: string): Bound {
    this.#check();
    const output = this.#outputs.get(name) ?? unknownPort('output', name, this.#session.outputs);
    if (!this.#bound.includes(output)) throw new Error(`output "${name}" is not bound`);
    if (!this.#hasRun) throw new Error(`output "${name}" is there after a run that succeeded`);
    return output;
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
function checkStillThere({ port, tensor }: Bound): void {
  if (tensor !== undefined && tensor.data.byteLength !== bytesOfShape(tensor.dtype, tensor.shape))
    throw new Error(`the memory of "${port.name}" was transferred away while it was bound`);
}

function unknownPort(kind: string, name: string, ports: readonly Port[]): never {
  throw new Error(`the model has no ${kind} "${name}"; it has ${ports.map((port) => port.name).join(', ')}`);
}
