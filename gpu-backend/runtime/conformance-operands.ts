import { evaluateDim } from '../graph/dim.ts';
import { type NdArray, nd } from '../graph/nd.ts';
import { type OperandSpec, SIZES } from './conformance-cases.ts';

/** mulberry32: a small seeded generator, enough for test data. */
export function randomSource(seed: number): () => number {
  let a = seed >>> 0;
  return () => {
    a = (a + 0x6d2b79f5) >>> 0;
    let t = a;
    t = Math.imul(t ^ (t >>> 15), t | 1);
    t ^= t + Math.imul(t ^ (t >>> 7), t | 61);
    return ((t ^ (t >>> 14)) >>> 0) / 4294967296;
  };
}

/** Random operand; real values are multiples of 2^-10 in (-2, 2), exact in f32. */
export function randomOperand(spec: OperandSpec, random: () => number): NdArray {
  const x = nd(spec.shape.map((d) => evaluateDim(d, SIZES)));
  const kind = spec.values ?? 'real';
  if (typeof kind === 'object' && kind.distinct === true) {
    const pool = Array.from({ length: kind.below }, (_, i) => i);
    for (let i = 0; i < x.data.length; i++) x.data[i] = pool.splice(Math.floor(random() * pool.length), 1)[0] ?? 0;
    return x;
  }
  for (let i = 0; i < x.data.length; i++) {
    if (typeof kind === 'object') {
      const { from = 0, below } = kind;
      x.data[i] = from + Math.floor(random() * (below - from));
    } else if (kind === 'positive') x.data[i] = Math.round((0.25 + 2 * random()) * 1024) / 1024;
    else x.data[i] = Math.round((4 * random() - 2) * 1024) / 1024 + 1 / 2048;
  }
  return x;
}
