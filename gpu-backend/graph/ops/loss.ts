import { at, nd } from '../nd.ts';
import { arg, expectDtype, expectRank, expectSame, one } from './infer.ts';
import { logSoftmax, softmaxNd } from './linalg.ts';
import type { OpRow } from './row.ts';

/**
 * Σ_r weights[r] · -log softmax(logits[r])[targets[r]]. The caller divides by the number of supervised tokens, so that
 * accumulated micro-batches add up to the full batch.
 */
export const crossEntropy: OpRow<'crossEntropy'> = {
  infer: (inputs) => {
    const [logits, targets, weights] = [arg(inputs, 0, 'logits'), arg(inputs, 1, 'targets'), arg(inputs, 2, 'weights')];
    expectRank(logits, 2, 'logits [R, V]');
    expectDtype(targets, 'i64', 'targets');
    expectSame(logits.shape[0], targets.shape[0], 'rows of logits and targets');
    expectSame(logits.shape[0], weights.shape[0], 'rows of logits and weights');
    return [
      { dtype: 'f32', shape: [] },
      { dtype: 'f32', shape: logits.shape },
    ];
  },
  grad: (c) => [
    one(
      c.graph.emit(
        'crossEntropyGrad',
        [arg(c.outputs, 1, 'logp'), arg(c.inputs, 1, 'targets'), arg(c.inputs, 2, 'weights'), c.g],
        {},
      ),
    ),
    undefined,
    undefined,
  ],
  lower: (ctx, node) => {
    const [, targets, weights] = node.inputs.map((v) => ctx.name(v)) as [string, string, string];
    const [logp] = logSoftmax.lower(ctx, { ...node, op: 'logSoftmax', attrs: {} });
    const column = ctx.emit('Unsqueeze', [targets, ctx.ints([1])]);
    const picked = ctx.emit('Squeeze', [
      ctx.emit('GatherElements', [logp ?? '', column], { axis: { int: 1 } }),
      ctx.ints([1]),
    ]);
    const sum = ctx.emit('ReduceSum', [ctx.emit('Mul', [picked, weights]), ctx.ints([0])], { keepdims: { int: 0 } });
    return [ctx.emit('Neg', [sum]), logp ?? ''];
  },
  reference: (inputs) => {
    const [logits, targets, weights] = [arg(inputs, 0, 'logits'), arg(inputs, 1, 'targets'), arg(inputs, 2, 'weights')];
    const logp = softmaxNd(logits, true);
    const width = arg(logits.shape, 1, 'V');
    let loss = 0;
    targets.data.forEach((t, r) => {
      loss -= at(weights, r) * at(logp, r * width + t);
    });
    return [nd([], Float64Array.of(loss)), logp];
  },
};

/** dlogits = g · weights ∘ (softmax(logits) - onehot(targets)), from the kept log-probabilities. */
export const crossEntropyGrad: OpRow<'crossEntropyGrad'> = {
  infer: (inputs) => [{ dtype: 'f32', shape: arg(inputs, 0, 'logp').shape }],
  grad: 'none',
  lower: (ctx, node) => {
    const [logp, targets, weights, g] = node.inputs.map((v) => ctx.name(v)) as [string, string, string, string];
    const axis = ctx.ints([1]);
    const scale = ctx.emit('Unsqueeze', [ctx.emit('Mul', [weights, g]), axis]);
    const dense = ctx.emit('Mul', [ctx.emit('Exp', [logp]), scale]);
    const column = ctx.emit('Unsqueeze', [targets, axis]);
    return [
      ctx.emit('ScatterElements', [dense, column, ctx.emit('Neg', [scale])], { axis: { int: 1 }, reduction: 'add' }),
    ];
  },
  reference: (inputs) => {
    const [logp, targets, weights, g] = [
      arg(inputs, 0, 'logp'),
      arg(inputs, 1, 'targets'),
      arg(inputs, 2, 'weights'),
      arg(inputs, 3, 'g'),
    ];
    const width = arg(logp.shape, 1, 'V');
    const out = nd(logp.shape);
    logp.data.forEach((v, i) => {
      const r = Math.floor(i / width);
      out.data[i] = at(g, 0) * at(weights, r) * (Math.exp(v) - (i % width === at(targets, r) ? 1 : 0));
    });
    return [out];
  },
};
