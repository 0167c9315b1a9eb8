import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { openSafetensors } from '../io/safetensors.ts';
import type { VlmConfig } from './config.ts';
import { familyOf } from './family.ts';
import { importedGraphs } from './import-plan.ts';
import { contextTokens } from './llama.ts';
import { expectedWeights, readConfig } from './load.ts';
import { type Manifest, readManifest } from './manifest.ts';
import { canonicalName } from './names.ts';
import { PARTS, type Part, PRECISIONS, type Precision, partOf, type Storage } from './storage.ts';

type Shapes = Iterable<readonly [string, readonly number[]]>;

/** What can be said of a model from its config, and of its files where they are there. */
export interface ModelReport {
  readonly family: string;
  readonly vision: {
    readonly kind: string;
    readonly layers: number;
    readonly layersUsed: number;
    readonly imageSize: number;
    readonly patchSize: number;
  };
  readonly decoder: Pick<
    VlmConfig['text'],
    'hidden' | 'layers' | 'heads' | 'kvHeads' | 'headDim' | 'intermediate' | 'vocab'
  >;
  /** Values in the checkpoint by part, those that nothing reads included; `config`: counted from config.json alone. */
  readonly parameters: Readonly<Record<Part | 'total' | 'unused', number>> & { readonly from: 'config' | 'weights' };
  /** Feature rows of a picture (the most there can be), and with the text around it. */
  readonly tokensPerImage: number;
  readonly tokensPerImageWithText: number;
  readonly contextTokens: number;
  /** Pictures with the text around them that fit in the context, and in 8192 tokens where it is longer. */
  readonly imagesInContext: number;
  readonly imagesIn8192: number;
  /** Of keys and values: at 16 bits, as the literature counts, and as the engine keeps them (f32). */
  readonly kvBytesPerToken: { readonly bits16: number; readonly engine: number };
  /** Multiplications and additions of the decoder's layers, without attention over the past. */
  readonly flopPerToken: number;
  /** Of the encoder for one picture, attention included; 0 without an encoder. */
  readonly flopPerImage: number;
  /** Weights that serving reads, at each precision of all parts: in the file and in memory. */
  readonly weights: Readonly<Record<Precision, { readonly fileBytes: number; readonly memoryBytes: number }>>;
  readonly blockSize: number;
  /** Of an imported model. */
  readonly imported: Pick<Manifest, 'source' | 'storage'> | null;
}

const product = (shape: readonly number[]): number => shape.reduce((a, b) => a * b, 1);

function countByPart(shapes: Shapes): Record<Part, number> {
  const counts = { vision: 0, projector: 0, decoder: 0, head: 0 };
  for (const [name, shape] of shapes) counts[partOf(name)] += product(shape);
  return counts;
}

const uniform = (precision: Precision, blockSize: number): Storage => ({
  precision: { vision: precision, projector: precision, decoder: precision, head: precision },
  blockSize,
});

/** Bytes of the weights of both serving graphs. f16 is a storage type: linear layers are widened to f32 when they are loaded. */
function weightBytes(config: VlmConfig, storage: Storage): { fileBytes: number; memoryBytes: number } {
  const sizes = { f32: 4, f16: 2, u8: 1, i8: 1, i64: 8, bool: 1 } as const;
  const { vision, decode } = importedGraphs(config, storage);
  let [fileBytes, memoryBytes] = [0, 0];
  const seen = new Set<string>();
  for (const { name, kind, value } of [...vision.graph.inputs, ...decode.graph.inputs]) {
    if (kind !== 'param' || seen.has(name)) continue;
    seen.add(name);
    const count = product(value.shape as number[]);
    fileBytes += count * sizes[value.dtype];
    const isTable = name === 'language_model.model.embed_tokens.weight' && !config.text.tiedHead;
    memoryBytes += count * (value.dtype === 'f16' && !isTable ? 4 : sizes[value.dtype]);
  }
  return { fileBytes, memoryBytes };
}

