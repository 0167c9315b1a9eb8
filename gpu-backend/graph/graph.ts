import type { Dim, Shape } from './dim.ts';
import { showShape } from './dim.ts';
import type { OpAttrs, OpName } from './ops/attrs.ts';
import { OPS } from './ops/table.ts';

/** Element types that can stand in a graph. Computation is f32; f16, u8 and i8 are storage types. */
export type DType = 'f32' | 'f16' | 'i64' | 'u8' | 'i8' | 'bool';

export interface TensorType {
  readonly dtype: DType;
  readonly shape: Shape;
}

/** One tensor of a graph in static single assignment form. */
export interface Value extends TensorType {
  readonly id: number;
}

export interface Node<K extends OpName = OpName> {
  readonly op: K;
  readonly attrs: OpAttrs[K];
  readonly inputs: readonly Value[];
  readonly outputs: readonly Value[];
  /** Slash-separated place in the model, for prints and profiles. */
  readonly scope: string;
  /** Recomputation region (gradient checkpointing) this node belongs to, or -1. */
  readonly region: number;
}

export interface GraphInput {
  readonly name: string;
  /** `param` inputs are weights, `data` inputs change with every run. */
  readonly kind: 'param' | 'data';
  readonly value: Value;
}

export interface Constant {
  readonly value: Value;
  readonly data: Float32Array | BigInt64Array;
}

/** A recomputation region: its nodes are emitted again in the backward pass, from its inputs. */
export interface Region {
  readonly inputs: readonly Value[];
}

/**
 * A typed tensor graph under construction. Nodes are appended in topological order and never changed; passes derive
 * new node lists. Shapes may be symbolic; every value's type is inferred by the op's row when it is emitted.
 */
export class Graph {
  readonly inputs: GraphInput[] = [];
  readonly constants: Constant[] = [];
  readonly nodes: Node[] = [];
  readonly outputs: { name: string; value: Value }[] = [];
  readonly regions: Region[] = [];
  private nextId = 0;
  private readonly producers = new Map<number, Node>();
  private scopeStack: string[] = [];
  private currentRegion = -1;
  private readonly constantCache = new Map<string, Value>();

  private newValue(type: TensorType): Value {
    return { id: this.nextId++, dtype: type.dtype, shape: type.shape };
  }

  /** Declares a graph input. Names are unique. */
  input(name: string, dtype: DType, shape: Shape, kind: GraphInput['kind'] = 'data'): Value {
    if (this.inputs.some((i) => i.name === name)) throw new Error(`graph input "${name}" is declared twice`);
    const value = this.newValue({ dtype, shape });
    this.inputs.push({ name, kind, value });
    return value;
  }

  /** A literal tensor; equal small literals are shared. */
  constant(data: Float32Array | BigInt64Array, shape: readonly number[]): Value {
    const size = shape.reduce((a, b) => a * b, 1);
    if (data.length !== size)
      throw new Error(`constant of shape ${showShape(shape)} needs ${size} elements, got ${data.length}`);
    const dtype: DType = data instanceof Float32Array ? 'f32' : 'i64';
    const key = data.length <= 8 ? `${dtype}:${shape.join(',')}:${data.join(',')}` : '';
    const cached = key === '' ? undefined : this.constantCache.get(key);
    if (cached !== undefined) return cached;
    const value = this.newValue({ dtype, shape });
    this.constants.push({ value, data });
    if (key !== '') this.constantCache.set(key, value);
    return value;
  }

  output(name: string, value: Value): void {
    if (this.outputs.some((o) => o.name === name)) throw new Error(`graph output "${name}" is declared twice`);
    this.outputs.push({ name, value });
  }

  /** Appends one node; the op's row infers the output types and checks the inputs. */
  emit<K extends OpName>(op: K, inputs: readonly Value[], attrs: OpAttrs[K]): Value[] {
    let types: TensorType[];
    try {
      types = OPS[op].infer(inputs, attrs);
    } catch (cause) {
      const where = this.scopeStack.join('/') || '(top)';
      const message = cause instanceof Error ? cause.message : String(cause);
      throw new Error(
        `${op} at ${where}: ${message}; inputs ${inputs.map((v) => v.dtype + showShape(v.shape)).join(', ')}`,
        { cause },
      );
    }
    const outputs = types.map((t) => this.newValue(t));
    const node = {
      op,
      attrs,
      inputs,
      outputs,
      scope: this.scopeStack.join('/'),
      region: this.currentRegion,
    } as Node;
    this.nodes.push(node);
    for (const { id } of outputs) this.producers.set(id, node);
    return outputs;
  }

  /** The node that makes a value; undefined for inputs and constants. */
  producerOf(value: Value): Node | undefined {
    return this.producers.get(value.id);
  }

  /** Runs `body` with `name` appended to the scope of the nodes it emits. */
  scope<T>(name: string, body: () => T): T {
    this.scopeStack.push(name);
    try {
      return body();
    } finally {
      this.scopeStack.pop();
    }
  }

  /**
   * Gradient checkpointing: what `body` emits is not kept for the backward pass but emitted again there, so that only
   * `inputs` stay alive in between. `body` may use weights and constants freely, but no other intermediate value.
   */
  checkpoint<T>(inputs: readonly Value[], body: () => T): T {
    if (this.currentRegion !== -1) return body();
    this.regions.push({ inputs });
    this.currentRegion = this.regions.length - 1;
    try {
      return body();
    } finally {
      this.currentRegion = -1;
    }
  }

  /** Size symbols and the input axis each can be read from at run time. @throws never; unresolvable symbols are reported by verify. */
  symbolSources(): Map<string, { input: GraphInput; axis: number }> {
    const sources = new Map<string, { input: GraphInput; axis: number }>();
    for (const input of this.inputs) {
      input.value.shape.forEach((dim: Dim, axis) => {
        if (typeof dim === 'number' || dim.terms.size !== 1) return;
        const [monomial, coefficient] = [...dim.terms][0] ?? ['', 0];
        if (coefficient === 1 && !monomial.includes('*') && !sources.has(monomial))
          sources.set(monomial, { input, axis });
      });
    }
    return sources;
  }
}
