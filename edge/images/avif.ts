/**
 * Size and form of an AVIF picture from its boxes: ISO/IEC 14496-12 (boxes), 23008-12 (items and their properties), the AV1 Image File Format, and the
 * sequence header of AV1 section 5.5, which says how large the coded picture really is: what a decoder allocates must not depend on a lying `ispe`.
 */
import { readSequenceHeader } from './av1.ts';
import { type Bytes, ProbeError } from './bytes.ts';
import type { Header } from './probe.ts';

/** No sane still picture has more boxes, items or properties of one kind. */
const MAX_BOXES = 1_024;
/** Nor more pieces of data, or more properties, over all its items. */
const MAX_LINKS = 8_192;
/** Longest name of an auxiliary picture's kind that is looked at. */
const MAX_KIND_CHARS = 128;

type Box = { type: string; start: number; end: number };
type Property = { type: string; at: number; end: number };
/** `isHidden`: a part of others, such as a tile. */
type Item = { type: string; isHidden: boolean; properties: Property[]; extents: { at: number; length: number }[] };

/** @throws ProbeError where the boxes are broken or say what is not supported. Width and height are those of the upright picture. */
export function readAvif(bytes: Bytes): Header {
  const top = boxes(bytes, 0, bytes.length);
  const meta = top.find(({ type }) => type === 'meta');
  if (meta === undefined) throw new ProbeError('has no AVIF still picture (no meta box)');
  const inner = boxes(bytes, meta.start + 4, meta.end);
  const { items, primary } = readItems(bytes, inner);
  const item = items.get(primary);
  if (item === undefined) throw new ProbeError(`names item ${primary} as its AVIF picture and has no such item`);
  if (item.type !== 'av01' && item.type !== 'grid')
    throw new ProbeError(`has a primary item of type ${JSON.stringify(item.type)} instead of an AV1 picture`);
  // Decoders take the first one, which must then be the one that is measured here.
  if (firstPicture(bytes, inner, items) !== primary)
    throw new ProbeError('has several AVIF pictures, the first of which is not the main one');
  const coded = [...items.values()].filter(({ type }) => type === 'av01');
  const size = spatialExtent(bytes, item);
  checkCodedSizes(bytes, coded, size);

  let { width, height } = size;
  let hasAlpha = false;
  for (const { type, at } of item.properties) {
    if (type === 'clap') throw new ProbeError('has a clean aperture (clap), which is not supported');
    if (type === 'irot' && (bytes.u8(at) & 1) === 1) [width, height] = [height, width];
  }
  for (const { properties } of items.values()) {
    for (const { type, at, end } of properties)
      if (type === 'auxC' && /alpha/.test(text(bytes, at + 4, end))) hasAlpha = true;
  }
  const config = (item.type === 'av01' ? item : coded[0])?.properties.find(({ type }) => type === 'av1C');
  if (config === undefined) throw new ProbeError('has no AV1 configuration (av1C)');
  // av1C: seq_tier_0 | high_bitdepth | twelve_bit | monochrome | …
  const flags = bytes.u8(config.at + 2);
  const bitDepth = (flags & 0x40) === 0 ? 8 : (flags & 0x20) === 0 ? 10 : 12;
  return {
    width,
    height,
    frames: top.some(({ type }) => type === 'moov') ? 2 : 1,
    orientation: 1,
    bitDepth,
    channels: (flags & 0x10) === 0 ? 3 : 1,
    hasAlpha,
    hasProfile: item.properties.some(({ type, at }) => type === 'colr' && /^(prof|rICC)$/.test(bytes.ascii(at, 4))),
    progressive: false,
  };
}

