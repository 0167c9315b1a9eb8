/** Hugging Face `config.json` of LLaVA-type checkpoints (Mantis-SigLIP, Mantis-CLIP and relatives) → typed dimensions. */

export type GeluKind = 'erf' | 'tanh' | 'quick';

export interface VisionConfig {
  /** `clip`: class token, pre-norm, no bias on the patch convolution. `siglip`: none of these, and a bias. */
  readonly kind: 'clip' | 'siglip';
  readonly hidden: number;
  readonly intermediate: number;
  /** Encoder layers in the checkpoint; only `VlmConfig.visionLayers` of them are used. */
  readonly layers: number;
  readonly heads: number;
  /** Side of the square input picture, pixels. */
  readonly imageSize: number;
  readonly patchSize: number;
  readonly layerNormEpsilon: number;
  readonly activation: GeluKind;
}

export interface TextConfig {
  readonly hidden: number;
  readonly intermediate: number;
  readonly layers: number;
  readonly heads: number;
  readonly kvHeads: number;
  readonly headDim: number;
  readonly vocab: number;
  readonly ropeTheta: number;
  readonly rmsNormEpsilon: number;
  readonly maxPositions: number;
  /** The output head is the embedding matrix. */
  readonly tiedHead: boolean;
  readonly bosToken: number | null;
  readonly eosTokens: readonly number[];
  readonly padToken: number | null;
}

export interface VlmConfig {
  readonly vision: VisionConfig;
  readonly text: TextConfig;
  readonly projectorActivation: GeluKind;
  readonly projectorBias: boolean;
  /** Encoder layers that are computed: features are the hidden state after this many (`vision_feature_layer`). */
  readonly visionLayers: number;
  /** Select strategy `default`: the first position is left out (CLIP's class token; a real patch with SigLIP). */
  readonly dropFirstFeature: boolean;
  readonly imageToken: number;
  /** Feature rows that one picture takes in the text sequence. */
  readonly tokensPerImage: number;
}

type Json = Readonly<Record<string, unknown>>;

function isObject(value: unknown): value is Json {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}

/** Reads fields of one JSON object and names the whole path in errors. */
class Fields {
  constructor(
    private readonly object: Json,
    private readonly path: string,
  ) {}

  private name(key: string): string {
    return this.path === '' ? key : `${this.path}.${key}`;
  }

  has(key: string): boolean {
    return this.object[key] !== undefined && this.object[key] !== null;
  }

  sub(key: string): Fields {
    const value = this.object[key] ?? {};
    if (!isObject(value)) throw this.wrong(key, 'an object');
    return new Fields(value, this.name(key));
  }

  wrong(key: string, expected: string): Error {
    return new Error(`config.json: ${this.name(key)} must be ${expected}, got ${JSON.stringify(this.object[key])}`);
  }

  count(key: string, fallback?: number): number {
    const value = this.object[key] ?? fallback;
    if (typeof value !== 'number' || !Number.isInteger(value) || value < 1) throw this.wrong(key, 'a positive integer');
    return value;
  }

  integer(key: string, fallback?: number): number {
    const value = this.object[key] ?? fallback;
    if (typeof value !== 'number' || !Number.isInteger(value)) throw this.wrong(key, 'an integer');
    return value;
  }

  positive(key: string, fallback?: number): number {
    const value = this.object[key] ?? fallback;
    if (typeof value !== 'number' || !(value > 0) || !Number.isFinite(value))
      throw this.wrong(key, 'a positive number');
    return value;
  }

  flag(key: string, fallback: boolean): boolean {
    const value = this.object[key] ?? fallback;
    if (typeof value !== 'boolean') throw this.wrong(key, 'true or false');
    return value;
  }

  oneOf<T extends string>(key: string, allowed: readonly T[], fallback?: T): T {
    const value = this.object[key] ?? fallback;
    const found = allowed.find((a) => a === value);
    if (found === undefined) throw this.wrong(key, `one of ${allowed.join(', ')}`);
    return found;
  }

