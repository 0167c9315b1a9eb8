import { addDims, type Dim, dimKey, productOf, type Shape, sameDim, sameShape, showShape, subDims } from '../dim.ts';
import type { Value } from '../graph.ts';
import { at, broadcastIndex, forEachIndex, nd, stridesOf } from '../nd.ts';
import { arg, expectDtype, expectSame, one, unbroadcast, withAxis } from './infer.ts';
import type { OpRow } from './row.ts';

/** Ops that move elements: no arithmetic. */

export const reshape: OpRow<'reshape'> = {
  infer: (inputs, attrs) => {
    const x = arg(inputs, 0, 'x');
    if (!sameDim(productOf(x.shape), productOf(attrs.shape))) {
      throw new Error(
        `cannot reshape ${showShape(x.shape)} to ${showShape(attrs.shape)}: ${dimKey(productOf(x.shape))} and ${dimKey(productOf(attrs.shape))} elements`,
      );
    }
    return [{ dtype: x.dtype, shape: attrs.shape }];
  },
  grad: (c) => [one(c.graph.emit('reshape', [c.g], { shape: arg(c.inputs, 0, 'x').shape }))],
  lower: (ctx, node) => [ctx.emit('Reshape', [ctx.name(arg(node.inputs, 0, 'x')), ctx.shape(node.attrs.shape, true)])],
  reference: (inputs, attrs, resolve) => [nd(attrs.shape.map(resolve), arg(inputs, 0, 'x').data)],
};

export const transpose: OpRow<'transpose'> = {
  infer: (inputs, { perm }) => {
    const x = arg(inputs, 0, 'x');
    if (perm.length !== x.shape.length || [...perm].sort((a, b) => a - b).some((p, i) => p !== i)) {
      throw new Error(`perm [${perm}] is not a permutation of the ${x.shape.length} axes`);
    }
    return [{ dtype: x.dtype, shape: perm.map((p) => arg(x.shape, p, 'axis')) }];
  },
  grad: (c) => {
    const inverse = new Array<number>(c.attrs.perm.length).fill(0);
    c.attrs.perm.forEach((p, i) => {
      inverse[p] = i;
    });
    return [one(c.graph.emit('transpose', [c.g], { perm: inverse }))];
  },
  lower: (ctx, node) => [
    ctx.emit('Transpose', [ctx.name(arg(node.inputs, 0, 'x'))], { perm: { ints: node.attrs.perm } }),
  ],
  reference: (inputs, { perm }) => {
    const x = arg(inputs, 0, 'x');
    const out = nd(perm.map((p) => arg(x.shape, p, 'axis')));
    const strides = stridesOf(x.shape);
    forEachIndex(out.shape, (flat, coords) => {
      let source = 0;
      perm.forEach((p, i) => {
        source += (coords[i] ?? 0) * (strides[p] ?? 0);
      });
      out.data[flat] = at(x, source);
    });
    return [out];
  },
};

export const concat: OpRow<'concat'> = {
  infer: (inputs, { axis }) => {
    const first = arg(inputs, 0, 'x0');
    let size = arg(first.shape, axis, 'axis');
    for (const t of inputs.slice(1)) {
      if (t.dtype !== first.dtype || !sameShape(withAxis(t.shape, axis, 1), withAxis(first.shape, axis, 1))) {
        throw new Error(`cannot concatenate ${showShape(first.shape)} and ${showShape(t.shape)} along axis ${axis}`);
      }
      size = addDims(size, arg(t.shape, axis, 'axis'));
    }
    return [{ dtype: first.dtype, shape: withAxis(first.shape, axis, size) }];
  },
  grad: (c) => {
    let start: Shape[number] = 0;
    return c.inputs.map((x, i) => {
      const from = start;
      start = addDims(start, arg(x.shape, c.attrs.axis, 'axis'));
      return c.wants[i]
        ? one(c.graph.emit('slice', [c.g], { axis: c.attrs.axis, start: from, end: start }))
        : undefined;
    });
  },
  lower: (ctx, node) => [
    ctx.emit(
      'Concat',
      node.inputs.map((v) => ctx.name(v)),
      { axis: { int: node.attrs.axis } },
    ),
  ],
  reference: (inputs, { axis }) => {
    const first = arg(inputs, 0, 'x0');
    const total = inputs.reduce((n, a) => n + arg(a.shape, axis, 'axis'), 0);
    const out = nd(withAxis(first.shape, axis, total) as number[]);
    const strides = stridesOf(out.shape);
    let offset = 0;
    for (const a of inputs) {
      forEachIndex(a.shape, (flat, coords) => {
        let target = offset * (strides[axis] ?? 0);
        coords.forEach((x, i) => {
          target += x * (strides[i] ?? 0);
        });
        out.data[target] = at(a, flat);
      });
      offset += arg(a.shape, axis, 'axis');
    }
    return [out];
  },
};

