import { createHash } from 'node:crypto';
import { type FileHandle, open } from 'node:fs/promises';
import { readFacts } from '../../vision/header.ts';
import { ImageError } from '../../vision/image-error.ts';
import { DecodePool } from '../../vision/pool.ts';
import type { ImageRecipe } from '../../vision/recipes.ts';
import { u8, u16, u32, u64 } from './columns.ts';
import { DigestIndex } from './digest-index.ts';
import { type Oddity, oddities } from './oddities.ts';
import { signPicture, THUMB_BYTES } from './picture-signature.ts';

/** A picture that the data names and that cannot be had: nobody's file, or an address without a picture. */
export class UnavailablePicture extends Error {
  override readonly name = 'UnavailablePicture';
  constructor(
    /** Row of the table of errors, such as `image_file_not_found`. */
    readonly code: string,
    message: string,
  ) {
    super(message);
  }
}

/** What is wrong with a picture; `code` from the table of errors. */
export interface PictureFault {
  readonly code: string;
  readonly message: string;
}

export interface PictureLook {
  /** Number of the picture among those with different pixels, as the model sees them; null where it cannot be used. */
  readonly picture: number | null;
  readonly fault: PictureFault | null;
  /** What is odd about it; told once, to whoever names it first. */
  readonly odd: readonly Oddity[];
}

/** The largest thumbnail range, grey levels, that counts as one colour: JPEG noise stays below it. */
const UNIFORM_RANGE = 4;

/**
 * Every picture of the data, really decoded, once: by the processes that a hostile one may kill. Of each only its size, its hash and the number of its
 * pixels' digest stay in memory; thumbnails lie on disk.
 */
export class PictureCheck {
  private readonly pool: DecodePool;
  /** By reference, then by the file's bytes. */
  private readonly references = new DigestIndex();
  private readonly ofReference = u32();
  private readonly files = new DigestIndex();
  private readonly ofFile = u32();
  private readonly pixels = new DigestIndex();
  private readonly widths = u16();
  private readonly heights = u16();
  private readonly hashes = u64();
  private readonly uniform = u8();
  /** By number of the outcome: those of faults are few, and named here. */
  private readonly faults: PictureFault[] = [];
  private readonly faultNumbers = new Map<string, number>();
  private readonly busy = new Map<string, Promise<PictureLook>>();

  private constructor(
    private readonly recipe: ImageRecipe,
    private readonly thumbs: FileHandle,
    options: { readonly processes: number; readonly timeoutMs?: number },
  ) {
    this.pool = new DecodePool(options);
  }

  /** @param path of the file of thumbnails */
  static async create(
    recipe: ImageRecipe,
    path: string,
    options: { readonly processes?: number; readonly timeoutMs?: number } = {},
  ): Promise<PictureCheck> {
    return new PictureCheck(recipe, await open(path, 'w+'), { processes: 2, ...options });
  }

  /** Pictures with different pixels. */
  get unique(): number {
    return this.pixels.size;
  }

  /** Resident memory of the decoders now, bytes. */
  decoderBytes(): number {
    return this.pool.residentBytes();
  }

  /**
   * What becomes of a picture.
   * @param reference `sha256:…`, `file-…` or an address; equal references are the same picture
   * @throws whatever `read` throws that is no UnavailablePicture
   */
  async look(reference: string, read: (reference: string) => Promise<Uint8Array>): Promise<PictureLook> {
    const key = createHash('sha256').update(reference).digest('hex');
    const known = this.references.get(key);
    if (known !== undefined) return this.outcome(this.ofReference.get(known));
    let work = this.busy.get(key);
    if (work !== undefined) return { ...(await work), odd: [] };
    work = this.open(key, reference, read).finally(() => this.busy.delete(key));
    this.busy.set(key, work);
    return await work;
  }

  /** What the model sees of a picture, pixels. */
  sizeOf(picture: number): { width: number; height: number } {
    return { width: this.widths.get(picture), height: this.heights.get(picture) };
  }

  hashOf(picture: number): bigint {
    return this.hashes.get(picture);
  }

  /** One colour: it looks like every other such picture, so likeness says nothing. */
  isUniform(picture: number): boolean {
    return this.uniform.get(picture) === 1;
  }

  async thumbOf(picture: number): Promise<Uint8Array> {
    const thumb = Buffer.alloc(THUMB_BYTES);
    await this.thumbs.read(thumb, 0, THUMB_BYTES, picture * THUMB_BYTES);
    return thumb;
  }

  async close(): Promise<void> {
    await this.pool.close();
    await this.thumbs.close();
  }

  private outcome(code: number): PictureLook {
    if (code % 2 === 0) return { picture: code / 2, fault: null, odd: [] };
    return { picture: null, fault: this.faults[(code - 1) / 2] ?? null, odd: [] };
  }

  private async open(
    key: string,
    reference: string,
    read: (reference: string) => Promise<Uint8Array>,
  ): Promise<PictureLook> {
    let look: PictureLook;
    try {
      look = await this.decode(await read(reference));
    } catch (error) {
      if (error instanceof UnavailablePicture) look = this.refuse({ code: error.code, message: error.message });
      else throw error;
    }
    this.references.add(key);
    this.ofReference.push(this.codeOf(look));
    return look;
  }

  /** An outcome as a number: even for a picture, odd for a fault. */
  private codeOf({ picture, fault }: PictureLook): number {
    if (picture !== null) return 2 * picture;
    return 2 * (this.faultNumbers.get(`${fault?.code} ${fault?.message}`) ?? 0) + 1;
  }

  private refuse(fault: PictureFault): PictureLook {
    // The same fault in the same words is kept once, however many pictures have it.
    const key = `${fault.code} ${fault.message}`;
    if (!this.faultNumbers.has(key)) this.faultNumbers.set(key, this.faults.push(fault) - 1);
    return { picture: null, fault, odd: [] };
  }

  private async decode(file: Uint8Array): Promise<PictureLook> {
    const digest = createHash('sha256').update(file).digest('hex');
    const known = this.files.get(digest);
    if (known !== undefined) return this.outcome(this.ofFile.get(known));
    let look: PictureLook;
    try {
      look = await this.sign(file);
    } catch (error) {
      if (!(error instanceof ImageError)) throw error;
      look = this.refuse({ code: error.code, message: error.message });
    }
    const again = this.files.get(digest);
    if (again !== undefined) return this.outcome(this.ofFile.get(again));
    this.files.add(digest);
    this.ofFile.push(this.codeOf(look));
    return look;
  }

  private async sign(file: Uint8Array): Promise<PictureLook> {
    const image = await this.pool.preprocess(file, this.recipe);
    const facts = readFacts(file);
    const odd = facts === null ? [] : oddities(file, facts, image);
    const signature = signPicture(image, this.recipe);
    const isUniform = signature.range <= UNIFORM_RANGE;
    if (isUniform) odd.push({ code: 'image_uniform', message: 'expected a picture, received one colour all over' });
    const { number, isNew } = this.pixels.add(image.digest);
    if (!isNew) return { picture: number, fault: null, odd };
    this.widths.push(image.width);
    this.heights.push(image.height);
    this.hashes.push(signature.hash);
    this.uniform.push(isUniform ? 1 : 0);
    await this.thumbs.write(signature.thumb_CHW, 0, THUMB_BYTES, number * THUMB_BYTES);
    return { picture: number, fault: null, odd };
  }
}
