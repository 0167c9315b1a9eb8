import * as g from '../graph/builder.ts';
import { type Dim, sameShape, showShape, symbol } from '../graph/dim.ts';
import type { DType, Graph, Value } from '../graph/graph.ts';
import { planeSizes } from '../graph/ops/planes.ts';
import { blockSizes } from '../io/quantize.ts';
import { CODES_SUFFIX, type FrozenStorage } from './frozen-weights.ts';
import {
  blockFormat,
  INT8_SUFFIX,
  isW8A8,
  JOINED,
  PACKED_SUFFIX,
  type Part,
  partOf,
  SCALE_SUFFIX,
  type Storage,
} from './storage.ts';

/**
 * Low-rank adapters over linear layers (Hu et al., 2021). A module is adapted when the last part of its name
 * (`q_proj`, `down_proj`, …) is in `targets` and it belongs to the language model (or, if asked, to the projector).
 */
export interface LoraSpec {
  /** Rank, at least 1. */
  readonly r: number;
  /** The update is scaled by alpha / r. */
  readonly alpha: number;
  readonly targets: readonly string[];
  /** Modules of the projector (Idefics2's connector) with these names are adapted too. Default false. */
  readonly projector?: boolean;
  /**
   * Weight-decomposed adapters (DoRA, Liu et al., 2024): each row of the adapted weight is scaled to a learned length,
   * `<module>.lora_magnitude_vector` [out]. Default false.
   */
  readonly dora?: boolean;
}

/** The seven linear layers of a Llama block, the targets of the Mantis recipes. */
export const LLAMA_LINEARS = ['q_proj', 'k_proj', 'v_proj', 'o_proj', 'gate_proj', 'up_proj', 'down_proj'] as const;

export interface LinearOptions {
  readonly bias?: boolean;
  /** Added to the result [N, out]; costs nothing where the layer has no bias (it is the Gemm's C operand). */
  readonly residual?: Value;
  /** Part whose precision the layer has, where its name does not say: an output head that is the embedding matrix. */
  readonly part?: Part;
}

/**
 * Low-rank adapters of several models side by side: a row of the batch uses those ranks that its row of `mask` opens. The A and B
 * of all of them lie one behind the other, as inputs `<module>.lora_A.weight` [R, in] and `<module>.lora_B.weight` [out, R].
 */
export interface AdapterBank {
  /** Last parts of the names of adapted modules of the language model. */
  readonly targets: readonly string[];
  /** [N, R]: alpha / r in the ranks of the row's own adapter, 0 in the others. */
  readonly mask: Value;
}

/** R of an AdapterBank: the ranks of all its adapters. */
export const BANK_RANKS = symbol('R_lora');

/** The kernels may round activations to int8 in blocks: several times faster, and far below what int4 weights cost. */
const ACCURACY_LEVEL = 4;

/** Values of a graph that are made once each. */
interface Made {
  /** Graph inputs by name, as they are stored. */
  readonly declared: Map<string, Value>;
  /** The same as f32. */
  readonly values: Map<string, Value>;
  /** Activations rounded to int8, by the value they come from: layers that read the same input share them. */
  readonly rounded: Map<number, { readonly q: Value; readonly top: Value }>;
}

/**
 * Declares the weights a graph uses, under their canonical names (the layout of the published Mantis checkpoints), each
 * once. Model code never sees whether a linear layer is adapted or quantised.
 */
export class Weights {
  constructor(
    readonly graph: Graph,
    private readonly lora?: LoraSpec,
    private readonly storage?: Storage,
    private readonly bank?: AdapterBank,
    /** Layers that read the same input are one matrix: `joined` works, and servingWeights makes the weights. */
    readonly joins = false,
    /** How weights that do not move are stored while others are trained. */
    private readonly frozen?: FrozenStorage,
    private readonly made: Made = { declared: new Map(), values: new Map(), rounded: new Map() },
  ) {
    if (lora !== undefined && joins) throw new Error('an adapter that is trained needs every layer by itself');
    if (storage !== undefined && frozen !== undefined)
      throw new Error('weights are stored for serving or under training, not both');
    if (lora !== undefined && storage !== undefined)
      throw new Error('an imported model takes no adapter: apply it to the original checkpoint and import the result');
    if (lora !== undefined && !(Number.isInteger(lora.r) && lora.r >= 1))
      throw new Error(`LoRA rank must be a positive integer, got ${lora.r}`);
  }

  /**
   * Parameter `name` of `shape` as f32; the same value for the same name.
   * @throws when it was declared with another shape
   */
  get(name: string, shape: readonly number[]): Value {
    const known = this.made.values.get(name);
    if (known !== undefined) {
      if (!sameShape(known.shape, shape))
        throw new Error(`weight ${name} is ${showShape(known.shape)} in one place and ${showShape(shape)} in another`);
      return known;
    }
    const value = g.cast(this.graph, this.declare(name, this.storedDtype(name, shape), shape), 'f32');
    this.made.values.set(name, value);
    return value;
  }

