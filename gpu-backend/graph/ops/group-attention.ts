import { type Dim, dimKey, mulDims, showShape } from '../dim.ts';
import type { TensorType } from '../graph.ts';
import type { LowerContext } from '../lowering.ts';
import { at, forEachIndex, type NdArray, nd } from '../nd.ts';
import type { OpAttrs } from './attrs.ts';
import { arg, expectDtype, expectRank } from './infer.ts';
import type { OpRow } from './row.ts';

/*
 * Attention of whole prompts, from the joined projections to the joined heads in one kernel: nothing of the size of the scores is
 * written to memory, and no head is moved.
 */

type Attrs = OpAttrs['groupQueryAttention'];

/** A score of a pair that must not attend. */
const MASKED = -1e9;
const INT32 = 6;

/** Head size of projections [B, S, (heads + 2 kvHeads) D]. */
function headDimOf(qkv: TensorType, { heads, kvHeads }: Attrs): number {
  const width = qkv.shape[2];
  const count = heads + 2 * kvHeads;
  if (typeof width !== 'number' || width % count !== 0)
    throw new Error(`qkv must be [B, S, ${count} D] for ${heads} and ${kvHeads} heads, got ${showShape(qkv.shape)}`);
  return width / count;
}

/** The kernel's sequence lengths: every row is S long. [B] and [], int32. */
function fullLengths(ctx: LowerContext, batch: Dim, length: Dim): readonly [string, string] {
  const int32 = (name: string): string => ctx.emit('Cast', [name], { to: { int: INT32 } });
  const last = ctx.once(`last of ${dimKey(batch)} x ${dimKey(length)}`, () =>
    int32(ctx.emit('Expand', [ctx.emit('Sub', [ctx.dim(length), ctx.ints([1])]), ctx.dim(batch)])),
  );
  const total = ctx.once(`int32 ${dimKey(length)}`, () => int32(ctx.emit('Squeeze', [ctx.dim(length)])));
  return [last, total];
}

/** [S, S]: 0, or MASKED where a query (row) must not see a key. */
function lowerMask(ctx: LowerContext, length: Dim, window: number | null): string {
  return ctx.once(`causal mask ${dimKey(length)}, ${window}`, () => {
    const all = ctx.emit('Expand', [ctx.scalar(MASKED), ctx.shape([length, length])]);
    const triangle = (k: number, upper: 0 | 1): string =>
      ctx.emit('Trilu', [all, ctx.once(`scalar ${k}`, () => ctx.emit('Squeeze', [ctx.ints([k])]))], {
        upper: { int: upper },
      });
    return window === null ? triangle(1, 1) : ctx.emit('Add', [triangle(1, 1), triangle(-window, 0)]);
  });
}

function lowerStandard(
  ctx: LowerContext,
  [qkv, cos, sin]: readonly [string, string, string],
  type: TensorType,
  half: number,
  attrs: Attrs,
): string[] {
  const { heads, kvHeads, scale, window } = attrs;
  const [batch, length] = type.shape as [Dim, Dim];
  const D = headDimOf(type, attrs);
  const shaped = (x: string, ...shape: Dim[]): string => ctx.emit('Reshape', [x, ctx.shape(shape)]);
  const swapped = (x: string): string => ctx.emit('Transpose', [x], { perm: { ints: [0, 2, 1, 3] } });
  const byHead = swapped(shaped(qkv, batch, length, heads + 2 * kvHeads, D));
  const sizes = ctx.ints([heads, kvHeads, kvHeads]);
  const [q = '', k = '', v = ''] = ctx.emitMany('Split', [byHead, sizes], 3, { axis: { int: 1 } });
  const [c, s] = [cos, sin].map((table) =>
    ctx.once(`${table} of ${dimKey(length)}`, () =>
      ctx.emit('Slice', [table, ctx.ints([0]), ctx.dim(length), ctx.ints([0])]),
    ),
  ) as [string, string];
  const rotated = (x: string): string => {
    const [a = '', b = ''] = ctx.emitMany('Split', [x, ctx.ints([half, half])], 2, { axis: { int: 3 } });
    const times = (y: string, table: string): string => ctx.emit('Mul', [y, table]);
    const first = ctx.emit('Sub', [times(a, c), times(b, s)]);
    const second = ctx.emit('Add', [times(b, c), times(a, s)]);
    return ctx.emit('Concat', [first, second], { axis: { int: 3 } });
  };
  const [queries, keys] = [shaped(rotated(q), batch, kvHeads, heads / kvHeads, length, D), rotated(k)];
  const overGroup = (x: string): string => ctx.emit('Unsqueeze', [x, ctx.ints([2])]);
  const turned = ctx.emit('Transpose', [overGroup(keys)], { perm: { ints: [0, 1, 2, 4, 3] } });
  const scores = ctx.emit('Mul', [ctx.emit('MatMul', [queries, turned]), ctx.scalar(scale)]);
  const p = ctx.emit('Softmax', [ctx.emit('Add', [scores, lowerMask(ctx, length, window)])], { axis: { int: -1 } });
  const o = shaped(ctx.emit('MatMul', [p, overGroup(v)]), batch, heads, length, D);
  return [shaped(swapped(o), batch, length, heads * D), keys, v];
}

