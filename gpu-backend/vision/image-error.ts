import type { ErrorCode } from '../../shared/contract/errors.ts';
import { type ErrorFacts, errorMessage } from '../../shared/contract/facts.ts';

/** The rows of the error table that a picture can earn. */
export type ImageErrorCode = Extract<
  ErrorCode,
  'empty_image_file' | 'image_file_too_large' | 'invalid_image_format' | 'image_parse_error' | 'image_too_large'
>;

/** A picture that cannot be used. The text is ours alone: what a codec library said stays out of answers. */
export class ImageError extends Error {
  override readonly name = 'ImageError';
  constructor(
    readonly code: ImageErrorCode,
    readonly facts: ErrorFacts,
  ) {
    super(errorMessage('image', facts));
  }
}
