import { type Dim, dimKey, mulDims, sameShape, showShape } from '../dim.ts';
import type { TensorType } from '../graph.ts';
import type { LowerContext } from '../lowering.ts';
import { at, type NdArray, nd } from '../nd.ts';
import type { OpAttrs } from './attrs.ts';
import { arg, expectDtype, expectRank, expectSame } from './infer.ts';
import type { OpRow } from './row.ts';

type Attrs = OpAttrs['cacheAttention'];
type Names = readonly [qkv: string, keys: string, values: string, lengths: string, cos: string, sin: string];

const MASKED = -1e9;
/** ONNX element type of lengths. */
const INT32 = 6;

/** The kernel's lengths: [B] of the past, as int32, and [] of the longest row with its new token. */
function kernelLengths(ctx: LowerContext, lengths: string): readonly [string, string] {
  const int32 = (name: string): string => ctx.emit('Cast', [name], { to: { int: INT32 } });
  const past = ctx.once(`int32 ${lengths}`, () => int32(lengths));
  const total = ctx.once(`longest ${lengths}`, () => {
    const most = ctx.emit('ReduceMax', [lengths], { keepdims: { int: 1 } });
    return int32(ctx.emit('Squeeze', [ctx.emit('Add', [most, ctx.ints([1])])]));
  });
  return [past, total];
}

function lowerStandard(
  ctx: LowerContext,
  [qkv, pastKeys, pastValues, lengths, cos, sin]: Names,
  cache: TensorType,
  { heads, kvHeads, scale }: Attrs,
): string[] {
  const [batch, , room, D] = cache.shape as [Dim, Dim, Dim, number];
  const shaped = (x: string, ...shape: Dim[]): string => ctx.emit('Reshape', [x, ctx.shape(shape)]);
  const byHead = shaped(qkv, batch, heads + 2 * kvHeads, 1, D);
  const sizes = ctx.ints([heads, kvHeads, kvHeads]);
  const [q = '', k = '', v = ''] = ctx.emitMany('Split', [byHead, sizes], 3, { axis: { int: 1 } });
  // [B, 1, 1, D/2], [B, 1, T, 1] and [B, 1, 1, 1, T]: the same for all layers.
  const [c, s] = [cos, sin].map((table) =>
    ctx.once(`${table} at ${lengths}`, () =>
      ctx.emit('Unsqueeze', [ctx.emit('Gather', [table, lengths]), ctx.ints([1, 2])]),
    ),
  ) as [string, string];
  const places = ctx.once(`places ${dimKey(room)}`, () => {
    const scalar = (n: string): string => ctx.emit('Squeeze', [n]);
    return ctx.emit('Range', [scalar(ctx.ints([0])), scalar(ctx.dim(room)), scalar(ctx.ints([1]))]);
  });
  const column = ctx.once(`column ${lengths}`, () => ctx.emit('Unsqueeze', [lengths, ctx.ints([1])]));
  const isNew = ctx.once(`new ${lengths} ${dimKey(room)}`, () =>
    ctx.emit('Unsqueeze', [ctx.emit('Equal', [places, column]), ctx.ints([1, 3])]),
  );
  const bias = ctx.once(`bias ${lengths} ${dimKey(room)}`, () => {
    const beyond = ctx.emit('Cast', [ctx.emit('Greater', [places, column])], { to: { int: 1 } });
    return ctx.emit('Unsqueeze', [ctx.emit('Mul', [beyond, ctx.scalar(MASKED)]), ctx.ints([1, 2])]);
  });
  const rotated = (x: string): string => {
    const [a = '', b = ''] = ctx.emitMany('Split', [x, ctx.ints([D / 2, D / 2])], 2, { axis: { int: 3 } });
    const times = (y: string, table: string): string => ctx.emit('Mul', [y, table]);
    const first = ctx.emit('Sub', [times(a, c), times(b, s)]);
    const second = ctx.emit('Add', [times(b, c), times(a, s)]);
    return ctx.emit('Concat', [first, second], { axis: { int: 3 } });
  };
  const keys = ctx.emit('Where', [isNew, rotated(k), pastKeys]);
  const values = ctx.emit('Where', [isNew, v, pastValues]);
  const queries = shaped(rotated(q), batch, kvHeads, heads / kvHeads, D);
  const turned = ctx.emit('Transpose', [keys], { perm: { ints: [0, 1, 3, 2] } });
  const scores = ctx.emit('Mul', [ctx.emit('MatMul', [queries, turned]), ctx.scalar(scale)]);
  const p = ctx.emit('Softmax', [ctx.emit('Add', [scores, bias])], { axis: { int: -1 } });
  return [shaped(ctx.emit('MatMul', [p, values]), batch, heads * D), keys, values];
}

/**
 * One new token a row over a cache with room for T: rotates it by its position, which is the row's length, writes its key and value
 * there and attends to all up to itself. Where the cache's outputs are bound to its inputs' memory, a kernel writes the one token
 * and copies nothing. What lies beyond a row's new token is not defined in the outputs unless they are bound so.
 */
