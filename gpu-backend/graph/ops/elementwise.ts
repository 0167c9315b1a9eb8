import { broadcastShapes } from '../dim.ts';
import type { TensorType } from '../graph.ts';
import { mapNd, zipNd } from '../nd.ts';
import type { OpAttrs } from './attrs.ts';
import { arg, broadcastType, expectDtype, one, scalar, unbroadcast } from './infer.ts';
import type { GradContext, OpRow } from './row.ts';

type UnaryName = 'neg' | 'exp' | 'log' | 'sqrt' | 'tanh' | 'erf' | 'sigmoid' | 'squaredRelu';
type BinaryName = 'add' | 'sub' | 'mul' | 'div';

const sameAsInput = (inputs: readonly TensorType[]): TensorType[] => {
  const x = arg(inputs, 0, 'x');
  expectDtype(x, 'f32', 'x');
  return [{ dtype: x.dtype, shape: x.shape }];
};

/** Abramowitz-Stegun would be too coarse for truth: erf by its Taylor series below 3 and by a continued fraction above. */
export function erf(x: number): number {
  const a = Math.abs(x);
  if (a > 6) return Math.sign(x);
  if (a < 3) {
    let term = x;
    let sum = x;
    for (let n = 1; n < 200 && Math.abs(term) > 1e-18 * Math.abs(sum); n++) {
      term *= (-x * x) / n;
      sum += term / (2 * n + 1);
    }
    return (2 / Math.sqrt(Math.PI)) * sum;
  }
  let fraction = a;
  for (let n = 60; n > 0; n--) fraction = a + n / 2 / fraction;
  return Math.sign(x) * (1 - Math.exp(-a * a) / (fraction * Math.sqrt(Math.PI)));
}

const sigmoid = (x: number): number => 1 / (1 + Math.exp(-x));

/** Row of a unary op. `derivative` emits dy/dx * g from the op's own input x and output y. */
function unary<K extends UnaryName>(
  onnx: string,
  f: (x: number) => number,
  derivative: (ctx: GradContext<K>) => ReturnType<typeof one>,
): OpRow<K> {
  return {
    infer: sameAsInput,
    grad: (ctx) => [derivative(ctx)],
    lower: (ctx, node) => [ctx.emit(onnx, [ctx.name(arg(node.inputs, 0, 'x'))])],
    reference: ([x]) => [mapNd(arg([x], 0, 'x') as NonNullable<typeof x>, f)],
  };
}

function binary<K extends BinaryName>(
  onnx: string,
  f: (a: number, b: number) => number,
  grads: (ctx: GradContext<K>) => [() => ReturnType<typeof one>, () => ReturnType<typeof one>],
): OpRow<K> {
  return {
    infer: (inputs) => broadcastType(arg(inputs, 0, 'a'), arg(inputs, 1, 'b')),
    grad: (ctx) =>
      grads(ctx).map((make, i) =>
        ctx.wants[i] ? unbroadcast(ctx.graph, make(), arg(ctx.inputs, i, 'operand').shape) : undefined,
      ),
    lower: (ctx, node) => [
      ctx.emit(
        onnx,
        node.inputs.map((v) => ctx.name(v)),
      ),
    ],
    reference: (inputs) => {
      const [a, b] = [arg(inputs, 0, 'a'), arg(inputs, 1, 'b')];
      return [zipNd(broadcastShapes(a.shape, b.shape) as number[], [a, b], (x = 0, y = 0) => f(x, y))];
    },
  };
}

const mulOp = (ctx: { graph: GradContext<'mul'>['graph'] }, a: GradContext<'mul'>['g'], b: GradContext<'mul'>['g']) =>
  one(ctx.graph.emit('mul', [a, b], {}));

export const neg = unary<'neg'>(
  'Neg',
  (x) => -x,
  (c) => one(c.graph.emit('neg', [c.g], {})),
);
export const exp = unary<'exp'>('Exp', Math.exp, (c) => mulOp(c, c.g, arg(c.outputs, 0, 'y')));
export const log = unary<'log'>('Log', Math.log, (c) => one(c.graph.emit('div', [c.g, arg(c.inputs, 0, 'x')], {})));
export const sqrt = unary<'sqrt'>('Sqrt', Math.sqrt, (c) =>
  one(c.graph.emit('div', [mulOp(c, c.g, scalar(c.graph, 0.5)), arg(c.outputs, 0, 'y')], {})),
);
export const tanh = unary<'tanh'>('Tanh', Math.tanh, (c) => {
  const y = arg(c.outputs, 0, 'y');
  return one(c.graph.emit('sub', [c.g, mulOp(c, mulOp(c, c.g, y), y)], {}));
});
export const erfRow = unary<'erf'>('Erf', erf, (c) => {
  const x = arg(c.inputs, 0, 'x');
  const density = one(c.graph.emit('exp', [one(c.graph.emit('neg', [mulOp(c, x, x)], {}))], {}));
  return mulOp(c, c.g, mulOp(c, density, scalar(c.graph, 2 / Math.sqrt(Math.PI))));
});
export const sigmoidRow = unary<'sigmoid'>('Sigmoid', sigmoid, (c) => {
  const gy = mulOp(c, c.g, arg(c.outputs, 0, 'y'));
  return one(c.graph.emit('sub', [gy, mulOp(c, gy, arg(c.outputs, 0, 'y'))], {}));
});