export const slice: OpRow<'slice'> = {
  infer: (inputs, { axis, start, end }) => {
    const x = arg(inputs, 0, 'x');
    arg(x.shape, axis, 'axis');
    return [{ dtype: x.dtype, shape: withAxis(x.shape, axis, subDims(end, start)) }];
  },
  grad: (c) => {
    const { axis, start, end } = c.attrs;
    const size = arg(arg(c.inputs, 0, 'x').shape, axis, 'axis');
    return [one(c.graph.emit('pad', [c.g], { axis, before: start, after: subDims(size, end) }))];
  },
  lower: (ctx, node) => {
    const { axis, start, end } = node.attrs;
    return [ctx.emit('Slice', [ctx.name(arg(node.inputs, 0, 'x')), ctx.dim(start), ctx.dim(end), ctx.ints([axis])])];
  },
  reference: (inputs, attrs, resolve) => {
    const x = arg(inputs, 0, 'x');
    const start = resolve(attrs.start);
    const out = nd(withAxis(x.shape, attrs.axis, resolve(attrs.end) - start) as number[]);
    const strides = stridesOf(x.shape);
    forEachIndex(out.shape, (flat, coords) => {
      let source = start * (strides[attrs.axis] ?? 0);
      coords.forEach((v, i) => {
        source += v * (strides[i] ?? 0);
      });
      out.data[flat] = at(x, source);
    });
    return [out];
  },
};

export const split: OpRow<'split'> = {
  infer: (inputs, { axis, sizes }) => {
    const x = arg(inputs, 0, 'x');
    expectSame(sizes.reduce<Dim>(addDims, 0), x.shape[axis], 'sum of the sizes and axis');
    return sizes.map((size) => ({ dtype: x.dtype, shape: withAxis(x.shape, axis, size) }));
  },
  grad: 'none',
  lower: (ctx, node) => {
    const { axis, sizes } = node.attrs;
    return ctx.emitMany('Split', [ctx.name(arg(node.inputs, 0, 'x')), ctx.shape(sizes)], sizes.length, {
      axis: { int: axis },
    });
  },
  reference: (inputs, { axis, sizes }, resolve) => {
    let start = 0;
    return sizes.map((size) => {
      const end = start + resolve(size);
      const [part] = slice.reference(inputs, { axis, start, end }, resolve);
      start = end;
      return arg([part], 0, 'part') as NonNullable<typeof part>;
    });
  },
};

export const pad: OpRow<'pad'> = {
  infer: (inputs, { axis, before, after }) => {
    const x = arg(inputs, 0, 'x');
    return [
      { dtype: x.dtype, shape: withAxis(x.shape, axis, addDims(addDims(before, arg(x.shape, axis, 'axis')), after)) },
    ];
  },
  grad: (c) => {
    const { axis, before } = c.attrs;
    const size = arg(arg(c.inputs, 0, 'x').shape, axis, 'axis');
    return [one(c.graph.emit('slice', [c.g], { axis, start: before, end: addDims(before, size) }))];
  },
  lower: (ctx, node) => {
    const { axis, before, after } = node.attrs;
    const pads = ctx.emit('Concat', [ctx.dim(before), ctx.dim(after)], { axis: { int: 0 } });
    return [ctx.emit('Pad', [ctx.name(arg(node.inputs, 0, 'x')), pads, '', ctx.ints([axis])], { mode: 'constant' })];
  },
  reference: (inputs, attrs, resolve) => {
    const x = arg(inputs, 0, 'x');
    const before = resolve(attrs.before);
    const out = nd(
      withAxis(x.shape, attrs.axis, before + arg(x.shape, attrs.axis, 'axis') + resolve(attrs.after)) as number[],
    );
    const strides = stridesOf(out.shape);
    forEachIndex(x.shape, (flat, coords) => {
      let target = before * (strides[attrs.axis] ?? 0);
      coords.forEach((v, i) => {
        target += v * (strides[i] ?? 0);
      });
      out.data[target] = at(x, flat);
    });
    return [out];
  },
};

export const expand: OpRow<'expand'> = {
  infer: (inputs, { shape }) => {
    const x = arg(inputs, 0, 'x');
    const offset = shape.length - x.shape.length;
    x.shape.forEach((d, i) => {
      if (d !== 1 && !sameDim(d, shape[offset + i] ?? -1))
        throw new Error(`cannot expand ${showShape(x.shape)} to ${showShape(shape)}`);
    });
    return [{ dtype: x.dtype, shape }];
  },
  grad: (c) => [unbroadcast(c.graph, c.g, arg(c.inputs, 0, 'x').shape)],
  lower: (ctx, node) => [ctx.emit('Expand', [ctx.name(arg(node.inputs, 0, 'x')), ctx.shape(node.attrs.shape)])],
  reference: (inputs, attrs, resolve) => {
    const x = arg(inputs, 0, 'x');
    const out = nd(attrs.shape.map(resolve));
    const strides = stridesOf(x.shape);
    forEachIndex(out.shape, (flat, coords) => {
      out.data[flat] = at(x, broadcastIndex(x.shape, strides, coords));
    });
    return [out];
  },
};