/**
 * Causal attention of whole rows from position 0: rotates queries and keys by their positions, as `rope` does over all features,
 * and gives the keys and values beside the result. Rows that are padded on the right need no mask: nothing before the padding
 * sees it.
 */
export const groupQueryAttention: OpRow<'groupQueryAttention'> = {
  infer: (inputs, attrs) => {
    const [qkv, cos, sin] = [arg(inputs, 0, 'qkv'), arg(inputs, 1, 'cos'), arg(inputs, 2, 'sin')];
    expectDtype(qkv, 'f32', 'qkv');
    expectRank(qkv, 3, 'qkv [B, S, (H + 2 Hkv) D]');
    const D = headDimOf(qkv, attrs);
    for (const table of [cos, sin])
      if (table.shape.length !== 2 || table.shape[1] !== D / 2)
        throw new Error(`cos and sin must be [P, ${D / 2}], got ${showShape(table.shape)}`);
    const [batch, length] = [arg(qkv.shape, 0, 'B'), arg(qkv.shape, 1, 'S')];
    const kv: TensorType = { dtype: 'f32', shape: [batch, attrs.kvHeads, length, D] };
    return [{ dtype: 'f32', shape: [batch, length, mulDims(attrs.heads, D)] }, kv, kv];
  },
  grad: 'none',
  lower: (ctx, node) => {
    const qkv = arg(node.inputs, 0, 'qkv');
    const names = node.inputs.map((v) => ctx.name(v)) as [string, string, string];
    const { heads, kvHeads, scale, window } = node.attrs;
    const isFused = ctx.capabilities.groupQueryAttention && (window === null || ctx.capabilities.groupQueryWindow);
    if (!isFused)
      return lowerStandard(ctx, names, qkv, arg(arg(node.inputs, 1, 'cos').shape, 1, 'half') as number, node.attrs);
    const [batch, length] = qkv.shape as [Dim, Dim];
    // Inputs by place: joined projections, no separate keys and values, no past, lengths, tables.
    return ctx.emitMany(
      'GroupQueryAttention',
      [names[0], '', '', '', '', ...fullLengths(ctx, batch, length), names[1], names[2]],
      3,
      {
        num_heads: { int: heads },
        kv_num_heads: { int: kvHeads },
        scale,
        do_rotary: { int: 1 },
        ...(window === null ? {} : { local_window_size: { int: window } }),
      },
      'com.microsoft',
    );
  },
  reference: (inputs, attrs) => {
    const [qkv, cos, sin] = [arg(inputs, 0, 'qkv'), arg(inputs, 1, 'cos'), arg(inputs, 2, 'sin')];
    const { heads, kvHeads, scale, window } = attrs;
    const [B, S, W] = qkv.shape as [number, number, number];
    const D = W / (heads + 2 * kvHeads);
    const half = D / 2;
    const value = (b: number, s: number, head: number, d: number): number => at(qkv, (b * S + s) * W + head * D + d);
    const rotated = (b: number, s: number, head: number, d: number): number => {
      const place = s * half + (d % half);
      const other = d < half ? -value(b, s, head, d + half) : value(b, s, head, d - half);
      return value(b, s, head, d) * at(cos, place) + other * at(sin, place);
    };
    const headsOf = (make: typeof value, from: number): NdArray => {
      const out = nd([B, kvHeads, S, D]);
      forEachIndex(out.shape, (flat, [b = 0, h = 0, s = 0, d = 0]) => {
        out.data[flat] = make(b, s, from + h, d);
      });
      return out;
    };
    const [k, v] = [headsOf(rotated, heads), headsOf(value, heads + kvHeads)];
    const o = nd([B, S, heads * D]);
    const group = heads / kvHeads;
    for (let b = 0; b < B; b++)
      for (let h = 0; h < heads; h++)
        for (let s = 0; s < S; s++) {
          const row = (t: number): number => (((b * kvHeads + Math.floor(h / group)) * S + t) * D) | 0;
          const first = window === null ? 0 : Math.max(0, s - window + 1);
          const scores = Array.from({ length: s + 1 - first }, (_, i) => {
            let sum = 0;
            for (let d = 0; d < D; d++) sum += rotated(b, s, h, d) * at(k, row(first + i) + d);
            return sum * scale;
          });
          const most = Math.max(...scores);
          const weights = scores.map((score) => Math.exp(score - most));
          const total = weights.reduce((x, y) => x + y, 0);
          for (let d = 0; d < D; d++) {
            let sum = 0;
            weights.forEach((weight, i) => {
              sum += weight * at(v, row(first + i) + d);
            });
            o.data[(b * S + s) * heads * D + h * D + d] = sum / total;
          }
        }
    return [o, k, v];
  },
};
