import { assembleModule, F32, F64, I32, ins, type WasmFunction, type WasmMemory, wasm } from '../io/wasm-assembler.ts';

/** Hyper-parameters of AdamW (Loshchilov & Hutter, 2019); names and defaults as in torch.optim.AdamW. */
export interface AdamWOptions {
  readonly beta1: number;
  readonly beta2: number;
  readonly epsilon: number;
  /** Decoupled: p loses lr · weightDecay · p. */
  readonly weightDecay: number;
}

export const ADAMW_DEFAULTS: AdamWOptions = { beta1: 0.9, beta2: 0.999, epsilon: 1e-8, weightDecay: 0.01 };

/** The numbers one update needs, the same for all elements of a tensor. */
export interface AdamWScalars {
  /** 1 - lr · weightDecay */
  readonly keep: number;
  readonly beta1: number;
  readonly beta2: number;
  /** lr / (1 - beta1^step) */
  readonly stepSize: number;
  /** 1 / sqrt(1 - beta2^step) */
  readonly invSqrtCorrection: number;
  readonly epsilon: number;
  /** The gradient is multiplied by this first (norm clipping). */
  readonly gradScale: number;
}

/** @param step number of the update, from 1 */
export function adamwScalars(
  options: AdamWOptions,
  step: number,
  learningRate: number,
  gradScale: number,
  decays: boolean,
): AdamWScalars {
  return {
    keep: 1 - (decays ? learningRate * options.weightDecay : 0),
    beta1: options.beta1,
    beta2: options.beta2,
    stepSize: learningRate / (1 - options.beta1 ** step),
    invSqrtCorrection: 1 / Math.sqrt(1 - options.beta2 ** step),
    epsilon: options.epsilon,
    gradScale,
  };
}

/** Factor that brings a gradient of norm `norm` down to `maxNorm`; 1 when it is not above (as torch's clip_grad_norm_). */
export function clipScale(norm: number, maxNorm: number): number {
  return Math.min(1, maxNorm / (norm + 1e-6));
}

/** Which tensors decay: `all`, or `matrices`: only weights with two or more axes, not norms and biases. */
export type DecayRule = 'all' | 'matrices';

export function decaysUnder(rule: DecayRule, name: string, shape: readonly number[]): boolean {
  return rule === 'all' || (shape.length >= 2 && !/norm|position_embedding/.test(name));
}

/** Kernels over float32 arrays that the optimizer needs. Two implementations, one meaning. */
export interface OptimizerKernels {
  /** Σ g² in double precision. */
  sumSquares(g: Float32Array): number;
  /** p, m, v are updated in place from g. */
  adamw(p: Float32Array, g: Float32Array, m: Float32Array, v: Float32Array, s: AdamWScalars): void;
  /** target ← target + rate · (source - target) */
  blend(target: Float32Array, source: Float32Array, rate: number): void;
}

/** The definition, in plain typed arrays; arithmetic in double precision, state in float32. */
export const referenceKernels: OptimizerKernels = {
  sumSquares: (g) => {
    let sum = 0;
    for (let i = 0; i < g.length; i++) {
      const x = g[i] as number;
      sum += x * x;
    }
    return sum;
  },
  adamw: (p, g, m, v, s) => {
    for (let i = 0; i < p.length; i++) {
      const grad = (g[i] as number) * s.gradScale;
      const first = (m[i] as number) * s.beta1 + grad * (1 - s.beta1);
      const second = (v[i] as number) * s.beta2 + grad * grad * (1 - s.beta2);
      m[i] = first;
      v[i] = second;
      p[i] = (p[i] as number) * s.keep - (s.stepSize * first) / (Math.sqrt(second) * s.invSqrtCorrection + s.epsilon);
    }
  },
  blend: (target, source, rate) => {
    for (let i = 0; i < target.length; i++)
      target[i] = (target[i] as number) + rate * ((source[i] as number) - (target[i] as number));
  },
};

const { get, set } = ins;
const advance = (pointer: number): number[] => [...get(pointer), ...ins.i32Const(16), ...ins.i32Add, ...set(pointer)];

/** sumSquares(g, end) → f64: every f32 is widened before it is squared. */
const sumSquaresFunction: WasmFunction = {
  name: 'sumSquares',
  params: [I32, I32],
  result: F64,
  vectors: 4, // 2: value, 3: low lanes, 4: high lanes, 5: sum
  body: [
    ...ins.loop(
      [
        ...[...get(0), ...ins.load, ...set(2)],
        ...[...get(2), ...ins.promoteLow, ...set(3)],
        ...[...get(2), ...get(2), ...ins.highToLow, ...ins.promoteLow, ...set(4)],
        ...[...get(5), ...get(3), ...get(3), ...ins.mul64, ...ins.add64],
        ...[...get(4), ...get(4), ...ins.mul64, ...ins.add64, ...set(5)],
        ...advance(0),
      ],
      [...get(0), ...get(1), ...ins.i32LtU],
    ),
    ...[...get(5), ...ins.lane64(0), ...get(5), ...ins.lane64(1), ...ins.f64Add],
  ],
};

