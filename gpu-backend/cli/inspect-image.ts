import { createHash } from 'node:crypto';
import { readFile } from 'node:fs/promises';
import { fileURLToPath } from 'node:url';
import { Command } from 'commander';
import { readConfig } from '../models/load.ts';
import { type PictureSlots, pictureSlots, readRecipe } from '../models/pictures.ts';
import { decodeImage } from '../vision/decode.ts';
import { ImageError } from '../vision/image-error.ts';
import { digestPixels, fitRgb } from '../vision/preprocess.ts';
import type { ImageRecipe } from '../vision/recipes.ts';
import { CliError } from './error.ts';

const bundledModel = fileURLToPath(new URL('../models/nano', import.meta.url));

/** What becomes of a picture file in a model. */
export interface ImageReport {
  readonly file: string;
  readonly format: string;
  /** Upright, pixels. */
  readonly width: number;
  readonly height: number;
  /** SHA-256 of the upright 8-bit RGB pixels, row by row. */
  readonly pixels_sha256: string;
  /** As the model sees it. */
  readonly model_width: number;
  readonly model_height: number;
  /** What cached features are found by: recipe, size and pixels after resizing. */
  readonly digest: string;
  /** Decoder positions it takes. */
  readonly tokens: number;
}

/** `mantis inspect-image`: size, digests and tokens of picture files, as a backend would see them; no weights are read. */
export function inspectImageCommand(): Command {
  return new Command('inspect-image')
    .description('size, pixel digest and tokens of pictures as a model would see them')
    .argument('<files...>', 'JPEG, PNG, WebP, GIF or AVIF')
    .option('--model <folder>', 'checkpoint folder or imported model', bundledModel)
    .option('--json', 'print a line of JSON for each picture')
    .action(async (files: readonly string[], options: { readonly model: string; readonly json?: boolean }) => {
      const { recipe, slots } = openModel(options.model);
      let refused = 0;
      for (const file of files) {
        const report = await inspectImage(file, recipe, slots);
        if ('error' in report) refused++;
        process.stdout.write(`${options.json === true ? JSON.stringify(report) : describe(report)}\n`);
      }
      if (refused > 0) throw new CliError(`${refused} of ${files.length} pictures cannot be used`);
    });
}

function openModel(dir: string): { recipe: ImageRecipe; slots: PictureSlots } {
  try {
    const recipe = readRecipe(dir);
    return { recipe, slots: pictureSlots(readConfig(dir), recipe) };
  } catch (error) {
    throw new CliError(error instanceof Error ? error.message : String(error), 2);
  }
}

interface Refusal {
  readonly file: string;
  /** Row of the error table. */
  readonly error: string;
  readonly message: string;
}

async function inspectImage(file: string, recipe: ImageRecipe, slots: PictureSlots): Promise<ImageReport | Refusal> {
  let bytes: Uint8Array;
  try {
    bytes = await readFile(file);
  } catch (error) {
    throw new CliError(`${file}: ${error instanceof Error ? error.message : String(error)}`, 2);
  }
  try {
    const image = await decodeImage(bytes, { alpha: recipe.alpha });
    const fitted = fitRgb(image, recipe);
    return {
      file,
      format: image.format,
      width: image.width,
      height: image.height,
      pixels_sha256: createHash('sha256').update(image.pixels_HWC).digest('hex'),
      model_width: fitted.width,
      model_height: fitted.height,
      digest: digestPixels(fitted, recipe),
      tokens: slots.idsOf({ width: fitted.width, height: fitted.height }).length,
    };
  } catch (error) {
    if (!(error instanceof ImageError)) throw error;
    return { file, error: error.code, message: error.message };
  }
}

function describe(report: ImageReport | Refusal): string {
  if ('error' in report) return `${report.file}: ${report.error}: ${report.message}`;
  const { file, format, width, height, model_width, model_height, tokens, digest, pixels_sha256 } = report;
  return `${file}: ${format.toUpperCase()} ${width}x${height}, pixels ${pixels_sha256.slice(0, 16)}; for the model ${model_width}x${model_height}, ${tokens} tokens, digest ${digest.slice(0, 16)}`;
}