export const fill: OpRow<'fill'> = {
  infer: (_inputs, { shape }) => [{ dtype: 'f32', shape }],
  grad: 'none',
  lower: (ctx, node) => [ctx.emit('Expand', [ctx.scalar(node.attrs.value), ctx.shape(node.attrs.shape)])],
  reference: (_inputs, attrs, resolve) => {
    const out = nd(attrs.shape.map(resolve));
    out.data.fill(attrs.value);
    return [out];
  },
};

/** Row lookup: data [R, …], indices [N…] → [N…, …]. Its gradient scatters rows into zeros. */
export const gather: OpRow<'gather'> = {
  infer: (inputs) => {
    const data = arg(inputs, 0, 'data');
    const indices = arg(inputs, 1, 'indices');
    expectDtype(indices, 'i64', 'indices');
    return [{ dtype: data.dtype, shape: [...indices.shape, ...data.shape.slice(1)] }];
  },
  grad: (c) => {
    const data = arg(c.inputs, 0, 'data');
    const indices = arg(c.inputs, 1, 'indices');
    const count = productOf(indices.shape);
    const zeros = one(c.graph.emit('fill', [], { shape: data.shape, value: 0 }));
    const flat = (v: Value, shape: Shape) =>
      sameShape(v.shape, shape) ? v : one(c.graph.emit('reshape', [v], { shape }));
    return [
      one(
        c.graph.emit('scatterRows', [zeros, flat(indices, [count]), flat(c.g, [count, ...data.shape.slice(1)])], {
          mode: 'add',
        }),
      ),
      undefined,
    ];
  },
  lower: (ctx, node) => [
    ctx.emit(
      'Gather',
      node.inputs.map((v) => ctx.name(v)),
      { axis: { int: 0 } },
    ),
  ],
  reference: (inputs) => {
    const [data, indices] = [arg(inputs, 0, 'data'), arg(inputs, 1, 'indices')];
    const row = data.shape.slice(1).reduce((a, b) => a * b, 1);
    const out = nd([...indices.shape, ...data.shape.slice(1)]);
    indices.data.forEach((r, i) => {
      out.data.set(data.data.subarray(r * row, (r + 1) * row), i * row);
    });
    return [out];
  },
};

/** Writes or adds rows: ONNX ScatterND. In `set` mode indices must be distinct. */
export const scatterRows: OpRow<'scatterRows'> = {
  infer: (inputs) => {
    const [data, indices, updates] = [arg(inputs, 0, 'data'), arg(inputs, 1, 'indices'), arg(inputs, 2, 'updates')];
    expectDtype(indices, 'i64', 'indices');
    const want = [...indices.shape, ...data.shape.slice(1)];
    if (indices.shape.length !== 1 || !sameShape(updates.shape, want)) {
      throw new Error(
        `updates must be ${showShape(want)} for ${showShape(indices.shape)} indices, got ${showShape(updates.shape)}`,
      );
    }
    return [{ dtype: data.dtype, shape: data.shape }];
  },
  grad: (c) => {
    const [indices, updates] = [arg(c.inputs, 1, 'indices'), arg(c.inputs, 2, 'updates')];
    const toData = (): Value => {
      if (c.attrs.mode === 'add') return c.g;
      const zeros = one(c.graph.emit('fill', [], { shape: updates.shape, value: 0 }));
      return one(c.graph.emit('scatterRows', [c.g, indices, zeros], { mode: 'set' }));
    };
    return [
      c.wants[0] ? toData() : undefined,
      undefined,
      c.wants[2] ? one(c.graph.emit('gather', [c.g, indices], {})) : undefined,
    ];
  },
  lower: (ctx, node) => {
    const [data, indices, updates] = node.inputs.map((v) => ctx.name(v));
    const column = ctx.emit('Unsqueeze', [indices ?? '', ctx.ints([1])]);
    return [
      ctx.emit('ScatterND', [data ?? '', column, updates ?? ''], {
        reduction: node.attrs.mode === 'add' ? 'add' : 'none',
      }),
    ];
  },
  reference: (inputs, { mode }) => {
    const [data, indices, updates] = [arg(inputs, 0, 'data'), arg(inputs, 1, 'indices'), arg(inputs, 2, 'updates')];
    const row = data.shape.slice(1).reduce((a, b) => a * b, 1);
    const out = nd(data.shape, data.data.slice());
    indices.data.forEach((r, i) => {
      for (let j = 0; j < row; j++) {
        const before = mode === 'add' ? at(out, r * row + j) : 0;
        out.data[r * row + j] = before + at(updates, i * row + j);
      }
    });
    return [out];
  },
};
