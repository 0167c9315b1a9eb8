import { type Dim, dimKey, mulDims, showShape } from '../dim.ts';
import type { TensorType } from '../graph.ts';
import type { LowerContext } from '../lowering.ts';
import { at, forEachIndex, type NdArray, nd } from '../nd.ts';
import type { OpAttrs } from './attrs.ts';
import { arg, expectDtype, expectRank } from './infer.ts';
import type { OpRow } from './row.ts';

/* Attention of whole prompts, from the joined projections to the joined heads. */

type Attrs = OpAttrs['groupQueryAttention'];

/** A score of a pair that must not attend. */
const MASKED = -1e9;
const INT32 = 6;
/** Blocks of queries where there is no kernel for the whole. More copy keys more often than they save scores. */
const BLOCKS = 8;

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

/** A block of queries in a lowered model: int64 vectors of one number. */
interface Block {
  readonly start: string;
  readonly end: string;
  /** [G rows, end]: 0, or MASKED where a query must not see a key. */
  readonly mask: string;
}

/** BLOCKS blocks of queries of one length, the last somewhat longer; the same for all layers. Short rows leave some without any. */
function lowerBlocks(ctx: LowerContext, length: Dim, group: number, window: number | null): Block[] {
  const once = (what: string, make: () => string): string => ctx.once(`${what} of ${dimKey(length)}`, make);
  const size = once('block', () => ctx.emit('Div', [ctx.dim(length), ctx.ints([BLOCKS])]));
  const edge = (i: number): string =>
    i === 0
      ? ctx.ints([0])
      : i === BLOCKS
        ? ctx.dim(length)
        : once(`edge ${i}`, () => ctx.emit('Mul', [size, ctx.ints([i])]));
  return Array.from({ length: BLOCKS }, (_, i) => {
    const [start, end] = [edge(i), edge(i + 1)];
    const mask = once(`mask ${i} ${group} ${window}`, () => {
      const shape = ctx.emit('Concat', [ctx.emit('Sub', [end, start]), end], { axis: { int: 0 } });
      const all = ctx.emit('Expand', [ctx.scalar(MASKED), shape]);
      // What lies from `from` columns behind the diagonal of the first key on (upper), or before it.
      const triangle = (from: number, upper: 0 | 1): string => {
        const k = ctx.emit('Squeeze', [ctx.emit('Add', [start, ctx.ints([from])])]);
        return ctx.emit('Trilu', [all, k], { upper: { int: upper } });
      };
      const later = triangle(1, 1);
      const seen = window === null ? later : ctx.emit('Add', [later, triangle(-window, 0)]);
      return ctx.emit('Concat', new Array<string>(group).fill(seen), { axis: { int: 0 } });
    });
    return { start, end, mask };
  });
}

/** Keys and queries rotated: x [B, heads, S, D]. */
function lowerRotation(ctx: LowerContext, x: string, cos: string, sin: string, length: Dim, half: number): string {
  // One position [1] is that of the first token of every row.
  if (ctx.capabilities.rotaryEmbedding) return ctx.emitContrib('RotaryEmbedding', [x, ctx.ints([0]), cos, sin]);
  const [c, s] = [cos, sin].map((table) =>
    ctx.once(`${table} of ${dimKey(length)}`, () =>
      ctx.emit('Slice', [table, ctx.ints([0]), ctx.dim(length), ctx.ints([0])]),
    ),
  ) as [string, string];
  const [a = '', b = ''] = ctx.emitMany('Split', [x, ctx.ints([half, half])], 2, { axis: { int: 3 } });
  const times = (y: string, table: string): string => ctx.emit('Mul', [y, table]);
  const first = ctx.emit('Sub', [times(a, c), times(b, s)]);
  const second = ctx.emit('Add', [times(b, c), times(a, s)]);
  return ctx.emit('Concat', [first, second], { axis: { int: 3 } });
}

/** Blocks of queries over the keys up to their own: nearly half of the scores are never made, and what is made stays in the cache. */
function lowerInBlocks(
  ctx: LowerContext,
  [qkv, cos, sin]: readonly [string, string, string],
  type: TensorType,
  attrs: Attrs,
): string[] {
  const { heads, kvHeads, scale, window } = attrs;
  const [batch, length] = type.shape as [Dim, Dim];
  const D = headDimOf(type, attrs);
  const swapped = (x: string): string => ctx.emit('Transpose', [x], { perm: { ints: [0, 2, 1, 3] } });
  const byHead = swapped(ctx.emit('Reshape', [qkv, ctx.ints([0, 0, heads + 2 * kvHeads, D])]));
  const parted = (x: string, sizes: readonly number[]): string[] =>
    ctx.emitMany('Split', [x, ctx.ints(sizes)], sizes.length, { axis: { int: 1 } });
  const [turning = '', v = ''] = parted(byHead, [heads + kvHeads, kvHeads]);
  const [q = '', k = ''] = parted(lowerRotation(ctx, turning, cos, sin, length, D / 2), [heads, kvHeads]);
  const taken = (x: string, from: string, to: string): string => ctx.emit('Slice', [x, from, to, ctx.ints([2])]);
  const scored = (queries: string, keys: string): string => {
    if (ctx.capabilities.fusedMatMul)
      return ctx.emitContrib('FusedMatMul', [queries, keys], { transB: { int: 1 }, alpha: scale });
    const turned = ctx.emit('Transpose', [keys], { perm: { ints: [0, 1, 3, 2] } });
    return ctx.emit('Mul', [ctx.emit('MatMul', [queries, turned]), ctx.scalar(scale)]);
  };
  const outputs = lowerBlocks(ctx, length, heads / kvHeads, window).map(({ start, end, mask }, i) => {
    const seen = (x: string): string => (i === BLOCKS - 1 ? x : taken(x, ctx.ints([0]), end));
    const queries = ctx.emit('Reshape', [taken(q, start, end), ctx.ints([0, kvHeads, -1, D])]);
    const scores = ctx.emit('Add', [scored(queries, seen(k)), mask]);
    const o = ctx.emit('MatMul', [ctx.emit('Softmax', [scores], { axis: { int: -1 } }), seen(v)]);
    return ctx.emit('Reshape', [o, ctx.ints([0, heads, -1, D])]);
  });
  const o = swapped(ctx.emit('Concat', outputs, { axis: { int: 2 } }));
  return [ctx.emit('Reshape', [o, ctx.shape([batch, length, heads * D])]), k, v];
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
    if (!isFused) return lowerInBlocks(ctx, names, qkv, node.attrs);
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