/** adamw(p, g, m, v, end of p, keep, beta1, 1-beta1, beta2, 1-beta2, stepSize, invSqrtCorrection, epsilon, gradScale) */
const adamwFunction: WasmFunction = {
  name: 'adamw',
  params: [I32, I32, I32, I32, I32, ...Array.from({ length: 9 }, () => F32)],
  vectors: 12, // 14…22: the nine scalars splatted; 23: gradient, 24: first moment, 25: second moment
  body: [
    ...Array.from({ length: 9 }, (_, i) => [...get(5 + i), ...ins.splat32, ...set(14 + i)]).flat(),
    ...ins.loop(
      [
        ...[...get(1), ...ins.load, ...get(22), ...ins.mul32, ...set(23)],
        ...[...get(2), ...ins.load, ...get(15), ...ins.mul32, ...get(23), ...get(16), ...ins.mul32, ...ins.add32],
        ...set(24),
        ...[...get(3), ...ins.load, ...get(17), ...ins.mul32],
        ...[...get(23), ...get(23), ...ins.mul32, ...get(18), ...ins.mul32, ...ins.add32, ...set(25)],
        ...[...get(2), ...get(24), ...ins.store, ...get(3), ...get(25), ...ins.store],
        ...[...get(0), ...get(0), ...ins.load, ...get(14), ...ins.mul32],
        ...[...get(19), ...get(24), ...ins.mul32],
        ...[...get(25), ...ins.sqrt32, ...get(20), ...ins.mul32, ...get(21), ...ins.add32],
        ...[...ins.div32, ...ins.sub32, ...ins.store],
        ...[0, 1, 2, 3].flatMap(advance),
      ],
      [...get(0), ...get(4), ...ins.i32LtU],
    ),
  ],
};

/** blend(target, source, end of target, rate) */
const blendFunction: WasmFunction = {
  name: 'blend',
  params: [I32, I32, I32, F32],
  vectors: 2, // 4: rate, 5: target
  body: [
    ...[...get(3), ...ins.splat32, ...set(4)],
    ...ins.loop(
      [
        ...[...get(0), ...ins.load, ...set(5)],
        ...[...get(0), ...get(5), ...get(1), ...ins.load, ...get(5), ...ins.sub32, ...get(4), ...ins.mul32],
        ...[...ins.add32, ...ins.store, ...advance(0), ...advance(1)],
      ],
      [...get(0), ...get(2), ...ins.i32LtU],
    ),
  ],
};

type SumSquaresExport = (g: number, end: number) => number;
type AdamwExport = (p: number, g: number, m: number, v: number, end: number, ...scalars: number[]) => void;
type BlendExport = (target: number, source: number, end: number, rate: number) => void;

let moduleCache: object | undefined;

/**
 * SIMD kernels over arrays that lie in `memory`, each starting at a multiple of 16 bytes and padded to one (ParameterState
 * lays them out so). About 0.7 ns a parameter, norm included, where the loop above takes 3.8 ns.
 */
export function simdKernels(memory: WasmMemory): OptimizerKernels {
  moduleCache ??= new wasm.Module(assembleModule([sumSquaresFunction, adamwFunction, blendFunction]));
  const { exports } = new wasm.Instance(moduleCache, { env: { memory } });
  const address = (x: Float32Array): number => {
    if (x.buffer !== memory.buffer || x.byteOffset % 16 !== 0)
      throw new Error('optimizer kernel: expected a 16-byte aligned view of the optimizer memory, got another array');
    return x.byteOffset;
  };
  const end = (x: Float32Array): number => x.byteOffset + Math.ceil(x.byteLength / 16) * 16;
  return {
    sumSquares: (g) => (g.length === 0 ? 0 : (exports.sumSquares as SumSquaresExport)(address(g), end(g))),
    adamw: (p, g, m, v, s) => {
      if (p.length === 0) return;
      (exports.adamw as AdamwExport)(
        address(p),
        address(g),
        address(m),
        address(v),
        end(p),
        ...[s.keep, s.beta1, 1 - s.beta1, s.beta2, 1 - s.beta2],
        ...[s.stepSize, s.invSqrtCorrection, s.epsilon, s.gradScale],
      );
    },
    blend: (target, source, rate) => {
      if (target.length > 0) (exports.blend as BlendExport)(address(target), address(source), end(target), rate);
    },
  };
}
