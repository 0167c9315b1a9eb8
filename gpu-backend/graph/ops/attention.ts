import { sameShape, showShape } from '../dim.ts';
import { at, forEachIndex, nd, zipNd } from '../nd.ts';
import { arg, expectDtype, expectRank, expectSame, one, unbroadcast } from './infer.ts';
import { batched, softmaxNd, swapLast } from './linalg.ts';
import type { OpRow } from './row.ts';

/**
 * Rotary position embedding (Su et al., 2021) in the Hugging Face layout: feature i is paired with i + R/2.
 * The inverse rotation is its own gradient rule.
 */
export const rope: OpRow<'rope'> = {
  infer: (inputs) => {
    const [x, positions, cos, sin] = [
      arg(inputs, 0, 'x'),
      arg(inputs, 1, 'positions'),
      arg(inputs, 2, 'cos'),
      arg(inputs, 3, 'sin'),
    ];
    expectRank(x, 4, 'x [B, H, S, D]');
    expectRank(positions, 2, 'positions [B, S]');
    expectDtype(positions, 'i64', 'positions');
    expectSame(x.shape[0], positions.shape[0], 'batch of x and positions');
    expectSame(x.shape[2], positions.shape[1], 'length of x and positions');
    const half = cos.shape[1];
    const width = x.shape[3];
    if (typeof half !== 'number' || typeof width !== 'number' || 2 * half > width || !sameShape(cos.shape, sin.shape)) {
      throw new Error(`cos and sin must be [P, R/2] with R <= D, got ${showShape(cos.shape)} for D=${String(width)}`);
    }
    return [x];
  },
  grad: (c) => [
    one(c.graph.emit('rope', [c.g, ...c.inputs.slice(1)], { inverse: !c.attrs.inverse })),
    undefined,
    undefined,
    undefined,
  ],
  lower: (ctx, node) => {
    const [x, positions, cos, sin] = node.inputs.map((v) => ctx.name(v)) as [string, string, string, string];
    const half = arg(arg(node.inputs, 2, 'cos').shape, 1, 'half') as number;
    const width = arg(arg(node.inputs, 0, 'x').shape, 3, 'width') as number;
    // Every layer reads the same table, so it is negated once.
    const signedSin = node.attrs.inverse ? ctx.once(`-${sin}`, () => ctx.emit('Neg', [sin])) : sin;
    if (ctx.capabilities.rotaryEmbedding && 2 * half === width) {
      return [ctx.emitContrib('RotaryEmbedding', [x, positions, cos, signedSin], { interleaved: { int: 0 } })];
    }
    const take = (from: number, to: number) => ctx.emit('Slice', [x, ctx.ints([from]), ctx.ints([to]), ctx.ints([3])]);
    const axis = ctx.ints([1]);
    const c = ctx.emit('Unsqueeze', [ctx.emit('Gather', [cos, positions]), axis]);
    const s = ctx.emit('Unsqueeze', [ctx.emit('Gather', [signedSin, positions]), axis]);
    const [a, b] = [take(0, half), take(half, 2 * half)];
    const first = ctx.emit('Sub', [ctx.emit('Mul', [a, c]), ctx.emit('Mul', [b, s])]);
    const second = ctx.emit('Add', [ctx.emit('Mul', [b, c]), ctx.emit('Mul', [a, s])]);
    const parts = 2 * half === width ? [first, second] : [first, second, take(2 * half, width)];
    return [ctx.emit('Concat', parts, { axis: { int: 3 } })];
  },
  reference: (inputs, { inverse }) => {
    const [x, positions, cos, sin] = [
      arg(inputs, 0, 'x'),
      arg(inputs, 1, 'positions'),
      arg(inputs, 2, 'cos'),
      arg(inputs, 3, 'sin'),
    ];
    const half = arg(cos.shape, 1, 'half');
    const length = arg(x.shape, 2, 'S');
    const out = nd(x.shape);
    forEachIndex(x.shape, (flat, [b = 0, , s = 0, d = 0]) => {
      if (d >= 2 * half) {
        out.data[flat] = at(x, flat);
        return;
      }
      const row = at(positions, b * length + s) * half + (d % half);
      const sine = inverse ? -at(sin, row) : at(sin, row);
      const other = d < half ? -at(x, flat + half) : at(x, flat - half);
      out.data[flat] = at(x, flat) * at(cos, row) + other * sine;
    });
    return [out];
  },
};

