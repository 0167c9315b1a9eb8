import type { Idefics2Config, ResamplerConfig, TextConfig } from './config.ts';
import type { Fields } from './config-fields.ts';
import { formatEncoder, parseEncoder, parseImageToken } from './llava-config.ts';
import { formatText, parseText } from './text-config.ts';

function parseResampler(fields: Fields, text: TextConfig): ResamplerConfig {
  fields.oneOf('hidden_act', ['silu'], 'silu');
  const width = fields.count('hidden_size', text.hidden);
  if (width !== text.hidden) throw fields.wrong('hidden_size', `the hidden_size of text_config, ${text.hidden}`);
  const heads = fields.count('resampler_n_heads', 16);
  const kvHeads = fields.count('num_key_value_heads', 4);
  if (heads % kvHeads !== 0) throw fields.wrong('num_key_value_heads', `a divisor of resampler_n_heads ${heads}`);
  return {
    latents: fields.count('resampler_n_latents', 64),
    depth: fields.layers('resampler_depth', 3),
    heads,
    kvHeads,
    headDim: fields.count('resampler_head_dim', 96),
    // Published files have neither: their class took the decoder's epsilon.
    rmsNormEpsilon: fields.positive('rms_norm_eps', text.rmsNormEpsilon),
  };
}

/** SigLIP encoder with native aspect ratio, resampler, Mistral. */
export function parseIdefics2(top: Fields): Idefics2Config {
  const textFields = top.sub('text_config');
  const tiedHead = textFields.flag('tie_word_embeddings', top.flag('tie_word_embeddings', false));
  const text = parseText(textFields, tiedHead, 'mistral');
  const vision = parseEncoder(top.sub('vision_config'), 'siglip', {
    patchSize: 32,
    layerNormEpsilon: 1e-6,
    activation: 'gelu_pytorch_tanh',
  });
  const resampler = parseResampler(top.sub('perceiver_config'), text);
  if (!top.flag('use_resampler', true))
    throw top.wrong('use_resampler', 'true (models without resampler are not supported)');
  return {
    family: 'idefics2',
    vision,
    text,
    resampler,
    visionLayers: vision.layers,
    imageToken: parseImageToken(top, text.vocab, 32001),
    tokensPerImage: resampler.latents,
  };
}

export function formatIdefics2(config: Idefics2Config): Record<string, unknown> {
  const { vision, text, resampler } = config;
  return {
    architectures: ['Idefics2ForConditionalGeneration'],
    model_type: 'idefics2',
    image_token_id: config.imageToken,
    tie_word_embeddings: text.tiedHead,
    perceiver_config: {
      model_type: 'idefics2_perceiver',
      hidden_act: 'silu',
      hidden_size: text.hidden,
      resampler_n_latents: resampler.latents,
      resampler_depth: resampler.depth,
      resampler_n_heads: resampler.heads,
      resampler_head_dim: resampler.headDim,
      num_key_value_heads: resampler.kvHeads,
      rms_norm_eps: resampler.rmsNormEpsilon,
    },
    text_config: formatText(text, 'mistral'),
    vision_config: formatEncoder(vision, 'idefics2_vision'),
  };
}