/** relu(x)^2, Persimmon's activation. d/dx = 2 relu(x). */
export const squaredRelu: OpRow<'squaredRelu'> = {
  infer: sameAsInput,
  grad: (c) => {
    // relu(x) as sqrt(relu(x)^2) keeps the rule inside the op set.
    const relu = one(c.graph.emit('sqrt', [arg(c.outputs, 0, 'y')], {}));
    return [mulOp(c, c.g, mulOp(c, relu, scalar(c.graph, 2)))];
  },
  lower: (ctx, node) => {
    const r = ctx.emit('Relu', [ctx.name(arg(node.inputs, 0, 'x'))]);
    return [ctx.emit('Mul', [r, r])];
  },
  reference: (inputs) => [mapNd(arg(inputs, 0, 'x'), (x) => (x > 0 ? x * x : 0))],
};

/** silu(x) = x sigmoid(x); d/dx = s + y (1 - s) with s = sigmoid(x). */
export const silu: OpRow<'silu'> = {
  infer: (inputs) => [...sameAsInput(inputs), ...sameAsInput(inputs)],
  grad: (c) => {
    const y = arg(c.outputs, 0, 'y');
    const s = arg(c.outputs, 1, 's');
    const slope = one(c.graph.emit('sub', [one(c.graph.emit('add', [s, y], {})), mulOp(c, s, y)], {}));
    return [mulOp(c, c.g, slope)];
  },
  lower: (ctx, node) => {
    const x = ctx.name(arg(node.inputs, 0, 'x'));
    const s = ctx.emit('Sigmoid', [x]);
    return [ctx.emit('Mul', [x, s]), s];
  },
  reference: (inputs) => {
    const x = arg(inputs, 0, 'x');
    return [mapNd(x, (v) => v * sigmoid(v)), mapNd(x, sigmoid)];
  },
};

const TANH_SCALE = Math.sqrt(2 / Math.PI);
const TANH_CUBIC = 0.044715;

/** Kinds that are x sigmoid(alpha x). */
const SIGMOID_ALPHA: { readonly [K in OpAttrs['gelu']['kind']]?: number } = { quick: 1.702, silu: 1 };

const GELU: Record<OpAttrs['gelu']['kind'], (x: number) => number> = {
  erf: (x) => 0.5 * x * (1 + erf(x / Math.SQRT2)),
  tanh: (x) => 0.5 * x * (1 + Math.tanh(TANH_SCALE * (x + TANH_CUBIC * x ** 3))),
  quick: (x) => x * sigmoid(1.702 * x),
  silu: (x) => x * sigmoid(x),
};

/**
 * GELU in its three published forms: exact (erf), tanh approximation (SigLIP), sigmoid approximation (CLIP). SiLU is of the third
 * form; the op `silu` becomes this kind where nothing reads its sigmoid (`fuse.ts`).
 */
export const gelu: OpRow<'gelu'> = {
  infer: sameAsInput,
  grad: (c) => {
    const { graph } = c;
    const x = arg(c.inputs, 0, 'x');
    const y = arg(c.outputs, 0, 'y');
    const k = (v: number) => scalar(graph, v);
    const add = (a: typeof x, b: typeof x) => one(graph.emit('add', [a, b], {}));
    const alpha = SIGMOID_ALPHA[c.attrs.kind];
    if (alpha !== undefined) {
      // s + alpha * y * (1 - s)
      const s = one(graph.emit('sigmoid', [mulOp(c, x, k(alpha))], {}));
      const rest = one(graph.emit('sub', [y, mulOp(c, y, s)], {}));
      return [mulOp(c, c.g, add(s, mulOp(c, rest, k(alpha))))];
    }
    if (c.attrs.kind === 'erf') {
      // cdf(x) + x pdf(x)
      const cdf = add(mulOp(c, one(graph.emit('erf', [mulOp(c, x, k(Math.SQRT1_2))], {})), k(0.5)), k(0.5));
      const pdf = one(graph.emit('exp', [mulOp(c, mulOp(c, x, k(-0.5)), x)], {}));
      return [mulOp(c, c.g, add(cdf, mulOp(c, mulOp(c, x, k(1 / Math.sqrt(2 * Math.PI))), pdf)))];
    }
    // 0.5 (1 + tanh u) = sigmoid(2u), so with v = 2u = 2c (x + a x^3) and h = sigmoid(v): y = x h and dy/dx = h + y (1 - h) dv/dx.
    const x2 = mulOp(c, x, x);
    const v = mulOp(c, x, add(mulOp(c, x2, k(2 * TANH_SCALE * TANH_CUBIC)), k(2 * TANH_SCALE)));
    const h = one(graph.emit('sigmoid', [v], {}));
    const rest = one(graph.emit('sub', [y, mulOp(c, y, h)], {}));
    const dv = add(mulOp(c, x2, k(6 * TANH_SCALE * TANH_CUBIC)), k(2 * TANH_SCALE));
    return [mulOp(c, c.g, add(h, mulOp(c, rest, dv)))];
  },
  lower: (ctx, node) => {
    const x = ctx.name(arg(node.inputs, 0, 'x'));
    const alpha = SIGMOID_ALPHA[node.attrs.kind];
    if (alpha !== undefined) {
      if (ctx.capabilities.quickGelu) return [ctx.emitContrib('QuickGelu', [x], { alpha })];
      const scaled = alpha === 1 ? x : ctx.emit('Mul', [x, ctx.scalar(alpha)]);
      return [ctx.emit('Mul', [x, ctx.emit('Sigmoid', [scaled])])];
    }
    return [ctx.emit('Gelu', [x], { approximate: node.attrs.kind === 'tanh' ? 'tanh' : 'none' })];
  },
  reference: (inputs, attrs) => [mapNd(arg(inputs, 0, 'x'), GELU[attrs.kind])],
};

