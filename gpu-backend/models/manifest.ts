import { existsSync, readFileSync, statSync } from 'node:fs';
import { join } from 'node:path';
import { z } from 'zod';
import { BLOCK_SIZES, PRECISIONS } from './storage.ts';

/** Name of the file that makes a folder an imported model. */
export const MANIFEST_NAME = 'mantis.json';

/** Weights of an imported model, and graphs that read them from it. */
export const WEIGHTS_NAME = 'model.safetensors';
export const GRAPH_NAMES = { vision: 'vision.onnx', decode: 'decode.onnx' } as const;

const sha256 = z.string().regex(/^[0-9a-f]{64}$/);
const plainName = z.string().regex(/^[A-Za-z0-9][A-Za-z0-9._-]*$/);
const precision = z.enum(PRECISIONS);

const Manifest = z.object({
  format: z.literal('mantis-import'),
  /** Of the layout of the folder; another number means another reader. */
  version: z.literal(1),
  source: z.object({
    /** Folder or hub id. */
    from: z.string(),
    /** Digests where the hub gave them, times of the last change where the source was a folder. */
    weights: z.array(
      z.object({
        name: z.string(),
        bytes: z.number().int(),
        sha256: sha256.optional(),
        modifiedAtMs: z.number().optional(),
      }),
    ),
  }),
  storage: z.object({
    precision: z.object({ vision: precision, projector: precision, decoder: precision, head: precision }),
    blockSize: z.union(BLOCK_SIZES.map((size) => z.literal(size))),
  }),
  /** Values that were read, by part. */
  parameters: z.object({
    vision: z.number().int(),
    projector: z.number().int(),
    decoder: z.number().int(),
    head: z.number().int(),
  }),
  /** Every file of the folder but this one. */
  files: z.array(z.object({ name: plainName, bytes: z.number().int(), sha256 })),
  /** What made the folder. */
  versions: z.object({ onnxruntime: z.string(), node: z.string() }),
});

/** `mantis.json`: what an imported model folder holds. */
export type Manifest = z.infer<typeof Manifest>;

/**
 * The manifest of an imported model folder, `null` for any other folder.
 * @throws Error when the file is not a manifest of this version, or a file it names is missing or of another size
 */
export function readManifest(dir: string): Manifest | null {
  const path = join(dir, MANIFEST_NAME);
  if (!existsSync(path)) return null;
  let json: unknown;
  try {
    json = JSON.parse(readFileSync(path, 'utf8'));
  } catch (cause) {
    throw new Error(`${path} is not valid JSON: import the model again`, { cause });
  }
  const parsed = Manifest.safeParse(json);
  if (!parsed.success) {
    const [issue] = parsed.error.issues;
    throw new Error(
      `${path}: ${issue?.path.join('.') ?? ''}: ${issue?.message ?? 'not a manifest'}; it was made by another version, import the model again`,
    );
  }
  for (const { name, bytes } of parsed.data.files) {
    const found = statSync(join(dir, name), { throwIfNoEntry: false })?.size;
    if (found !== bytes)
      throw new Error(
        `${dir}: ${name} should have ${bytes} bytes and ${found === undefined ? 'is missing' : `has ${found}`}: import the model again`,
      );
  }
  return parsed.data;
}

/** Hex digest of the weight file, as the import wrote it down. */
export function weightsDigest({ files }: Manifest): string {
  const file = files.find(({ name }) => name === WEIGHTS_NAME);
  if (file === undefined) throw new Error(`${MANIFEST_NAME} names no ${WEIGHTS_NAME}: import the model again`);
  return file.sha256;
}
