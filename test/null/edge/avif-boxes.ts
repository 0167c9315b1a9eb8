/** AVIF files put together box by box around one real AV1 picture of 64x48 pixels, for what encoders at hand do not write. */
import { avif } from './pictures.ts';

export type AvifItem = {
  type?: 'av01' | 'grid' | 'iovl' | 'Exif';
  /** A part of others. */
  hidden?: boolean;
  /** What `ispe` says; null leaves it out. Default 64x48. */
  size?: readonly [width: number, height: number] | null;
  /** Further properties: type and content. */
  properties?: readonly (readonly [type: string, content: readonly number[]])[];
};

export type AvifFile = {
  /** Ids are 1, 2, … in this order. */
  items: readonly AvifItem[];
  /** Default 1. */
  primary?: number;
  /** Type, from, to: `auxl`, `thmb`, `dimg`. */
  references?: readonly (readonly [type: string, from: number, to: readonly number[]])[];
  /** Pictures stand in the meta box's own data instead of behind it. */
  inMeta?: boolean;
};

const ascii = (text: string) => [...text].map((char) => char.charCodeAt(0));
const be = (value: number, bytes: number) =>
  Array.from({ length: bytes }, (_, i) => Math.floor(value / 2 ** (8 * (bytes - 1 - i))) & 0xff);
const box = (type: string, ...content: readonly (readonly number[])[]): number[] => {
  const flat = content.flat();
  return [...be(flat.length + 8, 4), ...ascii(type), ...flat];
};
const full = (type: string, version: number, flags: number, ...content: readonly (readonly number[])[]) =>
  box(type, [version, ...be(flags, 3)], ...content);

/** The AV1 data of the picture: what stands in its `mdat`. */
function picture(): number[] {
  const bytes = Buffer.from(avif('plain'));
  return [...bytes.subarray(bytes.indexOf('mdat') + 4)];
}

export function avifFile({ items, primary = 1, references = [], inMeta = false }: AvifFile): Uint8Array {
  const data = picture();
  const properties: number[][] = [box('av1C', [0x81, 0x20, 0x02, 0x00])];
  const associations = items.map(({ type = 'av01', size = [64, 48], properties: more = [] }, i) => {
    const own: number[] = type === 'av01' ? [1] : [];
    const add = (property: number[]) => own.push(properties.push(property));
    if (size !== null) add(full('ispe', 0, 0, be(size[0], 4), be(size[1], 4)));
    for (const [name, content] of more) add(box(name, content));
    return [...be(i + 1, 2), own.length, ...own];
  });
  const infos = items.map(({ type = 'av01', hidden = false }, i) =>
    full('infe', 2, hidden ? 1 : 0, be(i + 1, 2), be(0, 2), ascii(type), [0]),
  );
  const meta = (offset: number) =>
    full(
      'meta',
      0,
      0,
      full('hdlr', 0, 0, be(0, 4), ascii('pict'), be(0, 13)),
      full('pitm', 0, 0, be(primary, 2)),
      full('iloc', 1, 0, [0x44, 0x00], be(items.length, 2), ...items.map((_, i) => location(i + 1, offset))),
      full('iinf', 0, 0, be(items.length, 2), ...infos),
      references.length === 0
        ? []
        : full(
            'iref',
            0,
            0,
            ...references.map(([type, from, to]) =>
              box(type, be(from, 2), be(to.length, 2), ...to.map((id) => be(id, 2))),
            ),
          ),
      box('iprp', box('ipco', ...properties), full('ipma', 0, 0, be(items.length, 4), ...associations)),
      inMeta ? box('idat', data) : [],
    );
  const location = (id: number, offset: number) => [
    ...be(id, 2),
    ...be(inMeta ? 1 : 0, 2),
    ...be(0, 2),
    ...be(1, 2),
    ...be(inMeta ? 0 : offset, 4),
    ...be(data.length, 4),
  ];
  const head = box('ftyp', ascii('avif'), be(0, 4), ascii('avifmif1miaf'));
  const length = head.length + meta(0).length;
  return new Uint8Array([...head, ...meta(length + 8), ...(inMeta ? [] : box('mdat', data))]);
}
