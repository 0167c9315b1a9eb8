/**
 * Symbolic tensor dimensions: integer polynomials over named symbols (`B`, `S`, …), kept in canonical form so that
 * two dimensions are equal exactly when their keys are. A plain number is a static dimension.
 */

/** Polynomial with integer coefficients; `terms` maps a sorted monomial such as `B*S` ('' is the constant) to its coefficient. */
export interface SymbolicDim {
  readonly terms: ReadonlyMap<string, number>;
  readonly key: string;
}

export type Dim = number | SymbolicDim;
export type Shape = readonly Dim[];

function fromTerms(terms: Map<string, number>): Dim {
  for (const [m, c] of terms) if (c === 0) terms.delete(m);
  if (terms.size === 0) return 0;
  if (terms.size === 1 && terms.has('')) return terms.get('') ?? 0;
  const sorted = [...terms].sort(([a], [b]) => (a < b ? -1 : 1));
  const key = sorted.map(([m, c]) => (m === '' ? String(c) : c === 1 ? m : `${c}*${m}`)).join('+');
  return { terms: new Map(sorted), key };
}

function termsOf(dim: Dim): ReadonlyMap<string, number> {
  return typeof dim === 'number' ? new Map([['', dim]]) : dim.terms;
}

/** A named runtime dimension, for example the batch size `B`. Names are identifiers. */
export function symbol(name: string): SymbolicDim {
  if (!/^[A-Za-z_][A-Za-z0-9_]*$/.test(name)) throw new Error(`dimension name must be an identifier, got "${name}"`);
  return { terms: new Map([[name, 1]]), key: name };
}

export function addDims(a: Dim, b: Dim): Dim {
  if (typeof a === 'number' && typeof b === 'number') return a + b;
  const sum = new Map(termsOf(a));
  for (const [m, c] of termsOf(b)) sum.set(m, (sum.get(m) ?? 0) + c);
  return fromTerms(sum);
}

export function subDims(a: Dim, b: Dim): Dim {
  return addDims(a, mulDims(b, -1));
}

export function mulDims(a: Dim, b: Dim): Dim {
  if (typeof a === 'number' && typeof b === 'number') return a * b;
  const product = new Map<string, number>();
  for (const [ma, ca] of termsOf(a)) {
    for (const [mb, cb] of termsOf(b)) {
      const monomial = [...ma.split('*'), ...mb.split('*')]
        .filter((s) => s !== '')
        .sort()
        .join('*');
      product.set(monomial, (product.get(monomial) ?? 0) + ca * cb);
    }
  }
  return fromTerms(product);
}

export function productOf(dims: Shape): Dim {
  return dims.reduce<Dim>((acc, d) => mulDims(acc, d), 1);
}

export function sameDim(a: Dim, b: Dim): boolean {
  return dimKey(a) === dimKey(b);
}

export function sameShape(a: Shape, b: Shape): boolean {
  return a.length === b.length && a.every((d, i) => sameDim(d, b[i] ?? -1));
}

export function dimKey(dim: Dim): string {
  return typeof dim === 'number' ? String(dim) : dim.key;
}

export function showShape(shape: Shape): string {
  return `[${shape.map(dimKey).join(', ')}]`;
}

/** Value of a dimension once every symbol has a size. @throws if a symbol is unbound. */
export function evaluateDim(dim: Dim, sizes: ReadonlyMap<string, number>): number {
  if (typeof dim === 'number') return dim;
  let sum = 0;
  for (const [monomial, coefficient] of dim.terms) {
    let product = coefficient;
    for (const name of monomial.split('*').filter((s) => s !== '')) {
      const size = sizes.get(name);
      if (size === undefined)
        throw new Error(`dimension ${dim.key}: symbol "${name}" has no size; feed a tensor that has it`);
      product *= size;
    }
    sum += product;
  }
  return sum;
}

/** Symbols a dimension depends on. */
export function symbolsOf(dim: Dim): string[] {
  if (typeof dim === 'number') return [];
  return [...new Set([...dim.terms.keys()].flatMap((m) => m.split('*').filter((s) => s !== '')))];
}

/** NumPy broadcasting of two shapes. @throws with both shapes when a pair of axes is neither equal nor 1. */
export function broadcastShapes(a: Shape, b: Shape): Dim[] {
  const rank = Math.max(a.length, b.length);
  const out: Dim[] = [];
  for (let i = 0; i < rank; i++) {
    const da = a[a.length - rank + i] ?? 1;
    const db = b[b.length - rank + i] ?? 1;
    if (sameDim(da, db)) out.push(da);
    else if (da === 1) out.push(db);
    else if (db === 1) out.push(da);
    else
      throw new Error(
        `cannot broadcast ${showShape(a)} with ${showShape(b)}: axis ${i} is ${dimKey(da)} and ${dimKey(db)}`,
      );
  }
  return out;
}

/** Shape with some axes removed. */
export function withoutAxes(shape: Shape, axes: readonly number[]): Dim[] {
  return shape.filter((_, i) => !axes.includes(i));
}
