import { sha256Hex } from '../../io/digest.ts';
import { encodePng } from '../../vision/encode.ts';
import { heldOutItems, type SkillItem, trainedSetSizes } from './heldout.ts';
import { boxSidePx } from './scene.ts';

/** A held-out question whose pictures are files, as any model could be sent them. */
export interface FiledSkillItem extends Omit<SkillItem, 'images'> {
  /** PNG, by the SHA-256 of the file. */
  readonly images: readonly { readonly sha256: string; bytes(): Promise<Uint8Array> }[];
}

/**
 * The generated held-out set with its pictures as files, and how it came about, for whoever shows what was asked.
 * @param images pictures of each question. Default: as many as are trained on, drawn evenly.
 */
export async function skillFiles({
  perSkill,
  seed,
  images,
}: {
  readonly perSkill: number;
  readonly seed: number;
  readonly images?: number | undefined;
}): Promise<{ readonly items: FiledSkillItem[]; readonly origin: { readonly [key: string]: string | number } }> {
  const sizes = images === undefined ? trainedSetSizes : [images];
  const items: FiledSkillItem[] = [];
  for (const item of heldOutItems(perSkill, seed, sizes))
    items.push({ ...item, images: await Promise.all(item.images.map(fileOf)) });
  return { items, origin: { seed, perSkill, pictures: [...new Set(sizes)].join(', ') } };
}

async function fileOf(pixels_HWC: Uint8Array): Promise<FiledSkillItem['images'][number]> {
  const bytes = await encodePng({ width: boxSidePx, height: boxSidePx, pixels_HWC }, 1);
  return { sha256: sha256Hex(bytes), bytes: async () => bytes };
}