export const add = binary<'add'>(
  'Add',
  (a, b) => a + b,
  (c) => [() => c.g, () => c.g],
);
export const sub = binary<'sub'>(
  'Sub',
  (a, b) => a - b,
  (c) => [() => c.g, () => one(c.graph.emit('neg', [c.g], {}))],
);
export const mul = binary<'mul'>(
  'Mul',
  (a, b) => a * b,
  (c) => [() => mulOp(c, c.g, arg(c.inputs, 1, 'b')), () => mulOp(c, c.g, arg(c.inputs, 0, 'a'))],
);
export const div = binary<'div'>(
  'Div',
  (a, b) => a / b,
  (c) => {
    const b = arg(c.inputs, 1, 'b');
    const scaled = () => one(c.graph.emit('div', [c.g, b], {}));
    return [scaled, () => one(c.graph.emit('neg', [mulOp(c, scaled(), arg(c.outputs, 0, 'y'))], {}))];
  },
);

export const where: OpRow<'where'> = {
  infer: (inputs) => {
    const cond = arg(inputs, 0, 'condition');
    expectDtype(cond, 'bool', 'condition');
    const [ab] = broadcastType(arg(inputs, 1, 'a'), arg(inputs, 2, 'b'));
    return [{ dtype: arg(inputs, 1, 'a').dtype, shape: broadcastShapes(cond.shape, ab?.shape ?? []) }];
  },
  grad: (c) => {
    const cond = arg(c.inputs, 0, 'condition');
    const zero = scalar(c.graph, 0);
    const side = (i: number, a: typeof zero, b: typeof zero) =>
      c.wants[i]
        ? unbroadcast(c.graph, one(c.graph.emit('where', [cond, a, b], {})), arg(c.inputs, i, 'operand').shape)
        : undefined;
    return [undefined, side(1, c.g, zero), side(2, zero, c.g)];
  },
  lower: (ctx, node) => [
    ctx.emit(
      'Where',
      node.inputs.map((v) => ctx.name(v)),
    ),
  ],
  reference: (inputs) => {
    const shape = inputs.reduce<number[]>((s, a) => broadcastShapes(s, a.shape) as number[], []);
    return [zipNd(shape, inputs, (cond = 0, a = 0, b = 0) => (cond !== 0 ? a : b))];
  },
};

/** Widening or storage cast; the gradient is only defined between float types. */
const ONNX_TYPE = { f32: 1, u8: 2, i8: 3, i64: 7, bool: 9, f16: 10 } as const;
export const cast: OpRow<'cast'> = {
  infer: (inputs, attrs) => [{ dtype: attrs.to, shape: arg(inputs, 0, 'x').shape }],
  grad: (c) => [
    arg(c.inputs, 0, 'x').dtype === 'f32' || arg(c.inputs, 0, 'x').dtype === 'f16'
      ? one(c.graph.emit('cast', [c.g], { to: arg(c.inputs, 0, 'x').dtype }))
      : undefined,
  ],
  lower: (ctx, node) => [
    ctx.emit('Cast', [ctx.name(arg(node.inputs, 0, 'x'))], { to: { int: ONNX_TYPE[node.attrs.to] } }),
  ],
  reference: (inputs, attrs) => [
    mapNd(arg(inputs, 0, 'x'), (x) =>
      attrs.to === 'bool' ? Number(x !== 0) : attrs.to === 'f32' ? x : attrs.to === 'f16' ? x : Math.trunc(x),
    ),
  ],
};

/** y = x with dy/dx taken as 0: what is downstream sees x as a constant (PyTorch's detach). */
export const stopGradient: OpRow<'stopGradient'> = {
  infer: sameAsInput,
  grad: () => [undefined],
  lower: (ctx, node) => [ctx.emit('Identity', [ctx.name(arg(node.inputs, 0, 'x'))])],
  reference: (inputs) => [mapNd(arg(inputs, 0, 'x'), (x) => x)],
};
