/**
 * Pictures far larger than a model sees are made smaller at the edge, by the Images binding, where the installation asks for it (`EDGE_IMAGES`): less
 * travels, and less is decoded where answers are computed. What a model sees changes by rounding at most: the picture keeps its shape and at least twice
 * the pixels, in both directions, of what the model's own resampling takes from it, and what it costs in tokens stays the same.
 */
import type { ImageInfo } from '../../shared/contract/images.ts';
import { LIMITS } from '../../shared/contract/limits.ts';
import { imageTokens, type ModelCard } from '../../shared/contract/models.ts';
import { sha256Hex } from '../../shared/wire/signature.ts';
import type { Env } from '../env.ts';
import { checkImage } from './check.ts';
import type { ResolvedImage } from './resolve.ts';

/** Shrunk only where a picture has more than this many times the model's pixels in each direction … */
const WORTH_FACTOR = 4;
/** … and to this many times. */
const KEPT_FACTOR = 2;

/** One picture at a time in an isolate: decoded, they are what fills its memory. */
let lane: Promise<unknown> = Promise.resolve();

/** What a model sees of a picture. */
type Sight = Pick<ModelCard, 'imageWidth' | 'imageHeight' | 'tokensPerImage' | 'imageGrid'>;

/**
 * The same pictures in the same order, the large ones smaller. A picture that cannot be made smaller stays as it is; duplicates are worked on once.
 * @param card the model that will see them
 */
export async function shrinkImages(
  env: Pick<Env, 'IMAGES' | 'EDGE_IMAGES'>,
  card: Sight,
  images: readonly ResolvedImage[],
): Promise<ResolvedImage[]> {
  const { IMAGES: binding } = env;
  if (binding === undefined || env.EDGE_IMAGES !== 'on') return [...images];
  const done = new Map<string, ResolvedImage>();
  for (const image of images) {
    if (done.has(image.digest)) continue;
    const size = smallerSize(image.info, card);
    if (size === null) continue;
    const work = lane.then(() => shrunk(binding, image, size));
    lane = work.catch(() => {});
    done.set(image.digest, await work);
  }
  return images.map((image) => done.get(image.digest) ?? image);
}

/**
 * The size to shrink a picture to, or null to leave it alone: where it is not large enough, too large for the edge, or where what the binding does with
 * orientation, transparency, colours or depth is not known to be what the backend does.
 */
export function smallerSize(info: ImageInfo, card: Sight): { width: number; height: number } | null {
  const { mime, width, height } = info;
  if (mime !== 'image/jpeg' && mime !== 'image/png' && mime !== 'image/webp') return null;
  const plain =
    info.frames === 1 &&
    info.orientation === 1 &&
    info.bitDepth === 8 &&
    (info.channels === 1 || info.channels === 3) &&
    !info.hasAlpha &&
    !info.hasProfile;
  if (!plain || width * height > LIMITS.images.edgePixels) return null;
  const times = Math.min(width / card.imageWidth, height / card.imageHeight);
  if (times < WORTH_FACTOR) return null;
  const scale = KEPT_FACTOR / times;
  const size = { width: Math.round(width * scale), height: Math.round(height * scale) };
  return imageTokens(card, size) === imageTokens(card, info) ? size : null;
}

async function shrunk(
  binding: ImagesBinding,
  image: ResolvedImage,
  { width, height }: { width: number; height: number },
): Promise<ResolvedImage> {
  let bytes: Uint8Array<ArrayBuffer>;
  try {
    const input = new Blob([image.bytes as Uint8Array<ArrayBuffer>]).stream();
    // The width alone, so that no implementation pads, crops or stretches. Lossless, so that nothing is lost twice.
    const result = await binding.input(input).transform({ width }).output({ format: 'image/png' });
    bytes = new Uint8Array(await result.response().arrayBuffer());
  } catch (error) {
    return unchanged(image, String(error));
  }
  // A decoder that gives up halfway may still answer 200, with nothing or with half a file.
  const info = checkImage(bytes, 'image/png', 'image');
  if (Array.isArray(info)) return unchanged(image, info[0]?.message ?? 'no picture');
  if (info.width !== width || Math.abs(info.height - height) > 1)
    return unchanged(image, `${info.width}x${info.height} instead of ${width}x${height}`);
  if (bytes.byteLength >= image.bytes.byteLength) return image;
  return { digest: `sha256:${await sha256Hex(bytes)}`, bytes, info };
}

/** The backend will say what is wrong with it, if anything is. */
function unchanged(image: ResolvedImage, reason: string): ResolvedImage {
  console.warn(JSON.stringify({ level: 'warn', event: 'image_not_shrunk', digest: image.digest, reason }));
  return image;
}