  token(key: string): number | null {
    return this.has(key) ? this.integer(key) : null;
  }

  tokens(key: string): number[] {
    const value = this.object[key] ?? [];
    const list: unknown[] = Array.isArray(value) ? value : [value];
    return list.map((v) => {
      if (typeof v !== 'number' || !Number.isInteger(v)) throw this.wrong(key, 'a token id or a list of them');
      return v;
    });
  }
}

const GELU: Readonly<Record<string, GeluKind>> = {
  gelu: 'erf',
  gelu_pytorch_tanh: 'tanh',
  gelu_new: 'tanh',
  quick_gelu: 'quick',
};

function geluKind(fields: Fields, key: string, fallback: string): GeluKind {
  const kind = GELU[fields.oneOf(key, Object.keys(GELU), fallback)];
  if (kind === undefined) throw fields.wrong(key, `one of ${Object.keys(GELU).join(', ')}`);
  return kind;
}

// Defaults below are those of the Hugging Face config classes: published files leave out what equals them.

function parseVision(fields: Fields): VisionConfig {
  const type = fields.oneOf('model_type', ['clip_vision_model', 'siglip_vision_model'], 'clip_vision_model');
  const kind = type === 'clip_vision_model' ? 'clip' : 'siglip';
  if (fields.count('num_channels', 3) !== 3) throw fields.wrong('num_channels', '3');
  const config: VisionConfig = {
    kind,
    hidden: fields.count('hidden_size', 768),
    intermediate: fields.count('intermediate_size', 3072),
    layers: fields.count('num_hidden_layers', 12),
    heads: fields.count('num_attention_heads', 12),
    imageSize: fields.count('image_size', 224),
    patchSize: fields.count('patch_size', kind === 'clip' ? 32 : 16),
    layerNormEpsilon: fields.positive('layer_norm_eps', kind === 'clip' ? 1e-5 : 1e-6),
    activation: geluKind(fields, 'hidden_act', kind === 'clip' ? 'quick_gelu' : 'gelu_pytorch_tanh'),
  };
  if (config.hidden % config.heads !== 0)
    throw fields.wrong('num_attention_heads', `a divisor of hidden_size ${config.hidden}`);
  if (config.patchSize > config.imageSize) throw fields.wrong('patch_size', `at most image_size ${config.imageSize}`);
  return config;
}

function parseText(fields: Fields, tiedHead: boolean): TextConfig {
  fields.oneOf('model_type', ['llama'], 'llama');
  fields.oneOf('hidden_act', ['silu'], 'silu');
  if (fields.flag('attention_bias', false)) throw fields.wrong('attention_bias', 'false (biases are not supported)');
  if (fields.flag('mlp_bias', false)) throw fields.wrong('mlp_bias', 'false (biases are not supported)');
  // transformers 5 writes rope_parameters, older versions rope_theta and rope_scaling.
  const rope = fields.sub('rope_parameters');
  const scaling = fields.sub('rope_scaling');
  rope.oneOf('rope_type', ['default'], 'default');
  scaling.oneOf(scaling.has('type') ? 'type' : 'rope_type', ['default'], 'default');
  const heads = fields.count('num_attention_heads', 32);
  const hidden = fields.count('hidden_size', 4096);
  const kvHeads = fields.count('num_key_value_heads', heads);
  if (heads % kvHeads !== 0) throw fields.wrong('num_key_value_heads', `a divisor of num_attention_heads ${heads}`);
  const headDim = fields.count('head_dim', Math.floor(hidden / heads));
  if (headDim % 2 !== 0) throw fields.wrong('head_dim', 'even (rotary embedding pairs its halves)');
  return {
    hidden,
    intermediate: fields.count('intermediate_size', 11008),
    layers: fields.count('num_hidden_layers', 32),
    heads,
    kvHeads,
    headDim,
    vocab: fields.count('vocab_size', 32000),
    ropeTheta: rope.has('rope_theta') ? rope.positive('rope_theta') : fields.positive('rope_theta', 10000),
    rmsNormEpsilon: fields.positive('rms_norm_eps', 1e-6),
    maxPositions: fields.count('max_position_embeddings', 2048),
    tiedHead,
    bosToken: fields.token('bos_token_id'),
    eosTokens: fields.tokens('eos_token_id'),
    padToken: fields.token('pad_token_id'),
  };
}

