import type { Capabilities } from './capabilities.ts';
import type { Dim, Shape } from './dim.ts';
import { dimKey } from './dim.ts';
import { fuseNodes } from './fuse.ts';
import type { DType, Graph, Value } from './graph.ts';
import type { OpName } from './ops/attrs.ts';
import type { OpRow } from './ops/row.ts';
import { OPS } from './ops/table.ts';

export type OnnxAttr =
  | number
  | bigint
  | string
  | readonly number[]
  | { readonly int: number }
  | { readonly ints: readonly number[] }
  | { readonly graph: OnnxSubgraph };

/** Values of a tensor of static shape. f16 is held as raw bits, bool as bytes. */
export type TensorValues = Float32Array | BigInt64Array | Uint8Array | Int8Array | Uint16Array;

/** One ONNX node before encoding. Numbers are floats; `{int}`/`{ints}` are integers. */
export interface OnnxNode {
  readonly opType: string;
  readonly domain: string;
  readonly inputs: readonly string[];
  readonly outputs: readonly string[];
  readonly attrs: Readonly<Record<string, OnnxAttr>>;
  readonly name: string;
  /** The op whose row emitted it. */
  readonly op?: OpName;
}

export interface OnnxTensor {
  readonly name: string;
  readonly dtype: DType;
  readonly shape: readonly number[];
  readonly data: TensorValues;
}

/** A weight whose bytes lie in another file, in the folder of the model file. */
export interface OnnxExternalTensor {
  readonly name: string;
  readonly dtype: DType;
  readonly shape: readonly number[];
  /** Name of the file. */
  readonly location: string;
  readonly offsetBytes: number;
  readonly lengthBytes: number;
}

/** Where the bytes of a `param` input lie. */
export type ExternalPlace = Pick<OnnxExternalTensor, 'location' | 'offsetBytes' | 'lengthBytes'>;

export interface OnnxValueInfo {
  readonly name: string;
  readonly dtype: DType;
  /** Static sizes, or a symbol name for a runtime dimension. */
  readonly shape: readonly (number | string)[];
}

/** A graph inside a node: it may read every value of the graphs around it by name, and its nodes stand in topological order. */
export type OnnxSubgraph = Pick<OnnxModel, 'inputs' | 'outputs' | 'nodes'>;

/** A whole model as plain data; runtime/onnx-encode.ts turns it into bytes. */
export interface OnnxModel {
  readonly inputs: readonly OnnxValueInfo[];
  readonly outputs: readonly OnnxValueInfo[];
  readonly initializers: readonly OnnxTensor[];
  readonly externals: readonly OnnxExternalTensor[];
  readonly nodes: readonly OnnxNode[];
}

/** Collects ONNX nodes while op rows lower themselves. */
export class LowerContext {
  readonly nodes: OnnxNode[] = [];
  readonly initializers: OnnxTensor[] = [];
  private readonly names = new Map<number, string>();
  private readonly literalNames = new Map<string, string>();
  private readonly dimNames = new Map<string, string>();
  private readonly shared = new Map<string, string>();
  private counter = 0;
  private scope = '';
  private op: OpName | undefined;

  constructor(
    readonly capabilities: Capabilities,
    private readonly graph: Graph,
  ) {}

  /** ONNX name of a graph value. */
  name(value: Value): string {
    const name = this.names.get(value.id);
    if (name === undefined)
      throw new Error(`value %${value.id} is used before it is lowered; the node list is not in topological order`);
    return name;
  }

  bind(value: Value, name: string): void {
    this.names.set(value.id, name);
  }

  /** Names what the nodes that follow are emitted for. */
  enter(scope: string, op?: OpName): void {
    this.scope = scope;
    this.op = op;
  }

  /** Emits one ONNX node and returns its first output name. */
  emit(opType: string, inputs: readonly string[], attrs: Readonly<Record<string, OnnxAttr>> = {}, domain = ''): string {
    return this.emitMany(opType, inputs, 1, attrs, domain)[0] ?? '';
  }

  /** @param outputs how many, or which of an operator's optional ones: those that are left out have the name '' */
  emitMany(
    opType: string,
    inputs: readonly string[],
    outputs: number | readonly boolean[],
    attrs: Readonly<Record<string, OnnxAttr>> = {},
    domain = '',
  ): string[] {
    const id = this.counter++;
    const wanted = typeof outputs === 'number' ? new Array<boolean>(outputs).fill(true) : outputs;
    const names = wanted.map((want, i) => (want ? `t${id}_${i}` : ''));
    this.nodes.push({
      opType,
      domain,
      inputs,
      outputs: names,
      attrs,
      name: `${this.scope === '' ? '' : `${this.scope}/`}${opType}_${id}`,
      ...(this.op === undefined ? {} : { op: this.op }),
    });
    return names;
  }

