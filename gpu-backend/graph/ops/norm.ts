import { type Dim, productOf } from '../dim.ts';
import type { Graph, Value } from '../graph.ts';
import type { LowerContext } from '../lowering.ts';
import { at, nd, zipNd } from '../nd.ts';
import { arg, expectRank, expectSame, one, scalar, unbroadcast, withAxis } from './infer.ts';
import { rowsOf } from './linalg.ts';
import type { OpRow } from './row.ts';

const mulOf = (graph: Graph, a: Value, b: Value): Value => one(graph.emit('mul', [a, b], {}));
const subOf = (graph: Graph, a: Value, b: Value): Value => one(graph.emit('sub', [a, b], {}));
const meanOf = (graph: Graph, x: Value): Value =>
  one(graph.emit('reduceMean', [x], { axes: [x.shape.length - 1], keepDims: true }));
const statsShape = (shape: readonly Dim[]): readonly Dim[] => withAxis(shape, shape.length - 1, 1);

/**
 * LayerNorm over the last axis (Ba et al., 2016). With x̂ = (x - mean) invStd and h = g w:
 * dx = invStd (h - mean(h) - x̂ mean(h x̂)), dw = Σ g x̂, db = Σ g.
 */
export const layerNorm: OpRow<'layerNorm'> = {
  infer: (inputs) => {
    const x = arg(inputs, 0, 'x');
    expectSame(arg(inputs, 1, 'weight').shape[0], x.shape[x.shape.length - 1], 'weight and last axis');
    expectSame(arg(inputs, 2, 'bias').shape[0], x.shape[x.shape.length - 1], 'bias and last axis');
    return [x, { dtype: 'f32', shape: statsShape(x.shape) }, { dtype: 'f32', shape: statsShape(x.shape) }];
  },
  grad: (c) => {
    const [x, w, b] = [arg(c.inputs, 0, 'x'), arg(c.inputs, 1, 'weight'), arg(c.inputs, 2, 'bias')];
    const [mean, invStd] = [arg(c.outputs, 1, 'mean'), arg(c.outputs, 2, 'invStd')];
    const xhat = mulOf(c.graph, subOf(c.graph, x, mean), invStd);
    const dx = (): Value => {
      const h = mulOf(c.graph, c.g, w);
      const centred = subOf(c.graph, h, meanOf(c.graph, h));
      const along = mulOf(c.graph, xhat, meanOf(c.graph, mulOf(c.graph, h, xhat)));
      return mulOf(c.graph, subOf(c.graph, centred, along), invStd);
    };
    return [
      c.wants[0] ? dx() : undefined,
      c.wants[1] ? unbroadcast(c.graph, mulOf(c.graph, c.g, xhat), w.shape) : undefined,
      c.wants[2] ? unbroadcast(c.graph, c.g, b.shape) : undefined,
    ];
  },
  lower: (ctx, node) =>
    ctx.emitMany(
      'LayerNormalization',
      node.inputs.map((v) => ctx.name(v)),
      3,
      { axis: { int: -1 }, epsilon: node.attrs.epsilon },
    ),
  reference: (inputs, { epsilon }) => {
    const [x, w, b] = [arg(inputs, 0, 'x'), arg(inputs, 1, 'weight'), arg(inputs, 2, 'bias')];
    const { count, width } = rowsOf(x);
    const stats = withAxis(x.shape, x.shape.length - 1, 1) as number[];
    const [y, means, invStds] = [nd(x.shape), nd(stats), nd(stats)];
    for (let r = 0; r < count; r++) {
      const row = x.data.subarray(r * width, (r + 1) * width);
      const mean = row.reduce((s, v) => s + v, 0) / width;
      const invStd = 1 / Math.sqrt(row.reduce((s, v) => s + (v - mean) ** 2, 0) / width + epsilon);
      means.data[r] = mean;
      invStds.data[r] = invStd;
      row.forEach((v, j) => {
        y.data[r * width + j] = (v - mean) * invStd * at(w, j) + at(b, j);
      });
    }
    return [y, means, invStds];
  },
};

/** Names of (y, invStd). */
function lowerRmsNorm(ctx: LowerContext, x: string, w: string, epsilon: number): string[] {
  const { simplifiedLayerNorm, simplifiedLayerNormStats } = ctx.capabilities;
  const fused = (outputs: number): string[] =>
    ctx.emitMany('SimplifiedLayerNormalization', [x, w], outputs, { axis: { int: -1 }, epsilon });
  if (simplifiedLayerNorm && simplifiedLayerNormStats) return fused(2);
  const meanSquare = ctx.emit('ReduceMean', [ctx.emit('Mul', [x, x]), ctx.ints([-1])], { keepdims: { int: 1 } });
  const invStd = ctx.emit('Reciprocal', [ctx.emit('Sqrt', [ctx.emit('Add', [meanSquare, ctx.scalar(epsilon)])])]);
  // Where nothing reads invStd, its nodes are left out of the model.
  if (simplifiedLayerNorm) return [...fused(1), invStd];
  return [ctx.emit('Mul', [ctx.emit('Mul', [x, invStd]), w]), invStd];
}

