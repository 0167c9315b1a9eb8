import { wasm } from '../io/wasm-assembler.ts';
import {
  ADAMW_DEFAULTS,
  type AdamWOptions,
  adamwScalars,
  clipScale,
  type DecayRule,
  decaysUnder,
  type OptimizerKernels,
  simdKernels,
} from './adamw.ts';

/** Name and shape of one trainable tensor. */
export interface ParameterSpec {
  readonly name: string;
  readonly shape: readonly number[];
}

/** One trainable tensor with its gradient and moments; all are views of one memory. */
export interface Parameter extends ParameterSpec {
  readonly value: Float32Array;
  readonly grad: Float32Array;
  readonly firstMoment: Float32Array;
  readonly secondMoment: Float32Array;
  /** Exponential moving average of the value, when the state keeps one. */
  readonly average: Float32Array | undefined;
  readonly kernels: OptimizerKernels;
}

const PAGE_BYTES = 65_536;
const MAX_MEMORY_BYTES = 4 * 1024 ** 3 - PAGE_BYTES;

/**
 * All trainable tensors with gradients and AdamW moments, in WebAssembly memories so that the SIMD kernels work in place
 * and ONNX Runtime is fed views without a copy. A memory holds at most 4 GiB; more parameters get more memories.
 */
export class ParameterState {
  readonly parameters: readonly Parameter[];
  private readonly byName: ReadonlyMap<string, Parameter>;
  /** Names of tensors that got a gradient since zeroGradients. */
  private readonly withGradient = new Set<string>();
  private readonly further = new Map<string, Float32Array>();
  /** Updates made so far. */
  step = 0;

  /** @throws Error when one tensor does not fit a memory or a name comes twice */
  constructor(specs: readonly ParameterSpec[], options: { readonly average?: boolean } = {}) {
    const regions = options.average === true ? 5 : 4;
    const bytesOf = (spec: ParameterSpec): number => Math.ceil(spec.shape.reduce((a, b) => a * b, 1) / 4) * 16;
    const groups: ParameterSpec[][] = [];
    let used = Number.POSITIVE_INFINITY;
    for (const spec of specs) {
      const bytes = bytesOf(spec) * regions;
      if (bytes > MAX_MEMORY_BYTES)
        throw new Error(
          `${spec.name} with gradient and moments needs ${bytes} bytes, one memory holds ${MAX_MEMORY_BYTES}`,
        );
      if (used + bytes > MAX_MEMORY_BYTES) {
        groups.push([]);
        used = 0;
      }
      groups.at(-1)?.push(spec);
      used += bytes;
    }
    this.parameters = groups.flatMap((group) => {
      const regionBytes = group.reduce((sum, spec) => sum + bytesOf(spec), 0);
      const memory = new wasm.Memory({ initial: Math.ceil((regionBytes * regions) / PAGE_BYTES) });
      const kernels = simdKernels(memory);
      let offset = 0;
      return group.map((spec): Parameter => {
        const length = spec.shape.reduce((a, b) => a * b, 1);
        const view = (region: number): Float32Array =>
          new Float32Array(memory.buffer, region * regionBytes + offset, length);
        const parameter = {
          ...spec,
          value: view(0),
          grad: view(1),
          firstMoment: view(2),
          secondMoment: view(3),
          average: options.average === true ? view(4) : undefined,
          kernels,
        };
        offset += bytesOf(spec);
        return parameter;
      });
    });
    this.byName = new Map(this.parameters.map((p) => [p.name, p]));
    if (this.byName.size !== specs.length) throw new Error('two trainable tensors have the same name');
  }

  /** @throws Error that names what is missing */
  get(name: string): Parameter {
    const parameter = this.byName.get(name);
    if (parameter === undefined) throw new Error(`${name} is not a trainable tensor of this run`);
    return parameter;
  }

  get elementCount(): number {
    return this.parameters.reduce((sum, p) => sum + p.value.length, 0);
  }

