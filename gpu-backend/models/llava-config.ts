import type { LlavaConfig, VisionConfig } from './config.ts';
import { type Fields, geluKind, HF_GELU } from './config-fields.ts';
import { visionPositions } from './patch-grid.ts';
import { formatText, parseText } from './text-config.ts';

// Defaults below are those of the Hugging Face config classes: published files leave out what equals them.

function parseVision(fields: Fields): VisionConfig {
  const type = fields.oneOf('model_type', ['clip_vision_model', 'siglip_vision_model'], 'clip_vision_model');
  const kind = type === 'clip_vision_model' ? 'clip' : 'siglip';
  return parseEncoder(fields, kind, {
    patchSize: kind === 'clip' ? 32 : 16,
    layerNormEpsilon: kind === 'clip' ? 1e-5 : 1e-6,
    activation: kind === 'clip' ? 'quick_gelu' : 'gelu_pytorch_tanh',
  });
}

/** Dimensions of a ViT encoder, CLIP's or SigLIP's. */
export function parseEncoder(
  fields: Fields,
  kind: VisionConfig['kind'],
  defaults: { readonly patchSize: number; readonly layerNormEpsilon: number; readonly activation: string },
): VisionConfig {
  if (fields.count('num_channels', 3) !== 3) throw fields.wrong('num_channels', '3');
  const config: VisionConfig = {
    kind,
    hidden: fields.count('hidden_size', 768),
    intermediate: fields.count('intermediate_size', 3072),
    layers: fields.layers('num_hidden_layers', 12),
    heads: fields.count('num_attention_heads', 12),
    imageSize: fields.count('image_size', 224),
    patchSize: fields.count('patch_size', defaults.patchSize),
    layerNormEpsilon: fields.positive('layer_norm_eps', defaults.layerNormEpsilon),
    activation: geluKind(fields, 'hidden_act', defaults.activation),
  };
  if (config.hidden % config.heads !== 0)
    throw fields.wrong('num_attention_heads', `a divisor of hidden_size ${config.hidden}`);
  if (config.patchSize > config.imageSize) throw fields.wrong('patch_size', `at most image_size ${config.imageSize}`);
  return config;
}

/** The image placeholder under either name. @throws when it is no id of the vocabulary */
export function parseImageToken(top: Fields, vocab: number, fallback: number): number {
  const key = top.has('image_token_id') ? 'image_token_id' : 'image_token_index';
  const token = top.integer(key, fallback);
  if (token < 0 || token >= vocab) throw top.wrong(key, `below vocab_size ${vocab}`);
  return token;
}

export function parseLlava(top: Fields): LlavaConfig {
  const vision = parseVision(top.sub('vision_config'));
  const textFields = top.sub('text_config');
  const tiedHead = textFields.flag('tie_word_embeddings', top.flag('tie_word_embeddings', false));
  const text = parseText(textFields, tiedHead, 'llama');
  const layer = top.integer('vision_feature_layer', -2);
  const visionLayers = layer < 0 ? vision.layers + 1 + layer : layer;
  if (visionLayers < 0 || visionLayers > vision.layers)
    throw top.wrong('vision_feature_layer', `between ${-(vision.layers + 1)} and ${vision.layers}`);
  const dropFirstFeature = top.oneOf('vision_feature_select_strategy', ['default', 'full'], 'default') === 'default';
  return {
    family: 'llava',
    vision,
    text,
    projectorActivation: geluKind(top, 'projector_hidden_act', 'gelu'),
    projectorBias: top.flag('multimodal_projector_bias', true),
    visionLayers,
    dropFirstFeature,
    imageToken: parseImageToken(top, text.vocab, 32000),
    tokensPerImage: visionPositions(vision) - (dropFirstFeature ? 1 : 0),
  };
}

export function formatEncoder(vision: VisionConfig, modelType: string): Record<string, unknown> {
  return {
    model_type: modelType,
    hidden_act: HF_GELU[vision.activation],
    hidden_size: vision.hidden,
    intermediate_size: vision.intermediate,
    num_hidden_layers: vision.layers,
    num_attention_heads: vision.heads,
    num_channels: 3,
    image_size: vision.imageSize,
    patch_size: vision.patchSize,
    layer_norm_eps: vision.layerNormEpsilon,
  };
}

export function formatLlava(config: LlavaConfig): Record<string, unknown> {
  const { vision, text } = config;
  return {
    architectures: ['LlavaForConditionalGeneration'],
    model_type: 'llava',
    ignore_index: -100,
    image_token_index: config.imageToken,
    image_seq_length: config.tokensPerImage,
    multimodal_projector_bias: config.projectorBias,
    projector_hidden_act: HF_GELU[config.projectorActivation],
    vision_feature_layer: config.visionLayers - vision.layers - 1,
    vision_feature_select_strategy: config.dropFirstFeature ? 'default' : 'full',
    tie_word_embeddings: text.tiedHead,
    text_config: formatText(text, text.slidingWindow === undefined ? 'llama' : 'mistral'),
    vision_config: formatEncoder(vision, vision.kind === 'clip' ? 'clip_vision_model' : 'siglip_vision_model'),
  };
}