  /** Contrib (com.microsoft) node. */
  emitContrib(opType: string, inputs: readonly string[], attrs: Readonly<Record<string, OnnxAttr>> = {}): string {
    return this.emit(opType, inputs, attrs, 'com.microsoft');
  }

  /** A tensor several nodes can share: `make` runs once per key. */
  once(key: string, make: () => string): string {
    const known = this.shared.get(key);
    if (known !== undefined) return known;
    const name = make();
    this.shared.set(key, name);
    return name;
  }

  /** Shared literal: int64 vector. */
  ints(values: readonly number[]): string {
    return this.literal(`i:${values.join(',')}`, 'i64', [values.length], () => BigInt64Array.from(values, BigInt));
  }

  /** Shared literal: f32 scalar. */
  scalar(value: number): string {
    return this.literal(`f:${value}`, 'f32', [], () => Float32Array.of(value));
  }

  /** Shared literal: u8 scalar. */
  byte(value: number): string {
    return this.literal(`b:${value}`, 'u8', [], () => Uint8Array.of(value));
  }

  private literal(key: string, dtype: DType, shape: readonly number[], make: () => TensorValues): string {
    const known = this.literalNames.get(key);
    if (known !== undefined) return known;
    const name = `c${this.literalNames.size}`;
    this.literalNames.set(key, name);
    this.initializers.push({ name, dtype, shape, data: make() });
    return name;
  }

  /** int64 tensor of shape [1] holding the run-time size of a dimension. */
  dim(dim: Dim): string {
    if (typeof dim === 'number') return this.ints([dim]);
    const key = dimKey(dim);
    const known = this.dimNames.get(key);
    if (known !== undefined) return known;
    let sum: string | undefined;
    for (const [monomial, coefficient] of dim.terms) {
      let product: string | undefined;
      for (const symbolName of monomial.split('*').filter((s) => s !== '')) {
        const factor = this.symbolSize(symbolName);
        product = product === undefined ? factor : this.emit('Mul', [product, factor]);
      }
      if (product === undefined) product = this.ints([coefficient]);
      else if (coefficient !== 1) product = this.emit('Mul', [product, this.ints([coefficient])]);
      sum = sum === undefined ? product : this.emit('Add', [sum, product]);
    }
    const name = sum ?? this.ints([0]);
    this.dimNames.set(key, name);
    return name;
  }

  private symbolSize(symbolName: string): string {
    const key = `symbol ${symbolName}`;
    const known = this.dimNames.get(key);
    if (known !== undefined) return known;
    const source = this.graph.symbolSources().get(symbolName);
    if (source === undefined)
      throw new Error(
        `dimension symbol "${symbolName}" is not an axis of any graph input, so its size is unknown at run time`,
      );
    const name = this.emit('Shape', [this.name(source.input.value)], {
      start: { int: source.axis },
      end: { int: source.axis + 1 },
    });
    this.dimNames.set(key, name);
    return name;
  }

  /** int64 vector with the run-time sizes of a shape. `allowInfer`: one unknown may be -1 (Reshape only). */
  shape(shape: Shape, allowInfer = false): string {
    const dynamic = shape.filter((d) => typeof d !== 'number');
    if (dynamic.length === 0) return this.ints(shape as number[]);
    if (dynamic.length === 1 && allowInfer) return this.ints(shape.map((d) => (typeof d === 'number' ? d : -1)));
    const key = `shape ${shape.map(dimKey).join(',')}`;
    const known = this.dimNames.get(key);
    if (known !== undefined) return known;
    // Neighbouring static sizes share one literal.
    const parts: string[] = [];
    let run: number[] = [];
    for (const d of shape) {
      if (typeof d === 'number') run.push(d);
      else {
        if (run.length > 0) parts.push(this.ints(run));
        run = [];
        parts.push(this.dim(d));
      }
    }
    if (run.length > 0) parts.push(this.ints(run));
    const name = parts.length === 1 ? (parts[0] ?? '') : this.emit('Concat', parts, { axis: { int: 0 } });
    this.dimNames.set(key, name);
    return name;
  }
}

const onnxShape = (shape: Shape): (number | string)[] => shape.map((d) => (typeof d === 'number' ? d : dimKey(d)));

