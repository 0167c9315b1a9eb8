import type { TextConfig } from './config.ts';
import type { Fields } from './config-fields.ts';

/** Defaults are those of the Hugging Face config classes: published files leave out what equals them. */
const DEFAULTS = {
  llama: { intermediate: 11008, kvHeads: undefined, maxPositions: 2048, slidingWindow: undefined },
  mistral: { intermediate: 14336, kvHeads: 8, maxPositions: 131072, slidingWindow: 4096 },
} as const;

/** `rope_theta` where transformers 5 (`rope_parameters`) or older versions write it; scaled variants are refused. */
export function parseRopeTheta(fields: Fields, fallback: number): number {
  const rope = fields.sub('rope_parameters');
  const scaling = fields.sub('rope_scaling');
  rope.oneOf('rope_type', ['default'], 'default');
  scaling.oneOf(scaling.has('type') ? 'type' : 'rope_type', ['default'], 'default');
  return rope.has('rope_theta') ? rope.positive('rope_theta') : fields.positive('rope_theta', fallback);
}

/** `text_config` of a Llama or Mistral decoder. */
export function parseText(fields: Fields, tiedHead: boolean, fallback: 'llama' | 'mistral'): TextConfig {
  const type = fields.oneOf('model_type', ['llama', 'mistral'], fallback);
  const defaults = DEFAULTS[type];
  fields.oneOf('hidden_act', ['silu'], 'silu');
  if (fields.flag('attention_bias', false)) throw fields.wrong('attention_bias', 'false (biases are not supported)');
  if (fields.flag('mlp_bias', false)) throw fields.wrong('mlp_bias', 'false (biases are not supported)');
  const heads = fields.count('num_attention_heads', 32);
  const hidden = fields.count('hidden_size', 4096);
  const kvHeads = fields.count('num_key_value_heads', defaults.kvHeads ?? heads);
  if (heads % kvHeads !== 0) throw fields.wrong('num_key_value_heads', `a divisor of num_attention_heads ${heads}`);
  const headDim = fields.count('head_dim', Math.floor(hidden / heads));
  if (headDim % 2 !== 0) throw fields.wrong('head_dim', 'even (rotary embedding pairs its halves)');
  // null means no window; a Mistral file without the field has its class's window.
  const hasWindow = type === 'mistral' && !fields.isNull('sliding_window');
  return {
    hidden,
    intermediate: fields.count('intermediate_size', defaults.intermediate),
    layers: fields.layers('num_hidden_layers', 32),
    heads,
    kvHeads,
    headDim,
    vocab: fields.count('vocab_size', 32000),
    ropeTheta: parseRopeTheta(fields, 10000),
    rmsNormEpsilon: fields.positive('rms_norm_eps', 1e-6),
    maxPositions: fields.count('max_position_embeddings', defaults.maxPositions),
    tiedHead,
    bosToken: fields.token('bos_token_id'),
    eosTokens: fields.tokens('eos_token_id'),
    padToken: fields.token('pad_token_id'),
    ...(hasWindow ? { slidingWindow: fields.count('sliding_window', defaults.slidingWindow) } : {}),
  };
}

/** The inverse of `parseText`. */
export function formatText(text: TextConfig, type: 'llama' | 'mistral'): Record<string, unknown> {
  return {
    model_type: type,
    hidden_act: 'silu',
    hidden_size: text.hidden,
    intermediate_size: text.intermediate,
    num_hidden_layers: text.layers,
    num_attention_heads: text.heads,
    num_key_value_heads: text.kvHeads,
    head_dim: text.headDim,
    vocab_size: text.vocab,
    rope_theta: text.ropeTheta,
    rms_norm_eps: text.rmsNormEpsilon,
    max_position_embeddings: text.maxPositions,
    tie_word_embeddings: text.tiedHead,
    ...(type === 'llama' ? { attention_bias: false, mlp_bias: false } : { sliding_window: text.slidingWindow ?? null }),
    ...formatTokens(text),
  };
}

export function formatTokens(
  text: Pick<TextConfig, 'bosToken' | 'eosTokens' | 'padToken'>,
): Record<'bos_token_id' | 'eos_token_id' | 'pad_token_id', number | readonly number[] | null> {
  const [eos] = text.eosTokens;
  return {
    bos_token_id: text.bosToken,
    eos_token_id: text.eosTokens.length === 1 && eos !== undefined ? eos : text.eosTokens,
    pad_token_id: text.padToken,
  };
}