/**
 * RMSNorm over the last axis (Zhang & Sennrich, 2019). With r = invStd and t = g x, reduced to what needs whole passes over
 * the activations: dx = r (g w) - x r³ (t · w) / D, dw = Σ_rows r t. The two sums are matrix-vector products that read t once.
 */
export const rmsNorm: OpRow<'rmsNorm'> = {
  infer: (inputs) => {
    const x = arg(inputs, 0, 'x');
    expectSame(arg(inputs, 1, 'weight').shape[0], x.shape[x.shape.length - 1], 'weight and last axis');
    return [x, { dtype: 'f32', shape: statsShape(x.shape) }];
  },
  grad: (c) => {
    const { graph, g } = c;
    const [x, w] = [arg(c.inputs, 0, 'x'), arg(c.inputs, 1, 'weight')];
    const invStd = arg(c.outputs, 1, 'invStd');
    const width = arg(x.shape, x.shape.length - 1, 'D');
    if (typeof width !== 'number') throw new Error('rmsNorm needs a static last axis for its gradient');
    const rows = productOf(x.shape.slice(0, -1));
    const view = (v: Value, shape: readonly Dim[]): Value => one(graph.emit('reshape', [v], { shape }));
    const product = (a: Value, b: Value): Value =>
      one(graph.emit('gemm', [a, b], { transA: false, transB: false, alpha: 1, beta: 1 }));
    const t = view(mulOf(graph, g, x), [rows, width]);
    const dx = (): Value => {
      const along = view(product(t, view(w, [width, 1])), statsShape(x.shape));
      const cube = mulOf(graph, mulOf(graph, invStd, invStd), mulOf(graph, invStd, scalar(graph, 1 / width)));
      return subOf(graph, mulOf(graph, mulOf(graph, g, w), invStd), mulOf(graph, x, mulOf(graph, cube, along)));
    };
    return [c.wants[0] ? dx() : undefined, c.wants[1] ? view(product(view(invStd, [1, rows]), t), [width]) : undefined];
  },
  lower: (ctx, node) =>
    lowerRmsNorm(ctx, ctx.name(arg(node.inputs, 0, 'x')), ctx.name(arg(node.inputs, 1, 'weight')), node.attrs.epsilon),
  reference: (inputs, { epsilon }) => {
    const [x, w] = [arg(inputs, 0, 'x'), arg(inputs, 1, 'weight')];
    const { count, width } = rowsOf(x);
    const [y, invStds] = [nd(x.shape), nd(withAxis(x.shape, x.shape.length - 1, 1) as number[])];
    for (let r = 0; r < count; r++) {
      const row = x.data.subarray(r * width, (r + 1) * width);
      const invStd = 1 / Math.sqrt(row.reduce((s, v) => s + v * v, 0) / width + epsilon);
      invStds.data[r] = invStd;
      row.forEach((v, j) => {
        y.data[r * width + j] = v * invStd * at(w, j);
      });
    }
    return [y, invStds];
  },
};

/** Made by the lowering where nothing reads the norm's invStd (`fuse.ts`). */
export const addRmsNorm: OpRow<'addRmsNorm'> = {
  infer: (inputs) => {
    const [a, b, weight] = [arg(inputs, 0, 'a'), arg(inputs, 1, 'b'), arg(inputs, 2, 'weight')];
    expectRank(a, 2, 'a');
    expectRank(b, 2, 'b');
    expectSame(a.shape[0], b.shape[0], 'rows of a and b');
    expectSame(a.shape[1], b.shape[1], 'last axes of a and b');
    expectSame(weight.shape[0], a.shape[1], 'weight and last axis');
    return [a, a];
  },
  grad: 'none',
  lower: (ctx, node) => {
    const [a, b, weight] = node.inputs.map((v) => ctx.name(v)) as [string, string, string];
    if (ctx.capabilities.skipSimplifiedLayerNorm) {
      // Outputs by place: the norm, mean, invStd, the sum.
      const outputs = [true, false, false, true];
      const attrs = { epsilon: node.attrs.epsilon };
      const names = ctx.emitMany('SkipSimplifiedLayerNormalization', [a, b, weight], outputs, attrs, 'com.microsoft');
      return [names[0] ?? '', names[3] ?? ''];
    }
    const sum = ctx.emit('Add', [a, b]);
    return [lowerRmsNorm(ctx, sum, weight, node.attrs.epsilon)[0] ?? '', sum];
  },
  reference: (inputs, attrs, resolve) => {
    const [a, b, weight] = [arg(inputs, 0, 'a'), arg(inputs, 1, 'b'), arg(inputs, 2, 'weight')];
    const sum = zipNd(a.shape, [a, b], (x = 0, y = 0) => x + y);
    return [arg(rmsNorm.reference([sum, weight], attrs, resolve), 0, 'y'), sum];
  },
};
