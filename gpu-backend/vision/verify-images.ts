import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { preprocessImage } from './preprocess.ts';
import { clipRecipe, type ImageRecipe, idefics2Recipe, siglipRecipe } from './recipes.ts';

/** One expectation of a reference folder and how far we are from it. */
export interface VerifyRow {
  readonly case: string;
  readonly expectation: string;
  readonly error: number;
  readonly tolerance: number;
  readonly ok: boolean;
}

/** A reference tensor; the caller reads expected.safetensors, since this folder knows pictures only. */
export interface ExpectedPixels {
  readonly shape: readonly number[];
  readonly values: Float32Array;
}

/** In 8-bit pixel units: what the average and the 99.9th percentile of the absolute errors may be. */
const TOLERANCE = { mean: 1, p999: 2 } as const;

/**
 * Checks a folder of pictures against the reference's pixel values, `NAME.siglip` and `NAME.clip` [3,S,S] and
 * `NAME.idefics2` [3,h,w]. Errors are in 8-bit pixel units (normalisation undone), so one number fits all recipes.
 *
 * @param readExpected gives the tensors of a safetensors file by name
 */
export async function verifyImages(
  dir: string,
  readExpected: (path: string) => ReadonlyMap<string, ExpectedPixels>,
): Promise<VerifyRow[]> {
  const expected = readExpected(join(dir, 'expected.safetensors'));
  const rows: VerifyRow[] = [];
  const bounds = idefics2Bounds(expected);
  const done = new Set<string>();
  for (const file of readdirSync(dir).sort()) {
    for (const kind of ['siglip', 'clip', 'idefics2'] as const) {
      const tensor = expected.get(`${file}.${kind}`);
      if (!tensor) continue;
      done.add(`${file}.${kind}`);
      const recipe =
        kind === 'idefics2' ? bounds : kind === 'clip' ? clipRecipe(tensor.shape[1]!) : siglipRecipe(tensor.shape[1]!);
      // The reference opened its files without turning them by EXIF, and read their numbers as sRGB.
      const { pixels_CHW, width, height } = await preprocessImage(readFileSync(join(dir, file)), recipe, {
        orient: false,
        colour: 'stored',
      });
      const isSameShape = `3,${height},${width}` === tensor.shape.join(',');
      const errors = isSameShape
        ? pixelErrors(pixels_CHW, tensor.values, recipe)
        : { mean: Number.POSITIVE_INFINITY, p999: Number.POSITIVE_INFINITY };
      for (const measure of ['mean', 'p999'] as const) {
        const error = errors[measure];
        rows.push({
          case: file,
          expectation: `${kind} ${measure} abs`,
          error,
          tolerance: TOLERANCE[measure],
          ok: error <= TOLERANCE[measure],
        });
      }
    }
  }
  for (const name of expected.keys()) {
    if (!done.has(name))
      rows.push({
        case: name,
        expectation: 'a picture of this name',
        error: Number.POSITIVE_INFINITY,
        tolerance: 0,
        ok: false,
      });
  }
  return rows;
}

/** The bounds stand nowhere in the folder; the largest and smallest side over all its pictures are them. */
function idefics2Bounds(expected: ReadonlyMap<string, ExpectedPixels>): ImageRecipe {
  const sides = [...expected].filter(([name]) => name.endsWith('.idefics2')).flatMap(([, { shape }]) => shape.slice(1));
  return sides.length === 0 ? idefics2Recipe() : idefics2Recipe(Math.max(...sides), Math.min(...sides));
}

function pixelErrors(
  got: Float32Array,
  expected: Float32Array,
  { rescale, std }: ImageRecipe,
): { mean: number; p999: number } {
  const plane = got.length / 3;
  const errors = Float64Array.from(
    got,
    (value, i) => (Math.abs(value - expected[i]!) * std[Math.floor(i / plane)]!) / rescale,
  );
  const mean = errors.reduce((sum, error) => sum + error, 0) / errors.length;
  errors.sort();
  return { mean, p999: errors[Math.min(errors.length - 1, Math.ceil(errors.length * 0.999) - 1)]! };
}