/** Every coded picture must be what its container says it is, and all of them together not be much more than the picture that is shown. */
function checkCodedSizes(bytes: Bytes, coded: readonly Item[], shown: { width: number; height: number }): void {
  if (coded.length === 0) throw new ProbeError('has no AV1 picture');
  let pixels = 0;
  for (const item of coded) {
    const first = item.extents[0];
    if (first === undefined) throw new ProbeError('has an AV1 picture without data');
    if (first.at + first.length > bytes.length)
      throw new ProbeError(`is cut off: ${bytes.length} of ${first.at + first.length} bytes`);
    const real = readSequenceHeader(bytes.data.subarray(first.at, first.at + first.length));
    if (real === null) throw new ProbeError('has no AV1 sequence header');
    pixels += real.width * real.height;
    // An auxiliary picture may leave its size to the decoder.
    const { width, height } = hasProperty(item, 'ispe') ? spatialExtent(bytes, item) : real;
    if (real.width > width || real.height > height)
      throw new ProbeError(`says ${width}x${height} and codes ${real.width}x${real.height} pixels`);
  }
  // The picture, its alpha plane, a thumbnail, and the rims of tiles.
  const most = 4 * shown.width * shown.height + 1_048_576;
  if (pixels > most) throw new ProbeError(`codes ${pixels} pixels for a picture of ${shown.width}x${shown.height}`);
}

function hasProperty({ properties }: Item, wanted: string): boolean {
  return properties.some(({ type }) => type === wanted);
}

function spatialExtent(bytes: Bytes, item: Item): { width: number; height: number } {
  const ispe = item.properties.find(({ type }) => type === 'ispe');
  if (ispe === undefined) throw new ProbeError('has an AVIF item without a size (ispe)');
  return { width: bytes.u32(ispe.at + 4), height: bytes.u32(ispe.at + 8) };
}

function readItems(bytes: Bytes, meta: readonly Box[]): { items: Map<number, Item>; primary: number } {
  const one = (type: string): Box => {
    const box = meta.find((candidate) => candidate.type === type);
    if (box === undefined) throw new ProbeError(`has no AVIF ${type} box`);
    return box;
  };
  const pitm = one('pitm');
  const primary = bytes.u8(pitm.start) === 0 ? bytes.u16(pitm.start + 4) : bytes.u32(pitm.start + 4);
  const items = new Map<number, Item>();

  const iinf = one('iinf');
  const firstEntry = iinf.start + 4 + (bytes.u8(iinf.start) === 0 ? 2 : 4);
  for (const { type, start } of boxes(bytes, firstEntry, iinf.end)) {
    if (type !== 'infe') continue;
    const version = bytes.u8(start);
    if (version < 2) continue;
    const id = version === 2 ? bytes.u16(start + 4) : bytes.u32(start + 4);
    const typeAt = start + (version === 2 ? 8 : 10);
    const isHidden = (bytes.u8(start + 3) & 1) === 1;
    items.set(id, { type: bytes.ascii(typeAt, 4), isHidden, properties: [], extents: [] });
  }
  readLocations(
    bytes,
    one('iloc'),
    meta.find(({ type }) => type === 'idat'),
    items,
  );

  const iprp = one('iprp');
  const parts = boxes(bytes, iprp.start, iprp.end);
  const ipco = parts.find(({ type }) => type === 'ipco');
  if (ipco === undefined) throw new ProbeError('has no AVIF ipco box');
  const properties = boxes(bytes, ipco.start, ipco.end).map(
    ({ type, start, end }): Property => ({ type, at: start, end }),
  );
  const links = { left: MAX_LINKS };
  for (const ipma of parts.filter(({ type }) => type === 'ipma'))
    readAssociations(bytes, ipma, properties, items, links);
  return { items, primary };
}

/** ItemLocationBox: places in the file, or in the meta box's own data. A sequence header stands at the start of an item's first extent. */
function readLocations(bytes: Bytes, iloc: Box, idat: Box | undefined, items: Map<number, Item>): void {
  const version = bytes.u8(iloc.start);
  const sizes = bytes.u16(iloc.start + 4);
  const [offsetSize, lengthSize, baseSize] = [sizes >> 12, (sizes >> 8) & 15, (sizes >> 4) & 15];
  const indexSize = version === 0 ? 0 : sizes & 15;
  let at = iloc.start + 6;
  const count = version < 2 ? bytes.u16(at) : bytes.u32(at);
  at += version < 2 ? 2 : 4;
  if (count > MAX_BOXES) throw new ProbeError(`has ${count} AVIF items`);
  const number = (size: number): number => {
    const value =
      size === 0 ? 0 : size === 4 ? bytes.u32(at) : size === 8 ? bytes.u32(at) * 2 ** 32 + bytes.u32(at + 4) : -1;
    if (value < 0) throw new ProbeError('has an AVIF iloc box with odd sizes');
    at += size;
    return value;
  };
  let pieces = 0;
  for (let i = 0; i < count; i++) {
    const id = version < 2 ? bytes.u16(at) : bytes.u32(at);
    at += version < 2 ? 2 : 4;
    let method = 0;
    if (version > 0) {
      method = bytes.u16(at) & 15;
      at += 2;
    }
    at += 2; // data_reference_index
    const base = number(baseSize);
    const extents = bytes.u16(at);
    at += 2;
    pieces += extents;
    if (pieces > MAX_LINKS) throw new ProbeError(`has AVIF items in more than ${MAX_LINKS} pieces`);
    for (let e = 0; e < extents; e++) {
      number(indexSize);
      const offset = number(offsetSize);
      const length = number(lengthSize);
      if (method === 0) items.get(id)?.extents.push({ at: base + offset, length });
      else if (method === 1 && idat !== undefined)
        items.get(id)?.extents.push({ at: idat.start + base + offset, length });
      else if (items.get(id)?.type === 'av01') throw new ProbeError('keeps its AV1 picture in an unsupported place');
    }
  }
}