/**
 * softmax(scale q kᵀ + bias) v. Grouped queries come as [B, Hkv, G·Q, D], so keys and values are never repeated.
 * Backward: δ = rowsum(dO ∘ O), dS = P ∘ (dP - δ) (the FlashAttention identity: it saves one pass over the scores).
 */
export const attention: OpRow<'attention'> = {
  infer: (inputs) => {
    const [q, k, v] = [arg(inputs, 0, 'q'), arg(inputs, 1, 'k'), arg(inputs, 2, 'v')];
    for (const [t, name] of [
      [q, 'q'],
      [k, 'k'],
      [v, 'v'],
    ] as const)
      expectRank(t, 4, name);
    if (!sameShape(k.shape, v.shape) || !sameShape(q.shape.slice(0, 2), k.shape.slice(0, 2))) {
      throw new Error(
        `q, k, v must agree in batch and heads, got ${showShape(q.shape)}, ${showShape(k.shape)}, ${showShape(v.shape)}`,
      );
    }
    expectSame(q.shape[3], k.shape[3], 'head size of q and k');
    return [q, { dtype: 'f32', shape: [...q.shape.slice(0, 3), arg(k.shape, 2, 'K')] }];
  },
  grad: (c) => {
    const { graph, g } = c;
    const [q, k, v, bias] = [arg(c.inputs, 0, 'q'), arg(c.inputs, 1, 'k'), arg(c.inputs, 2, 'v'), c.inputs[3]];
    const [o, p] = [arg(c.outputs, 0, 'o'), arg(c.outputs, 1, 'p')];
    const mm = (a: typeof q, b: typeof q, transA: boolean, transB: boolean, alpha: number) =>
      one(graph.emit('matmul', [a, b], { transA, transB, alpha }));
    const dv = c.wants[2] ? mm(p, g, true, false, 1) : undefined;
    if (!c.wants[0] && !c.wants[1] && !c.wants[3]) return [undefined, undefined, dv, undefined];
    const dp = mm(g, v, false, true, 1);
    const delta = one(graph.emit('reduceSum', [one(graph.emit('mul', [g, o], {}))], { axes: [3], keepDims: true }));
    const ds = one(graph.emit('mul', [p, one(graph.emit('sub', [dp, delta], {}))], {}));
    return [
      c.wants[0] ? mm(ds, k, false, false, c.attrs.scale) : undefined,
      c.wants[1] ? mm(ds, q, true, false, c.attrs.scale) : undefined,
      dv,
      bias !== undefined && c.wants[3] ? unbroadcast(graph, ds, bias.shape) : undefined,
    ];
  },
  lower: (ctx, node) => {
    const [q, k, v, bias] = node.inputs.map((x) => ctx.name(x)) as [string, string, string, string | undefined];
    const alpha = node.attrs.scale;
    let scores: string;
    if (ctx.capabilities.fusedMatMul)
      scores = ctx.emitContrib('FusedMatMul', [q, k], { transA: { int: 0 }, transB: { int: 1 }, alpha });
    else
      scores = ctx.emit('Mul', [
        ctx.emit('MatMul', [q, ctx.emit('Transpose', [k], { perm: { ints: swapLast(4) } })]),
        ctx.scalar(alpha),
      ]);
    if (bias !== undefined) scores = ctx.emit('Add', [scores, bias]);
    const p = ctx.emit('Softmax', [scores], { axis: { int: -1 } });
    return [ctx.emit('MatMul', [p, v]), p];
  },
  reference: (inputs, { scale }) => {
    const [q, k, v, bias] = [arg(inputs, 0, 'q'), arg(inputs, 1, 'k'), arg(inputs, 2, 'v'), inputs[3]];
    let scores = batched(q, k, false, true, scale);
    if (bias !== undefined) scores = zipNd(scores.shape, [scores, bias], (s = 0, b = 0) => s + b);
    const p = softmaxNd(scores, false);
    return [batched(p, v, false, false, 1), p];
  },
};