  /** Rows `indices` [N] i64 of the table `name` [R, D] → [N, D]. Only these rows are widened where the table is stored in f16. */
  rows(name: string, shape: readonly number[], indices: Value): Value {
    if (this.storedDtype(name, shape) === 'f32') return g.gather(this.graph, this.get(name, shape), indices);
    return g.cast(this.graph, g.gather(this.graph, this.declare(name, 'f16', shape), indices), 'f32');
  }

  private storedDtype(name: string, shape: readonly number[]): 'f32' | 'f16' {
    const storage = this.storageOf(name);
    return storage === undefined || storage.precision[partOf(name)] === 'f32' || shape.length < 2 ? 'f32' : 'f16';
  }

  /** How a weight is stored; undefined: as f32. */
  private storageOf(name: string): Storage | undefined {
    return this.storage ?? (this.frozen?.isTrained(name) === false ? this.frozen.storage : undefined);
  }

  /** Weight [out, in] of a linear layer as f32: widened where it is stored in fewer bits and does not move. */
  private linearWeight(module: string, out: number, width: number, part: Part): Value {
    const name = `${module}.weight`;
    const format =
      this.frozen === undefined || this.frozen.isTrained(name) ? undefined : blockFormat(this.frozen.storage, part);
    if (format === undefined) return this.get(name, [out, width]);
    const known = this.made.values.get(module + CODES_SUFFIX);
    if (known !== undefined) return known;
    const attrs = { ...format, rows: out, width };
    const { blocks, planeRows } = planeSizes(attrs);
    const codes = this.declare(module + CODES_SUFFIX, 'u8', [planeRows, format.blockSize]);
    const scales = this.declare(module + SCALE_SUFFIX, 'f32', [blocks]);
    const value = g.dequantizePlanes(this.graph, codes, scales, attrs);
    this.made.values.set(module + CODES_SUFFIX, value);
    return value;
  }

  private declare(name: string, dtype: DType, shape: readonly number[]): Value {
    const known = this.made.declared.get(name);
    if (known !== undefined) return known;
    const value = this.graph.input(name, dtype, shape, 'param');
    this.made.declared.set(name, value);
    return value;
  }

  /** All declared parameters by name, in order of first use. */
  get params(): ReadonlyMap<string, Value> {
    return this.made.declared;
  }

  /** The same weights for activations [R, …] of rows `rows` [R] of a batch: a bank's mask is that of these rows. */
  atRows(rows: Value): Weights {
    if (this.bank === undefined) return this;
    const bank = { ...this.bank, mask: g.gather(this.graph, this.bank.mask, rows) };
    return new Weights(this.graph, this.lora, this.storage, bank, this.joins, this.frozen, this.made);
  }

  private adapts(module: string): boolean {
    return (
      this.lora !== undefined &&
      (module.startsWith('language_model.') ||
        (this.lora.projector === true && module.startsWith('multi_modal_projector.'))) &&
      this.lora.targets.includes(module.slice(module.lastIndexOf('.') + 1))
    );
  }

  /** Linear layer `module` over x [N, in] → [N, out], with its adapter if it has one. */
  linear(x: Value, module: string, out: number, options: LinearOptions = {}): Value {
    const width = x.shape[1];
    if (typeof width !== 'number') throw new Error(`${module} needs an input [N, in] with a static width`);
    return this.withBank(x, module, width, out, this.ownLinear(x, module, width, out, options));
  }

  /**
   * Linear layers `base`.`name` of one input x [N, in], side by side → [N, Σ out]. Their weights are one, named
   * `<base>.<name>+<name>…`, with the rows of one layer behind those of the other.
   */
  joined(x: Value, base: string, layers: readonly (readonly [name: string, out: number])[]): Value {
    if (!this.joins) throw new Error('these weights are declared layer by layer');
    const width = x.shape[1];
    if (typeof width !== 'number') throw new Error(`${base} needs an input [N, in] with a static width`);
    const module = `${base}.${layers.map(([name]) => name).join(JOINED)}`;
    const sizes = layers.map(([, out]) => out);
    const all = sizes.reduce((a, b) => a + b, 0);
    const y = this.ownLinear(x, module, width, all, {});
    if (!layers.some(([name]) => this.inBank(`${base}.${name}`))) return y;
    const parts = g.split(this.graph, y, 1, sizes);
    const adapted = layers.map(([name, out], i) => this.withBank(x, `${base}.${name}`, width, out, parts[i] as Value));
    return g.concat(this.graph, adapted, 1);
  }

  private inBank(module: string): boolean {
    return (
      this.bank !== undefined &&
      module.startsWith('language_model.') &&
      this.bank.targets.includes(module.slice(module.lastIndexOf('.') + 1))
    );
  }

