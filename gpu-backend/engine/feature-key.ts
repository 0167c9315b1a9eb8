import { createHash, randomUUID } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { formatRecipe, type ImageRecipe } from '../vision/recipes.ts';
import type { ModelFront } from './model-front.ts';

/** Raised when the same picture and weights give other features, or when what is stored of them changes its form. */
const FEATURES_VERSION = 2;

/** What a cached value may depend on besides a request's own words and pictures. */
export interface Scoped {
  readonly front: Pick<ModelFront, 'checkpointDigest' | 'visionDigest'>;
  /** Opaque id of who asks; `null` = nobody that can be named, who shares with no other request. */
  readonly tenant: string | null;
  /** Precision and device: `ModelPool.compute`. */
  readonly compute: string;
}

/**
 * Names the world of one cache: requests with different scopes share nothing, whatever else they have in common. Covers the
 * checkpoint, what is laid over it, how it runs, the tenant, and the libraries that decode and compute. For features of pictures
 * and for keys and values of prompts alike.
 * @returns lower-case hex
 */
export function cacheScope({ front, tenant, compute }: Scoped): string {
  const who = tenant ?? `nobody ${randomUUID()}`;
  return digest(['scope', front.checkpointDigest, front.visionDigest, compute, who]);
}

/**
 * Key of a picture's features.
 * @param pixelDigest `digestPixels`: recipe, width, height and pixels
 */
export function featureKey(scope: string, pixelDigest: string): string {
  return digest(['features', scope, pixelDigest]);
}

/**
 * Key of a picture file for one tenant, which leads to the digest of its pixels without decoding. The tenant is part of it: how
 * fast a picture is recognised must not tell who else has sent it.
 */
export function fileKey(file: Uint8Array, recipe: ImageRecipe, tenant: string | null): string {
  const bytes = createHash('sha256').update(file).digest('hex');
  return digest(['file', formatRecipe(recipe), tenant, bytes]);
}

/**
 * Name of a stored picture: leads from the file to pixels and features in one look-up.
 * @param file `fileKey`
 */
export function recordName(scope: string, file: string): string {
  return digest(['record', scope, file]);
}

/** Unambiguous: JSON keeps the border between two neighbours, whatever is in them. */
function digest(parts: readonly unknown[]): string {
  return createHash('sha256')
    .update(JSON.stringify([FEATURES_VERSION, LIBRARIES, ...parts]))
    .digest('hex');
}

/** Stored features outlive an update of the program; those of another decoder or runtime are not taken for ours. */
const LIBRARIES: readonly string[] = (() => {
  const { dependencies } = JSON.parse(readFileSync(new URL('../../package.json', import.meta.url), 'utf8')) as {
    dependencies: Readonly<Record<string, string>>;
  };
  return ['sharp', 'onnxruntime-node'].map((name) => `${name} ${dependencies[name]}`);
})();
