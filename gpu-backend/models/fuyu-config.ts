import type { FuyuConfig } from './config.ts';
import type { Fields } from './config-fields.ts';
import { parseImageToken } from './llava-config.ts';
import { formatTokens, parseRopeTheta } from './text-config.ts';

/** Ids of `|SPEAKER|` (stands for a patch) and `|NEWLINE|` (ends a row of patches) in adept/fuyu-8b's vocabulary. */
const SPEAKER = 71011;
const NEWLINE = 71019;

/**
 * The largest picture that the processor gives, in patches: 720x1290 pixels, the resolution that Mantis-Fuyu was tuned with.
 * It only sizes what is told before a picture is seen; pictures of other sizes work.
 */
const MAX_GRID = { rows: 24, columns: 43 };

/** Persimmon decoder over patches. Its dimensions stand in `text_config`, or at the top in files of adept/fuyu-8b's age. */
export function parseFuyu(top: Fields): FuyuConfig {
  const fields = top.has('text_config') ? top.sub('text_config') : top;
  fields.oneOf('model_type', fields === top ? ['fuyu'] : ['persimmon'], fields === top ? 'fuyu' : 'persimmon');
  fields.oneOf('hidden_act', ['relu2'], 'relu2');
  if (top.count('num_channels', 3) !== 3) throw top.wrong('num_channels', '3');
  const heads = fields.count('num_attention_heads', 64);
  const hidden = fields.count('hidden_size', 4096);
  if (hidden % heads !== 0) throw fields.wrong('num_attention_heads', `a divisor of hidden_size ${hidden}`);
  const headDim = hidden / heads;
  const rope = fields.sub('rope_parameters');
  const source = rope.has('partial_rotary_factor') ? rope : fields;
  const factor = source.positive('partial_rotary_factor', 0.5);
  const rotaryDim = Math.trunc(headDim * factor);
  if (rotaryDim % 2 !== 0 || rotaryDim < 2 || rotaryDim > headDim)
    throw source.wrong(
      'partial_rotary_factor',
      `a part of head dimension ${headDim} that is even and at most all of it`,
    );
  const patchSize = top.count('patch_size', 30);
  const vocab = fields.count('vocab_size', 262144);
  const newline = top.integer('image_newline_token_id', NEWLINE < vocab ? NEWLINE : vocab - 1);
  if (newline < 0 || newline >= vocab) throw top.wrong('image_newline_token_id', `below vocab_size ${vocab}`);
  return {
    family: 'fuyu',
    vision: {
      kind: 'patches',
      hidden: 3 * patchSize * patchSize,
      imageSize: top.count('image_size', 300),
      patchSize,
    },
    text: {
      hidden,
      intermediate: fields.count('intermediate_size', 16384),
      layers: fields.layers('num_hidden_layers', 36),
      heads,
      kvHeads: heads,
      headDim,
      vocab,
      ropeTheta: parseRopeTheta(fields, 25000),
      layerNormEpsilon: fields.positive('layer_norm_eps', 1e-5),
      maxPositions: fields.count('max_position_embeddings', 16384),
      tiedHead: fields.flag('tie_word_embeddings', top.flag('tie_word_embeddings', false)),
      bosToken: fields.token('bos_token_id'),
      eosTokens: fields.tokens('eos_token_id'),
      padToken: fields.token('pad_token_id'),
      rotaryDim,
      qkNorm: fields.flag('qk_layernorm', true),
    },
    newlineToken: newline,
    visionLayers: 0,
    imageToken: parseImageToken(top, vocab, SPEAKER < vocab ? SPEAKER : vocab - 1),
    tokensPerImage: MAX_GRID.rows * (MAX_GRID.columns + 1),
  };
}

export function formatFuyu(config: FuyuConfig): Record<string, unknown> {
  const { vision, text } = config;
  const rotary = (text.rotaryDim ?? text.headDim) / text.headDim;
  const decoder = {
    hidden_act: 'relu2',
    hidden_size: text.hidden,
    intermediate_size: text.intermediate,
    num_hidden_layers: text.layers,
    num_attention_heads: text.heads,
    vocab_size: text.vocab,
    rope_theta: text.ropeTheta,
    partial_rotary_factor: rotary,
    rope_parameters: { rope_type: 'default', rope_theta: text.ropeTheta, partial_rotary_factor: rotary },
    layer_norm_eps: text.layerNormEpsilon,
    max_position_embeddings: text.maxPositions,
    qk_layernorm: text.qkNorm,
    tie_word_embeddings: text.tiedHead,
    ...formatTokens(text),
  };
  return {
    architectures: ['FuyuForCausalLM'],
    model_type: 'fuyu',
    image_size: vision.imageSize,
    patch_size: vision.patchSize,
    num_channels: 3,
    image_token_id: config.imageToken,
    // Our own field: the published processor looks |NEWLINE| up in its tokenizer.
    image_newline_token_id: config.newlineToken,
    // transformers takes the decoder's dimensions from text_config and those of the patch layer from the top.
    ...decoder,
    text_config: { model_type: 'persimmon', ...decoder },
  };
}