  zeroGradients(): void {
    for (const p of this.parameters) p.grad.fill(0);
    this.withGradient.clear();
  }

  /**
   * Where a micro-batch's gradient is to be written: the first since zeroGradients where gradients are summed, others
   * beside it, in memory that is made when there is one.
   */
  placeForGradient(name: string): Float32Array {
    const { grad } = this.get(name);
    if (!this.withGradient.has(name)) return grad;
    let further = this.further.get(name);
    if (further === undefined) {
      further = new Float32Array(grad.length);
      this.further.set(name, further);
    }
    return further;
  }

  /** Counts what was written where placeForGradient said. */
  takeGradient(name: string): void {
    const place = this.placeForGradient(name);
    if (this.withGradient.has(name)) this.addGradient(name, place);
    else this.withGradient.add(name);
  }

  /** Adds one micro-batch's gradient. */
  addGradient(name: string, gradient: Float32Array): void {
    const { grad } = this.get(name);
    if (gradient.length !== grad.length)
      throw new Error(`gradient of ${name} has ${gradient.length} elements, the tensor ${grad.length}`);
    for (let i = 0; i < grad.length; i++) grad[i] = (grad[i] as number) + (gradient[i] as number);
    this.withGradient.add(name);
  }

  /** Global norm of the gradients; sums are kept in double precision, per tensor. NaN or infinite when any gradient is. */
  gradientNorm(): number {
    let sum = 0;
    for (const p of this.parameters) sum += p.kernels.sumSquares(p.grad);
    return Math.sqrt(sum);
  }

  /** Forgets all updates: as before the first one. Values stay. */
  resetMoments(): void {
    for (const p of this.parameters) {
      p.firstMoment.fill(0);
      p.secondMoment.fill(0);
    }
    this.step = 0;
  }

  /** Name of a tensor that holds, or whose moments hold, something that is not a finite number; undefined where all is well. */
  nonFinite(): string | undefined {
    // A sum of squares in double precision is finite exactly when every float32 is.
    const isWhole = (p: Parameter): boolean =>
      [p.value, p.firstMoment, p.secondMoment, ...(p.average === undefined ? [] : [p.average])].every((x) =>
        Number.isFinite(p.kernels.sumSquares(x)),
      );
    return this.parameters.find((p) => !isWhole(p))?.name;
  }

  /**
   * One AdamW update of every tensor from the gradients held, clipped to a global norm. A non-finite gradient changes
   * nothing and does not count as a step.
   *
   * @param learningRate for all tensors, or by name
   * @returns the norm before clipping, and whether the update was made
   */
  update(
    learningRate: number | ((name: string) => number),
    options: { readonly adamw?: Partial<AdamWOptions>; readonly maxNorm?: number; readonly decay?: DecayRule } = {},
  ): { norm: number; applied: boolean } {
    const norm = this.gradientNorm();
    if (!Number.isFinite(norm)) return { norm, applied: false };
    const adamw = { ...ADAMW_DEFAULTS, ...options.adamw };
    const scale = clipScale(norm, options.maxNorm ?? Number.POSITIVE_INFINITY);
    this.step++;
    for (const p of this.parameters) {
      const rate = typeof learningRate === 'number' ? learningRate : learningRate(p.name);
      const decays = decaysUnder(options.decay ?? 'matrices', p.name, p.shape);
      const scalars = adamwScalars(adamw, this.step, rate, scale, decays);
      p.kernels.adamw(p.value, p.grad, p.firstMoment, p.secondMoment, scalars);
    }
    return { norm, applied: true };
  }

  /** average ← decay · average + (1 - decay) · value; the decay grows from 0 at first, so that early values fade. */
  updateAverages(decay: number): void {
    const effective = Math.min(decay, (1 + this.step) / (10 + this.step));
    for (const p of this.parameters) if (p.average !== undefined) p.kernels.blend(p.average, p.value, 1 - effective);
  }
}
