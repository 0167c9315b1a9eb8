type Columnar = Uint8Array | Uint16Array | Uint32Array | BigUint64Array;

/** A typed array that grows at its end: what is known of a million examples or pictures, a few bytes each. */
export class Column<A extends Columnar> {
  private values: A;
  private used = 0;

  /** @param make an array of that many zeros */
  constructor(private readonly make: (length: number) => A) {
    this.values = make(256);
  }

  get length(): number {
    return this.used;
  }

  push(value: A[number]): void {
    this.reserve(1);
    this.values[this.used++] = value;
  }

  get(i: number): A[number] {
    const value = this.values[i];
    if (value === undefined || i >= this.used) throw new RangeError(`entry ${i} of ${this.used}`);
    return value;
  }

  set(i: number, value: A[number]): void {
    if (i >= this.used) throw new RangeError(`entry ${i} of ${this.used}`);
    this.values[i] = value;
  }

  private reserve(more: number): void {
    if (this.used + more <= this.values.length) return;
    const larger = this.make(Math.max(this.values.length * 2, this.used + more));
    (larger as Uint8Array).set(this.values as Uint8Array);
    this.values = larger;
  }
}

export const u8 = (): Column<Uint8Array> => new Column((n) => new Uint8Array(n));
export const u16 = (): Column<Uint16Array> => new Column((n) => new Uint16Array(n));
export const u32 = (): Column<Uint32Array> => new Column((n) => new Uint32Array(n));
export const u64 = (): Column<BigUint64Array> => new Column((n) => new BigUint64Array(n));
