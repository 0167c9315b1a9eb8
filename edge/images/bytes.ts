/** A header ended or contradicted itself; the message says where. */
export class ProbeError extends Error {
  override readonly name = 'ProbeError';
}

/** Bounds-checked reads over a picture's bytes: nothing in a hostile header can reach past the end. */
export class Bytes {
  readonly #view: DataView;

  constructor(readonly data: Uint8Array) {
    this.#view = new DataView(data.buffer, data.byteOffset, data.byteLength);
  }

  get length(): number {
    return this.data.byteLength;
  }

  u8(at: number): number {
    this.#need(at, 1);
    return this.#view.getUint8(at);
  }

  u16(at: number, littleEndian = false): number {
    this.#need(at, 2);
    return this.#view.getUint16(at, littleEndian);
  }

  u24le(at: number): number {
    return this.u16(at, true) | (this.u8(at + 2) << 16);
  }

  u32(at: number, littleEndian = false): number {
    this.#need(at, 4);
    return this.#view.getUint32(at, littleEndian);
  }

  /** `length` bytes as Latin-1. */
  ascii(at: number, length: number): string {
    this.#need(at, length);
    return String.fromCharCode(...this.data.subarray(at, at + length));
  }

  #need(at: number, count: number): void {
    if (at < 0 || at + count > this.length)
      throw new ProbeError(`ends at byte ${this.length}, needs byte ${at + count}`);
  }
}