/** Patches along one side; the convolution drops the pixels that do not fill one. */
export function patchGrid(vision: VisionConfig): number {
  return Math.floor(vision.imageSize / vision.patchSize);
}

/** Positions in the vision transformer: patches, and CLIP's class token. */
export function visionPositions(vision: VisionConfig): number {
  return patchGrid(vision) ** 2 + (vision.kind === 'clip' ? 1 : 0);
}

/**
 * Parses the `config.json` of a LLaVA-type checkpoint, in the layout of the published Mantis checkpoints or the one that
 * transformers 5 writes.
 * @throws Error that names the field, what was expected and what came, for anything outside the supported families.
 */
export function parseVlmConfig(json: unknown): VlmConfig {
  if (!isObject(json)) throw new Error(`config.json must be an object, got ${JSON.stringify(json)?.slice(0, 80)}`);
  const top = new Fields(json, '');
  top.oneOf('model_type', ['llava']);
  const vision = parseVision(top.sub('vision_config'));
  const textFields = top.sub('text_config');
  const text = parseText(textFields, textFields.flag('tie_word_embeddings', top.flag('tie_word_embeddings', false)));
  const layer = top.integer('vision_feature_layer', -2);
  const visionLayers = layer < 0 ? vision.layers + 1 + layer : layer;
  if (visionLayers < 0 || visionLayers > vision.layers)
    throw top.wrong('vision_feature_layer', `between ${-(vision.layers + 1)} and ${vision.layers}`);
  const dropFirstFeature = top.oneOf('vision_feature_select_strategy', ['default', 'full'], 'default') === 'default';
  const imageToken = top.has('image_token_id')
    ? top.integer('image_token_id')
    : top.integer('image_token_index', 32000);
  if (imageToken < 0 || imageToken >= text.vocab)
    throw top.wrong(
      top.has('image_token_id') ? 'image_token_id' : 'image_token_index',
      `below vocab_size ${text.vocab}`,
    );
  return {
    vision,
    text,
    projectorActivation: geluKind(top, 'projector_hidden_act', 'gelu'),
    projectorBias: top.flag('multimodal_projector_bias', true),
    visionLayers,
    dropFirstFeature,
    imageToken,
    tokensPerImage: visionPositions(vision) - (dropFirstFeature ? 1 : 0),
  };
}

const HF_GELU: Readonly<Record<GeluKind, string>> = { erf: 'gelu', tanh: 'gelu_pytorch_tanh', quick: 'quick_gelu' };

/** The inverse of `parseVlmConfig`: a `config.json` in the layout of the published checkpoints, every field explicit. */
export function formatVlmConfig(config: VlmConfig): Record<string, unknown> {
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
    text_config: {
      model_type: 'llama',
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
      attention_bias: false,
      mlp_bias: false,
      bos_token_id: text.bosToken,
      eos_token_id: text.eosTokens.length === 1 ? text.eosTokens[0] : text.eosTokens,
      pad_token_id: text.padToken,
    },
    vision_config: {
      model_type: vision.kind === 'clip' ? 'clip_vision_model' : 'siglip_vision_model',
      hidden_act: HF_GELU[vision.activation],
      hidden_size: vision.hidden,
      intermediate_size: vision.intermediate,
      num_hidden_layers: vision.layers,
      num_attention_heads: vision.heads,
      num_channels: 3,
      image_size: vision.imageSize,
      patch_size: vision.patchSize,
      layer_norm_eps: vision.layerNormEpsilon,
    },
  };
}