/** The lowest id of a picture that is shown: not hidden, no alpha plane, no thumbnail. Tiles are hidden where they are not meant to be shown. */
function firstPicture(bytes: Bytes, meta: readonly Box[], items: ReadonlyMap<number, Item>): number | undefined {
  const parts = new Set<number>();
  const iref = meta.find(({ type }) => type === 'iref');
  if (iref !== undefined) {
    const version = bytes.u8(iref.start);
    for (const { type, start } of boxes(bytes, iref.start + 4, iref.end))
      if (type === 'auxl' || type === 'thmb') parts.add(version === 0 ? bytes.u16(start) : bytes.u32(start));
  }
  const shown = [...items].filter(
    ([id, { type, isHidden }]) => (type === 'av01' || type === 'grid') && !isHidden && !parts.has(id),
  );
  return shown.map(([id]) => id).sort((a, b) => a - b)[0];
}

function readAssociations(
  bytes: Bytes,
  ipma: Box,
  properties: readonly Property[],
  items: Map<number, Item>,
  links: { left: number },
): void {
  const version = bytes.u8(ipma.start);
  const wide = (bytes.u8(ipma.start + 3) & 1) === 1;
  const count = bytes.u32(ipma.start + 4);
  if (count > MAX_BOXES) throw new ProbeError(`has properties of ${count} AVIF items`);
  let at = ipma.start + 8;
  for (let i = 0; i < count; i++) {
    const id = version < 1 ? bytes.u16(at) : bytes.u32(at);
    at += version < 1 ? 2 : 4;
    const associations = bytes.u8(at++);
    links.left -= associations;
    if (links.left < 0) throw new ProbeError(`has more than ${MAX_LINKS} properties of AVIF items`);
    for (let a = 0; a < associations; a++) {
      const index = wide ? bytes.u16(at) & 0x7fff : bytes.u8(at) & 0x7f;
      at += wide ? 2 : 1;
      const property = properties[index - 1];
      if (property !== undefined) items.get(id)?.properties.push(property);
    }
  }
}

/** Boxes between two places; `start` is where a box's content begins. */
function boxes(bytes: Bytes, from: number, to: number): Box[] {
  const found: Box[] = [];
  let at = from;
  while (at + 8 <= to) {
    if (found.length === MAX_BOXES) throw new ProbeError(`has more than ${MAX_BOXES} AVIF boxes`);
    let size = bytes.u32(at);
    let head = 8;
    if (size === 1) {
      size = bytes.u32(at + 8) * 2 ** 32 + bytes.u32(at + 12);
      head = 16;
    } else if (size === 0) size = to - at;
    const type = bytes.ascii(at + 4, 4);
    if (size < head || at + size > to)
      throw new ProbeError(
        `has an AVIF box ${JSON.stringify(type)} of ${size} bytes at byte ${at}, which ends after byte ${to}`,
      );
    found.push({ type, start: at + head, end: at + size });
    at += size;
  }
  return found;
}

function text(bytes: Bytes, from: number, to: number): string {
  return bytes.ascii(from, Math.max(0, Math.min(to, bytes.length, from + MAX_KIND_CHARS) - from));
}