/** Weights that become part of the model instead of inputs of each run, by name. */
function externalTensors(graph: Graph, places: ReadonlyMap<string, ExternalPlace>): OnnxExternalTensor[] {
  return graph.inputs.flatMap(({ name, kind, value }) => {
    const place = places.get(name);
    if (place === undefined) return [];
    if (kind !== 'param' || value.shape.some((d) => typeof d !== 'number'))
      throw new Error(`input ${name} is no weight of static shape, so its bytes cannot lie in a file`);
    return [{ name, dtype: value.dtype, shape: value.shape as number[], ...place }];
  });
}

/** Weights that are written into the model itself. */
function embeddedTensors(graph: Graph, values: ReadonlyMap<string, TensorValues>): OnnxTensor[] {
  return graph.inputs.flatMap(({ name, kind, value }) => {
    const data = values.get(name);
    if (data === undefined) return [];
    if (kind !== 'param' || value.shape.some((d) => typeof d !== 'number'))
      throw new Error(`input ${name} is no weight of static shape, so it cannot be part of the model`);
    return [{ name, dtype: value.dtype, shape: value.shape as number[], data }];
  });
}

/** Weights that become part of a model instead of inputs of each run, by name. */
export interface FixedWeights {
  /** Those whose bytes lie in a file beside the model. */
  readonly places?: ReadonlyMap<string, ExternalPlace>;
  /** Those that are written into the model. */
  readonly values?: ReadonlyMap<string, TensorValues>;
}

/**
 * Graph → ONNX model for one device. Graph inputs and outputs keep their names.
 * @param fixed weights that are no inputs
 * Node order matters: ONNX Runtime walks depth-first from the leaves, last leaf first, so the caller orders nodes with
 * `orderForRelease` (passes.ts) when memory matters.
 */
export function lowerGraph(
  graph: Graph,
  capabilities: Capabilities,
  nodes = graph.nodes,
  { places = new Map(), values = new Map() }: FixedWeights = {},
): OnnxModel {
  const ctx = new LowerContext(capabilities, graph);
  for (const input of graph.inputs) ctx.bind(input.value, input.name);
  graph.constants.forEach((c, i) => {
    const name = `k${i}`;
    ctx.bind(c.value, name);
    ctx.initializers.push({ name, dtype: c.value.dtype, shape: c.value.shape as number[], data: c.data });
  });
  for (const node of fuseNodes(graph, nodes)) {
    ctx.enter(node.scope, node.op);
    const row = OPS[node.op] as OpRow<OpName>;
    row.lower(ctx, node).forEach((name, i) => {
      const output = node.outputs[i];
      if (output !== undefined && name !== '') ctx.bind(output, name);
    });
  }
  ctx.enter('');
  for (const { name, value } of graph.outputs) {
    ctx.nodes.push({
      opType: 'Identity',
      domain: '',
      inputs: [ctx.name(value)],
      outputs: [name],
      attrs: {},
      name: `output/${name}`,
    });
  }
  return {
    inputs: graph.inputs
      .filter((i) => !places.has(i.name) && !values.has(i.name))
      .map((i) => ({ name: i.name, dtype: i.value.dtype, shape: onnxShape(i.value.shape) })),
    outputs: graph.outputs.map((o) => ({ name: o.name, dtype: o.value.dtype, shape: onnxShape(o.value.shape) })),
    initializers: [...ctx.initializers, ...embeddedTensors(graph, values)],
    externals: externalTensors(graph, places),
    nodes: renameOutputs(readNodes(ctx.nodes, graph), new Set(graph.inputs.map((i) => i.name))),
  };
}

/** Nodes that an output needs: rows emit all they can give, such as statistics that only gradients read. */
function readNodes(nodes: readonly OnnxNode[], graph: Graph): OnnxNode[] {
  const needed = new Set(graph.outputs.map((o) => o.name));
  return nodes
    .toReversed()
    .filter((node) => {
      if (!node.outputs.some((name) => needed.has(name))) return false;
      for (const name of node.inputs) needed.add(name);
      return true;
    })
    .reverse();
}

/** Folds `Identity` output nodes into their producer, so that an output costs no copy. */
function renameOutputs(nodes: readonly OnnxNode[], inputNames: ReadonlySet<string>): OnnxNode[] {
  const produced = new Set(nodes.flatMap((n) => n.outputs));
  const renames = new Map<string, string>();
  const kept = nodes.filter((node) => {
    const source = node.inputs[0] ?? '';
    const target = node.outputs[0] ?? '';
    if (node.opType !== 'Identity' || !node.name.startsWith('output/')) return true;
    if (inputNames.has(source) || !produced.has(source) || renames.has(source)) return true;
    renames.set(source, target);
    return false;
  });
  const rename = (name: string): string => renames.get(name) ?? name;
  return kept.map((n) => ({ ...n, inputs: n.inputs.map(rename), outputs: n.outputs.map(rename) }));
}