  /** y, plus what the adapters of a bank add to it. */
  private withBank(x: Value, module: string, width: number, out: number, y: Value): Value {
    if (this.bank === undefined || !this.inBank(module)) return y;
    const a = this.graph.input(`${module}.lora_A.weight`, 'f32', [BANK_RANKS, width]);
    const b = this.graph.input(`${module}.lora_B.weight`, 'f32', [out, BANK_RANKS]);
    return g.linear(this.graph, g.mul(this.graph, g.linear(this.graph, x, a), this.bank.mask), b, y);
  }

  /** x [N, in] · weight of columns in int8 → [N, out]. */
  private int8Linear(x: Value, module: string, width: number, out: number): Value {
    const { graph } = this;
    let rounded = this.made.rounded.get(x.id);
    if (rounded === undefined) {
      const [q, top] = graph.emit('quantizeRows', [x], { range: 'signed' });
      if (q === undefined || top === undefined) throw new Error('quantizeRows has two outputs');
      rounded = { q, top };
      this.made.rounded.set(x.id, rounded);
    }
    const weight = this.declare(module + INT8_SUFFIX, 'i8', [width, out]);
    const scales = this.declare(module + SCALE_SUFFIX, 'f32', [out]);
    const [product] = graph.emit('matmulInt8', [rounded.q, weight, scales], { range: 'signed' });
    if (product === undefined) throw new Error('matmulInt8 has no output');
    return g.mul(graph, product, rounded.top);
  }

  /** The layer without a bank's adapters. */
  private ownLinear(x: Value, module: string, width: number, out: number, options: LinearOptions): Value {
    const bias = options.bias === true ? this.get(`${module}.bias`, [out]) : undefined;
    const part = options.part ?? partOf(module);
    if (this.storage !== undefined && isW8A8(this.storage, part, module)) {
      const addends = [bias, options.residual].filter((v) => v !== undefined);
      return addends.reduce((sum, v) => g.add(this.graph, sum, v), this.int8Linear(x, module, width, out));
    }
    const format = this.storage && blockFormat(this.storage, part);
    if (format !== undefined) {
      const { blocks, bytes } = blockSizes(width, format);
      const packed = this.declare(module + PACKED_SUFFIX, 'u8', [out, blocks, bytes / blocks]);
      const scales = this.declare(module + SCALE_SUFFIX, 'f32', [out, blocks]);
      const y = g.linearNBits(this.graph, x, packed, scales, { ...format, accuracyLevel: ACCURACY_LEVEL }, bias);
      return options.residual === undefined ? y : g.add(this.graph, y, options.residual);
    }
    const weight = this.linearWeight(module, out, width, part);
    const c = bias ?? options.residual;
    if (this.lora === undefined || !this.adapts(module)) {
      const y = g.linear(this.graph, x, weight, c);
      return bias !== undefined && options.residual !== undefined ? g.add(this.graph, y, options.residual) : y;
    }
    const { r, alpha, dora } = this.lora;
    const a = this.get(`${module}.lora_A.weight`, [r, width]);
    const b = this.get(`${module}.lora_B.weight`, [out, r]);
    if (dora === true) {
      const y = g.loraLinear(this.graph, x, weight, a, b, alpha / r);
      const scaled = g.mul(this.graph, y, this.rowScale(module, weight, a, b, alpha / r));
      const addends = [bias, options.residual].filter((v) => v !== undefined);
      return addends.reduce((sum, v) => g.add(this.graph, sum, v), scaled);
    }
    const y = g.loraLinear(this.graph, x, weight, a, b, alpha / r, c);
    return bias !== undefined && options.residual !== undefined ? g.add(this.graph, y, options.residual) : y;
  }

  /**
   * DoRA's factor of each output [out]: learned length over the length of the row of W + scaling · B A. To the gradients that
   * length is a constant, as in the paper (section 4.3) and in PEFT: it saves the backward pass through a matrix of W's size.
   */
  private rowScale(module: string, weight: Value, a: Value, b: Value, scaling: number): Value {
    const { graph } = this;
    const out = weight.shape[0];
    const magnitude = this.get(`${module}.lora_magnitude_vector`, [out as number]);
    const attrs = { transA: false, transB: false, alpha: scaling, beta: 1 };
    const [adapted] = graph.emit('gemm', [b, a, weight], attrs);
    if (adapted === undefined) throw new Error('gemm has no output');
    const length = g.sqrt(graph, g.reduceSum(graph, g.mul(graph, adapted, adapted), [1]));
    return g.div(graph, magnitude, g.stopGradient(graph, length));
  }
}

/** Splits features into heads: x [N·S, H·D] → [N, H, S, D]. */
export function toHeads(graph: Graph, x: Value, batch: Dim, length: Dim, heads: number, headDim: number): Value {
  return g.transpose(graph, g.reshape(graph, x, [batch, length, heads, headDim]), [0, 2, 1, 3]);
}
