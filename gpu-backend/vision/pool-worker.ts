/** The child process of a decode pool: one picture in, model input or a refusal out, over the process channel. */

import type { ErrorFacts } from '../../shared/contract/errors.ts';
import { ImageError, type ImageErrorCode } from './image-error.ts';
import { type PreprocessedImage, preprocessImage } from './preprocess.ts';
import type { ImageRecipe } from './recipes.ts';

export interface PoolJob {
  readonly bytes: Uint8Array;
  readonly recipe: ImageRecipe;
}

export type PoolReply =
  | { readonly kind: 'ready' }
  | { readonly kind: 'image'; readonly image: PreprocessedImage }
  | { readonly kind: 'refused'; readonly code: ImageErrorCode; readonly facts: ErrorFacts }
  | { readonly kind: 'failed'; readonly message: string };

const reply = (message: PoolReply): void => {
  process.send?.(message);
};

process.on('message', (job: PoolJob) => {
  preprocessImage(job.bytes, job.recipe).then(
    (image) => reply({ kind: 'image', image }),
    (error: unknown) => {
      if (error instanceof ImageError) reply({ kind: 'refused', code: error.code, facts: error.facts });
      else reply({ kind: 'failed', message: error instanceof Error ? error.message : String(error) });
    },
  );
});
// The parent is gone, however it went: nobody waits for this picture.
process.on('disconnect', () => process.exit(0));
// Ctrl-C reaches the whole process group; the parent decides when its decoders stop.
process.on('SIGINT', () => {});
reply({ kind: 'ready' });
