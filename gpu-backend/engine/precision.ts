import type { KvFormat } from '../models/decode.ts';
import { BLOCK_SIZES, chooseStorage, PARTS, type Part, type Precision, type Storage } from '../models/storage.ts';

/**
 * How the weights of a served model are computed with. `w8a8`: int8 columns and activations rounded row by row; with
 * `/32` the last layer of the decoder's MLP, whose inputs have spikes, keeps int8 blocks of 32. `int8`, `int4`:
 * blocks of 64 values (or as many as the name says), activations rounded block by block by the kernel. What each costs in time is
 * measured on the machine (precision-probe.ts), what it costs in accuracy is stored (precision-accuracy.ts).
 */
export const WEIGHT_FORMATS = ['f32', 'w8a8', 'w8a8/32', 'int8', 'int4/32', 'int4', 'int4/128'] as const;
export type WeightFormat = (typeof WEIGHT_FORMATS)[number];

/** Formats of parts of a model. f16 would be widened in every run. */
const PART_FORMATS = ['f32', 'w8a8', 'int8', 'int4'] as const;
type PartFormat = (typeof PART_FORMATS)[number];

/** Where a name says no size: fewer scales to read than with 32 where one row decodes alone. */
const BLOCK_SIZE = 64;

/** Storage of a format; undefined = f32. */
export function storageFor(format: WeightFormat): Storage | undefined {
  if (format === 'f32') return undefined;
  if (format === 'w8a8' || format === 'w8a8/32')
    return { ...chooseStorage({ precision: 'int8', blockSize: 32 }), w8a8: format === 'w8a8' ? 'all' : 'smooth' };
  const [precision, blockSize = BLOCK_SIZE] = format.split('/') as ['int8' | 'int4', string?];
  return chooseStorage({ precision, blockSize: Number(blockSize) });
}

/** How weights are stored, and what it is called. */
export interface WeightChoice {
  /** One of the WEIGHT_FORMATS, or the text that chose part by part. */
  readonly name: string;
  /** Absent = f32. */
  readonly storage?: Storage;
}

/** What an operator asks for; `auto` = chosen by what this machine measures. */
export interface PrecisionRequest {
  readonly weights: 'auto' | WeightChoice;
  readonly kv: 'auto' | KvFormat;
}

export const AUTO_PRECISION: PrecisionRequest = { weights: 'auto', kv: 'auto' };
export const KV_CHOICES = ['auto', 'f32', 'int8'] as const satisfies readonly PrecisionRequest['kv'][];

/** What `parsePrecision` takes, for messages and help. */
export const PRECISION_SYNTAX = `auto, one of ${WEIGHT_FORMATS.join(', ')}, or by part: decoder=int4,head=int8,vision=f32,projector=f32,block=64`;

/**
 * Weights as an operator writes them: `auto`, a format, or parts. Parts that are not named are f32 or what a leading format says
 * (`int8,vision=f32`); the head follows the decoder, at int8 if that is int4 (`chooseStorage`).
 * @throws Error naming the piece that is not understood
 */
export function parsePrecision(text: string): PrecisionRequest['weights'] {
  if (text === 'auto') return 'auto';
  const whole = WEIGHT_FORMATS.find((format) => format === text);
  if (whole !== undefined) return named(whole);
  const parts: Partial<Record<Part | 'all', PartFormat>> = {};
  let blockSize = BLOCK_SIZE;
  for (const [index, piece] of text.split(',').entries()) {
    const [key = '', value = '', ...more] = piece.trim().split('=');
    const wrong = (): Error => new Error(`expected ${PRECISION_SYNTAX}; received ${JSON.stringify(piece)}`);
    if (more.length > 0) throw wrong();
    if (key === 'block') {
      const size = BLOCK_SIZES.find((known) => String(known) === value);
      if (size === undefined) throw new Error(`block: expected one of ${BLOCK_SIZES.join(', ')}, received "${value}"`);
      blockSize = size;
      continue;
    }
    const isFirst = index === 0 && value === '';
    const part = isFirst ? 'all' : PARTS.find((known) => known === key);
    const format = PART_FORMATS.find((known) => known === (isFirst ? key : value));
    if (part === undefined || format === undefined) throw wrong();
    parts[part] = format;
  }
  return { name: text, ...storageOfParts(parts, blockSize) };
}

function named(format: WeightFormat): WeightChoice {
  const storage = storageFor(format);
  return { name: format, ...(storage === undefined ? {} : { storage }) };
}

function storageOfParts(
  parts: Partial<Record<Part | 'all', PartFormat>>,
  blockSize: number,
): { readonly storage?: Storage } {
  const formats = Object.values(parts);
  const isW8A8 = formats.includes('w8a8');
  if (isW8A8 && formats.includes('int8'))
    throw new Error('expected int8 or w8a8 for the parts of a model, received both');
  const precisionOf = (part: Part | 'all'): Precision | undefined =>
    parts[part] === 'w8a8' ? 'int8' : (parts[part] as Precision | undefined);
  const chosen = PARTS.flatMap((part) => {
    const precision = precisionOf(part);
    return precision === undefined ? [] : [[part, precision] as const];
  });
  const storage = chooseStorage({
    precision: precisionOf('all') ?? 'f32',
    blockSize,
    ...(Object.fromEntries(chosen) as Partial<Record<Part, Precision>>),
  });
  if (PARTS.every((part) => storage.precision[part] === 'f32')) return {};
  return { storage: isW8A8 ? { ...storage, w8a8: 'all' } : storage };
}
