/**
 * The child process of a decode pool: one picture in, 8-bit model input or a refusal out, over one pipe that it reads blocking.
 * It ends when the pipe does: the parent is gone then, however it went.
 */

import { readFrame, writeFrame } from './decode-frames.ts';
import { ImageError } from './image-error.ts';
import { fitImage } from './preprocess.ts';

/** The pipe to the parent, after stdin, stdout and stderr. */
const PIPE = 3;
/** Of a picture after which memory is given back at once. */
const LARGE_PIXELS = 4_000_000;

// Ctrl-C reaches the whole process group; the parent decides when its decoders stop.
process.on('SIGINT', () => {});

try {
  writeFrame(PIPE, { kind: 'ready' });
  for (let frame = readFrame(PIPE); frame !== null; frame = readFrame(PIPE)) {
    let isLarge = false;
    try {
      const { image, digest, source } = await fitImage(frame.bytes, frame.job.recipe);
      const { width, height, pixels_HWC } = image;
      writeFrame(PIPE, { kind: 'image', width, height, digest }, pixels_HWC);
      isLarge = source.width * source.height > LARGE_PIXELS;
    } catch (error) {
      if (error instanceof ImageError) writeFrame(PIPE, { kind: 'refused', code: error.code, facts: error.facts });
      else writeFrame(PIPE, { kind: 'failed', message: error instanceof Error ? error.message : String(error) });
    }
    // The pixels of a large picture would stay until the next one needs the room.
    if (isLarge) globalThis.gc?.();
  }
} catch (error) {
  // EPIPE, ECONNRESET: the parent went while it was written to.
  if (!(error instanceof Error && 'syscall' in error)) throw error;
}
process.exit(0);
