import type { VisionConfig } from './config.ts';

/** Patches along one side; the convolution drops the pixels that do not fill one. */
export function patchGrid(vision: Pick<VisionConfig, 'imageSize' | 'patchSize'>): number {
  return Math.floor(vision.imageSize / vision.patchSize);
}

/** Positions in the vision transformer: patches, and CLIP's class token. */
export function visionPositions(vision: VisionConfig): number {
  return patchGrid(vision) ** 2 + (vision.kind === 'clip' ? 1 : 0);
}
