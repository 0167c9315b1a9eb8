/** Pictures that are refused, one row each: what is sent, and what the answer must say. */
import { LIMITS } from '../../../shared/contract/limits.ts';
import { dataUrl, imagePart, picture, textPart } from './pictures.ts';
import type { Refusal } from './refusal.ts';

/** A PNG that says `width` x `height` in its header and holds nothing of it. */
function lyingPng(width: number, height: number): Buffer {
  const bytes = Buffer.from(picture('frame-1'));
  bytes.writeUInt32BE(width, 16);
  bytes.writeUInt32BE(height, 20);
  return bytes;
}

/** A file that ends in the middle. */
export const truncated = (): Buffer => picture('frame-1').subarray(0, 120);

export const imageUrl = (url: string): { type: 'image_url'; image_url: { url: string } } => ({
  type: 'image_url',
  image_url: { url },
});

export interface ChatCase extends Refusal {
  readonly name: string;
  readonly content: () => unknown;
}

/** The path of a picture in the first message. */
export const at = (index: number): string => `messages[0].content[${index}].image_url`;
export const question = textPart('What is in image 1?');

export const CHAT_CASES: readonly ChatCase[] = [
  {
    name: 'a picture of a wrong type',
    content: () => [question, imageUrl('data:image/svg+xml;base64,PHN2Zy8+')],
    status: 415,
    code: 'unsupported_image_media_type',
    param: at(1),
    says: ['image/png', 'image/svg+xml'],
  },
  {
    name: 'a declared type that is not the real one',
    content: () => [imageUrl(dataUrl(picture('frame-1'), 'image/jpeg')), question],
    status: 400,
    code: 'invalid_image_format',
    param: at(0),
    says: ['image/jpeg', 'image/png'],
  },
  {
    name: 'bytes that are no picture',
    content: () => [question, imagePart('frame-1'), imageUrl(dataUrl(Buffer.from('this is no picture at all')))],
    status: 400,
    code: 'invalid_image_format',
    param: at(2),
  },
  {
    name: 'an empty picture',
    content: () => [imageUrl('data:image/png;base64,'), question],
    status: 400,
    code: 'empty_image_file',
    param: at(0),
    says: ['0 bytes'],
  },
  {
    name: 'a corrupt picture',
    content: () => [imagePart('frame-1'), imageUrl(dataUrl(truncated())), question],
    status: 400,
    code: 'image_parse_error',
    param: at(1),
  },
  {
    name: 'base64 that is none',
    content: () => [imageUrl('data:image/png;base64,@@@@'), question],
    status: 400,
    code: 'invalid_base64_image',
    param: at(0),
  },
  {
    name: 'a picture with too many pixels',
    content: () => [question, imageUrl(dataUrl(lyingPng(10_000, 10_000)))],
    status: 400,
    code: 'image_too_large',
    param: at(1),
    says: [String(LIMITS.images.maxPixels), '100000000'],
  },
  {
    name: 'a picture with a side too long',
    content: () => [imageUrl(dataUrl(lyingPng(LIMITS.images.maxSide + 1, 100))), question],
    status: 400,
    code: 'image_too_large',
    param: at(0),
    says: [String(LIMITS.images.maxSide), String(LIMITS.images.maxSide + 1)],
  },
  {
    name: 'a picture with too many bytes',
    content: () => [imageUrl(dataUrl(Buffer.alloc(LIMITS.images.maxBytes + 1_000_000))), question],
    status: 413,
    code: 'image_file_too_large',
    param: at(0),
    says: [String(LIMITS.images.maxBytes)],
  },
  {
    name: 'a picture on the web that is not there',
    content: () => [imageUrl('https://example.invalid/cat.png'), question],
    status: 400,
    code: 'failed_to_download_image',
    param: at(0),
  },
  {
    name: 'a private address as a picture',
    content: () => [imageUrl('http://169.254.169.254/latest/meta-data'), question],
    status: 400,
    code: 'failed_to_download_image',
    param: at(0),
  },
  {
    name: 'a file id that does not exist',
    content: () => [question, imageUrl('file-doesnotexist')],
    status: 404,
    code: 'image_file_not_found',
    param: at(1),
    says: ['file-doesnotexist'],
  },
  {
    name: 'a part of unknown type',
    content: () => [question, { type: 'input_audio', input_audio: {} }],
    status: 400,
    code: 'invalid_value',
    param: /content\[1\]/.source,
  },
];
