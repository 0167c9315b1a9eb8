/** A picture at hand: its bytes and their SHA-256, lower-case hex, with what a data URL declared. */
export type RememberedImage = { bytes: Uint8Array; declared: string | null; sha256: string; isRemote: boolean };

/**
 * Pictures that many requests of one origin name (the lines of a batch): read, decoded and hashed once. Bounded by the bytes of pictures and of the
 * references themselves, which data URLs make long; what was not asked for longest goes first.
 */
export class ImageMemory {
  readonly #maxBytes: number;
  readonly #images = new Map<string, RememberedImage>();
  #bytes = 0;

  constructor(maxBytes: number) {
    this.#maxBytes = maxBytes;
  }

  get(url: string): RememberedImage | undefined {
    const found = this.#images.get(url);
    if (found === undefined) return undefined;
    this.#images.delete(url);
    this.#images.set(url, found);
    return found;
  }

  set(url: string, image: RememberedImage): void {
    const bytes = sizeOf(url, image);
    if (this.#images.has(url) || bytes > this.#maxBytes / 2) return;
    this.#images.set(url, image);
    this.#bytes += bytes;
    for (const [oldest, one] of this.#images) {
      if (this.#bytes <= this.#maxBytes) return;
      this.#images.delete(oldest);
      this.#bytes -= sizeOf(oldest, one);
    }
  }
}

function sizeOf(url: string, { bytes }: RememberedImage): number {
  return url.length + bytes.byteLength;
}