function flopPerImage(config: VlmConfig, weights: Shapes): number {
  if (config.family === 'fuyu') return 0;
  const { vision, visionLayers } = config;
  const positions = Math.floor(vision.imageSize / vision.patchSize) ** 2 + (vision.kind === 'clip' ? 1 : 0);
  let values = 0;
  for (const [name, shape] of weights)
    if (name.startsWith('vision_tower.') && shape.length >= 2 && !name.includes('position_embedding'))
      values += product(shape);
  return 2 * values * positions + 4 * positions ** 2 * vision.hidden * visionLayers;
}

/** Arithmetic over a config. @param stored shapes of the checkpoint's tensors by canonical name, where there are files */
export function inspectConfig(config: VlmConfig, blockSize: number, stored?: Shapes): ModelReport {
  const family = familyOf(config);
  const used = expectedWeights(config);
  const unusedShapes =
    stored === undefined ? [...family.unusedWeights(config)] : [...stored].filter(([name]) => !used.has(name));
  const parts = countByPart([...used, ...unusedShapes]);
  const { text } = config;
  const tokens = config.tokensPerImage + family.wrapperTokens;
  const context = contextTokens(text);
  const kvValues = 2 * text.layers * text.kvHeads * text.headDim;
  const layerValues = [...used]
    .filter(([name, shape]) => name.startsWith('language_model.model.layers.') && shape.length === 2)
    .reduce((sum, [, shape]) => sum + product(shape), 0);
  const { vision } = config;
  return {
    family: family.label(config),
    vision: {
      kind: vision.kind,
      layers: 'layers' in vision ? vision.layers : 0,
      layersUsed: config.visionLayers,
      imageSize: vision.imageSize,
      patchSize: vision.patchSize,
    },
    decoder: {
      hidden: text.hidden,
      layers: text.layers,
      heads: text.heads,
      kvHeads: text.kvHeads,
      headDim: text.headDim,
      intermediate: text.intermediate,
      vocab: text.vocab,
    },
    parameters: {
      ...parts,
      total: PARTS.reduce((sum, part) => sum + parts[part], 0),
      unused: unusedShapes.reduce((sum, [, shape]) => sum + product(shape), 0),
      from: stored === undefined ? 'config' : 'weights',
    },
    tokensPerImage: config.tokensPerImage,
    tokensPerImageWithText: tokens,
    contextTokens: context,
    imagesInContext: Math.floor(context / tokens),
    imagesIn8192: Math.floor(Math.min(context, 8192) / tokens),
    kvBytesPerToken: { bits16: 2 * kvValues, engine: 4 * kvValues },
    flopPerToken: 2 * layerValues,
    flopPerImage: flopPerImage(config, used),
    weights: Object.fromEntries(
      PRECISIONS.map((precision) => [precision, weightBytes(config, uniform(precision, blockSize))]),
    ) as ModelReport['weights'],
    blockSize,
    imported: null,
  };
}

/**
 * Inspects a checkpoint folder, an imported model, or a folder with nothing but a config.json.
 * @throws Error when config.json is missing or of no supported family
 */
export function inspectModel(dir: string, blockSize = 32): ModelReport {
  const config = readConfig(dir);
  const manifest = readManifest(dir);
  if (manifest !== null) {
    const { parameters, source, storage } = manifest;
    const total = PARTS.reduce((sum, part) => sum + parameters[part], 0);
    return {
      ...inspectConfig(config, storage.blockSize),
      parameters: { ...parameters, total, unused: 0, from: 'weights' },
      imported: { source, storage },
    };
  }
  const hasWeights = ['model.safetensors', 'model.safetensors.index.json'].some((name) => existsSync(join(dir, name)));
  if (!hasWeights) return inspectConfig(config, blockSize);
  const store = openSafetensors(dir);
  try {
    return inspectConfig(
      config,
      blockSize,
      [...store.tensors.values()].map(({ name, shape }) => [canonicalName(name), shape] as const),
    );
  } finally {
    store.close();
  }
}
