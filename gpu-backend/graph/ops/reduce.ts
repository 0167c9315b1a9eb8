import { type Dim, productOf, type Shape, withoutAxes } from '../dim.ts';
import type { Value } from '../graph.ts';
import { at, forEachIndex, type NdArray, nd, stridesOf } from '../nd.ts';
import type { OpAttrs } from './attrs.ts';
import { arg, expectDtype, one, scalar } from './infer.ts';
import type { GradContext, OpRow } from './row.ts';

type ReduceName = 'reduceSum' | 'reduceMean';

/** Gradient of a sum: g copied along the reduced axes. */
function spread(c: GradContext<ReduceName>): Value {
  const x = arg(c.inputs, 0, 'x');
  const kept: Shape = x.shape.map((d, i) => (c.attrs.axes.includes(i) ? 1 : d));
  const g = c.attrs.keepDims ? c.g : one(c.graph.emit('reshape', [c.g], { shape: kept }));
  return one(c.graph.emit('expand', [g], { shape: x.shape }));
}

function reduce(x: NdArray, axes: readonly number[], keepDims: boolean): NdArray {
  const kept = x.shape.map((d, i) => (axes.includes(i) ? 1 : d));
  const out = nd(kept);
  const strides = stridesOf(kept);
  forEachIndex(x.shape, (flat, coords) => {
    let target = 0;
    coords.forEach((v, i) => {
      if (!axes.includes(i)) target += v * (strides[i] ?? 0);
    });
    out.data[target] = at(out, target) + at(x, flat);
  });
  return keepDims ? out : nd(withoutAxes(x.shape, axes) as number[], out.data);
}

function reducer<K extends ReduceName>(onnx: string): Omit<OpRow<K>, 'grad' | 'reference'> {
  return {
    infer: (inputs, attrs: OpAttrs[ReduceName]) => {
      const x = arg(inputs, 0, 'x');
      expectDtype(x, 'f32', 'x');
      for (const a of attrs.axes) arg(x.shape, a, 'axis');
      const shape = attrs.keepDims
        ? x.shape.map((d, i) => (attrs.axes.includes(i) ? 1 : d))
        : withoutAxes(x.shape, attrs.axes);
      return [{ dtype: 'f32', shape }];
    },
    lower: (ctx, node) => {
      const attrs: OpAttrs[ReduceName] = node.attrs;
      return [
        ctx.emit(onnx, [ctx.name(arg(node.inputs, 0, 'x')), ctx.ints(attrs.axes)], {
          keepdims: { int: attrs.keepDims ? 1 : 0 },
        }),
      ];
    },
  };
}

export const reduceSum: OpRow<'reduceSum'> = {
  ...reducer<'reduceSum'>('ReduceSum'),
  grad: (c) => [spread(c)],
  reference: (inputs, { axes, keepDims }) => [reduce(arg(inputs, 0, 'x'), axes, keepDims)],
};

export const reduceMean: OpRow<'reduceMean'> = {
  ...reducer<'reduceMean'>('ReduceMean'),
  grad: (c) => {
    const count: Dim = productOf(c.attrs.axes.map((a) => arg(arg(c.inputs, 0, 'x').shape, a, 'axis')));
    if (typeof count !== 'number')
      throw new Error('reduceMean has a gradient over static axes only; use reduceSum and divide');
    return [spread({ ...c, g: one(c.graph.emit('mul', [c.g, scalar(c.graph, 1 / count)], {})) })];
  },
  reference: (inputs, { axes, keepDims }) => {
    const x = arg(inputs, 0, 'x');
    const count = axes.reduce((n, a) => n * arg(x.shape, a, 'axis'), 1);
    const sum = reduce(x, axes, keepDims);
    return [
      nd(
        sum.shape,
        sum.data.map((v) => v / count),
      ),
    ];
  },
};

/** No gradient: it is constant almost everywhere. */
export const argmax: OpRow<'argmax'> = {
  infer: (inputs) => {
    const x = arg(inputs, 0, 'x');
    expectDtype(x, 'f32', 'x');
    return [{ dtype: 'i64', shape: withoutAxes(x.shape, [x.shape.length - 1]) }];
  },
  grad: 'none',
  lower: (ctx, node) => [
    ctx.emit('ArgMax', [ctx.name(arg(node.inputs, 0, 'x'))], { axis: { int: -1 }, keepdims: { int: 0 } }),
  ],
  reference: (inputs) => {
    const x = arg(inputs, 0, 'x');
    const width = x.shape.at(-1) ?? 1;
    const out = nd(x.shape.slice(0, -1));
    for (let row = 0; row < out.data.length; row++)
      for (let i = 1; i < width; i++) if (at(x, row * width + i) > at(x, row * width + at(out, row))) out.data[row] = i;
    return [out];
  },
};
