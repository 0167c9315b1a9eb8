import type { Dim } from '../graph/dim.ts';
import { symbol } from '../graph/dim.ts';
import type { Graph, Value } from '../graph/graph.ts';
import { f32 } from '../runtime/session.ts';
import type { LlavaConfig } from './config.ts';
import type { Family } from './family.ts';
import { finalRmsNorm, llamaLayer } from './llama.ts';
import { projector } from './projector.ts';
import { PREFIX, visionTower } from './vit.ts';
import { LLAMA_LINEARS } from './weights.ts';

function pixelInput(graph: Graph, config: LlavaConfig, images: Dim): Value {
  const side = config.vision.imageSize;
  return graph.input('pixel_values', 'f32', [images, 3, side, side]);
}

/** Encoder layers behind the last one used, the final norm, and SigLIP's attention pooling head. */
function unusedWeights({ vision, visionLayers }: LlavaConfig): ReadonlyMap<string, readonly number[]> {
  const { hidden: D, intermediate: F, layers, kind } = vision;
  const shapes = new Map<string, readonly number[]>();
  const linear = (module: string, out: number, width: number): void => {
    shapes.set(`${PREFIX}.${module}.weight`, [out, width]).set(`${PREFIX}.${module}.bias`, [out]);
  };
  const norm = (module: string): void => {
    shapes.set(`${PREFIX}.${module}.weight`, [D]).set(`${PREFIX}.${module}.bias`, [D]);
  };
  const mlp = (module: string): void => {
    linear(`${module}.mlp.fc1`, F, D);
    linear(`${module}.mlp.fc2`, D, F);
  };
  for (let i = visionLayers; i < layers; i++) {
    const layer = `encoder.layers.${i}`;
    for (const name of ['q_proj', 'k_proj', 'v_proj', 'out_proj']) linear(`${layer}.self_attn.${name}`, D, D);
    mlp(layer);
    for (const name of ['layer_norm1', 'layer_norm2']) norm(`${layer}.${name}`);
  }
  norm('post_layernorm');
  if (kind === 'siglip') {
    shapes
      .set(`${PREFIX}.head.probe`, [1, 1, D])
      .set(`${PREFIX}.head.attention.in_proj_weight`, [3 * D, D])
      .set(`${PREFIX}.head.attention.in_proj_bias`, [3 * D]);
    linear('head.attention.out_proj', D, D);
    norm('head.layernorm');
    mlp('head');
  }
  return shapes;
}

/** Mantis-SigLIP, Mantis-CLIP and LLaVA relatives: square pictures, ViT, two-layer projector, Llama. */
export const llava: Family<LlavaConfig> = {
  label: ({ vision }) => `mantis-${vision.kind}`,
  names: [],
  // transformers 5 names modules so in memory; its files keep the published names.
  moduleNames: [
    ['language_model.model.', 'model.language_model.'],
    ['language_model.lm_head.', 'lm_head.'],
  ],
  isUnused(name, { visionLayers }) {
    if (/^vision_tower\.vision_model\.(post_layernorm|head)\./.test(name)) return true;
    const layer = /^vision_tower\.vision_model\.encoder\.layers\.(\d+)\./.exec(name);
    return layer !== null && Number(layer[1]) >= visionLayers;
  },
  unusedWeights,
  // "(image 1: <Image>" and "</Image>)" by the tokenizer of Llama 3: 7 tokens before a picture, 3 behind it.
  wrapperTokens: 10,
  decoderLinears: LLAMA_LINEARS,
  projectorLinears: [],

  slotIds: ({ imageToken, tokensPerImage }) => new Array<number>(tokensPerImage).fill(imageToken),
  pictureFeeds({ vision }, pictures) {
    const side = vision.imageSize;
    const size = 3 * side * side;
    const pixels_NCHW = new Float32Array(pictures.length * size);
    for (const [n, { pixels_CHW, width, height }] of pictures.entries()) {
      if (width !== side || height !== side || pixels_CHW.length !== size)
        throw new Error(
          `picture ${n + 1} of ${pictures.length}: expected ${side}x${side} pixels, got ${width}x${height} with ${pixels_CHW.length} values`,
        );
      pixels_NCHW.set(pixels_CHW, n * size);
    }
    return { pixel_values: f32(pixels_NCHW, [pictures.length, 3, side, side]) };
  },

  imageFeatures(w, config, from, checkpoint) {
    const { graph } = w;
    const tower =
      from === 'pixels'
        ? visionTower(w, config, pixelInput(graph, config, symbol('N')), checkpoint)
        : graph.input('vision_features', 'f32', [symbol('F'), config.vision.hidden]);
    return projector(w, config, tower);
  },
  hasTower: true,
  towerFeatures: (w, config) => visionTower(w, config, pixelInput(w.graph, config, symbol('N'))),
  towerFeeds({ vision, tokensPerImage }, features) {
    const size = tokensPerImage * vision.hidden;
    const joined = new Float32Array(features.length * size);
    for (const [n, rows] of features.entries()) {
      if (rows.length !== size)
        throw new Error(`picture ${n + 1} of ${features.length}: expected ${size} feature values, got ${rows.length}`);
      joined.set(rows, n * size);
    }
    return { vision_features: f32(joined, [features.length * tokensPerImage, vision.hidden]) };
  },
  decoderLayer: llamaLayer,
  finalNorm: (w, { text }, h) => finalRmsNorm(w, text, h),
};