export const cacheAttention: OpRow<'cacheAttention'> = {
  infer: (inputs, { heads, kvHeads }) => {
    const [qkv, keys, values, lengths] = [
      arg(inputs, 0, 'qkv'),
      arg(inputs, 1, 'keys'),
      arg(inputs, 2, 'values'),
      arg(inputs, 3, 'lengths'),
    ];
    const [cos, sin] = [arg(inputs, 4, 'cos'), arg(inputs, 5, 'sin')];
    expectRank(qkv, 2, 'qkv [B, (H + 2 Hkv) D]');
    expectRank(keys, 4, 'keys [B, Hkv, T, D]');
    expectRank(lengths, 1, 'lengths [B]');
    expectDtype(lengths, 'i64', 'lengths');
    for (const [t, name] of [
      [qkv, 'qkv'],
      [keys, 'keys'],
      [values, 'values'],
    ] as const)
      expectDtype(t, 'f32', name);
    const [batch, , , D] = keys.shape as [Dim, Dim, Dim, Dim];
    if (!sameShape(keys.shape, values.shape))
      throw new Error(`keys and values must be alike, got ${showShape(keys.shape)} and ${showShape(values.shape)}`);
    expectSame(keys.shape[1], kvHeads, 'heads of the cache and kvHeads');
    for (const t of [qkv, lengths]) expectSame(t.shape[0], batch, 'batch and rows of the cache');
    if (typeof D !== 'number' || qkv.shape[1] !== (heads + 2 * kvHeads) * D)
      throw new Error(
        `qkv must be [B, (${heads} + 2 ${kvHeads}) D] for keys ${showShape(keys.shape)}, got ${showShape(qkv.shape)}`,
      );
    for (const table of [cos, sin])
      if (table.shape.length !== 2 || table.shape[1] !== D / 2)
        throw new Error(`cos and sin must be [P, ${D / 2}], got ${showShape(table.shape)}`);
    return [{ dtype: 'f32', shape: [batch, mulDims(heads, D)] }, keys, values];
  },
  grad: 'none',
  lower: (ctx, node) => {
    const names = node.inputs.map((x) => ctx.name(x)) as unknown as Names;
    const { heads, kvHeads, scale } = node.attrs;
    const cache = arg(node.inputs, 1, 'keys');
    if (!ctx.capabilities.groupQueryCache) return lowerStandard(ctx, names, cache, node.attrs);
    const [qkv, keys, values, lengths, cos, sin] = names;
    const [batch, width] = arg(node.inputs, 0, 'qkv').shape as [Dim, Dim];
    const rows = ctx.emit('Reshape', [qkv, ctx.shape([batch, 1, width], true)]);
    // Inputs by place: joined projections, no separate keys and values, the past, lengths, tables.
    const [o = '', presentKeys = '', presentValues = ''] = ctx.emitMany(
      'GroupQueryAttention',
      [rows, '', '', keys, values, ...kernelLengths(ctx, lengths), cos, sin],
      3,
      { num_heads: { int: heads }, kv_num_heads: { int: kvHeads }, scale, do_rotary: { int: 1 } },
      'com.microsoft',
    );
    const merged = mulDims(heads, arg(cache.shape, 3, 'D'));
    return [ctx.emit('Reshape', [o, ctx.shape([batch, merged], true)]), presentKeys, presentValues];
  },
  reference: (inputs, { heads, kvHeads, scale }) => {
    const [qkv, pastKeys, pastValues] = [arg(inputs, 0, 'qkv'), arg(inputs, 1, 'keys'), arg(inputs, 2, 'values')];
    const [lengths, cos, sin] = [arg(inputs, 3, 'lengths'), arg(inputs, 4, 'cos'), arg(inputs, 5, 'sin')];
    const [B, , T, D] = pastKeys.shape as [number, number, number, number];
    const half = D / 2;
    const W = (heads + 2 * kvHeads) * D;
    const value = (b: number, head: number, d: number): number => at(qkv, b * W + head * D + d);
    const rotated = (b: number, head: number, d: number): number => {
      const place = at(lengths, b) * half + (d % half);
      const other = d < half ? -value(b, head, d + half) : value(b, head, d - half);
      return value(b, head, d) * at(cos, place) + other * at(sin, place);
    };
    const withNew = (past: NdArray, make: typeof value, from: number): NdArray => {
      const out = nd(past.shape, past.data.slice());
      for (let b = 0; b < B; b++)
        for (let h = 0; h < kvHeads; h++)
          for (let d = 0; d < D; d++) out.data[((b * kvHeads + h) * T + at(lengths, b)) * D + d] = make(b, from + h, d);
      return out;
    };
    const [k, v] = [withNew(pastKeys, rotated, heads), withNew(pastValues, value, heads + kvHeads)];
    const o = nd([B, heads * D]);
    for (let b = 0; b < B; b++)
      for (let h = 0; h < heads; h++) {
        const start = (b * kvHeads + Math.floor((h * kvHeads) / heads)) * T * D;
        const scores = Array.from({ length: at(lengths, b) + 1 }, (_, t) => {
          let sum = 0;
          for (let d = 0; d < D; d++) sum += rotated(b, h, d) * at(k, start + t * D + d);
          return sum * scale;
        });
        const most = Math.max(...scores);
        const parts = scores.map((score) => Math.exp(score - most));
        const total = parts.reduce((x, y) => x + y, 0);
        for (let d = 0; d < D; d++)
          o.data[b * heads * D + h * D + d] =
            parts.reduce((sum, part, t) => sum + part * at(v, start + t * D + d), 0) / total;
      }
    return [o, k, v];
  },
};
