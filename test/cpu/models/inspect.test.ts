import assert from 'node:assert/strict';
import { join } from 'node:path';
import { test } from 'node:test';
import { parseVlmConfig } from '../../../gpu-backend/models/config.ts';
import { inspectConfig, inspectModel } from '../../../gpu-backend/models/inspect.ts';

/** config.json of the published checkpoints as far as their arithmetic needs it; what is left out has the default of its class. */
const LLAMA_3 = {
  model_type: 'llama',
  hidden_size: 4096,
  intermediate_size: 14336,
  num_hidden_layers: 32,
  num_attention_heads: 32,
  num_key_value_heads: 8,
  rms_norm_eps: 1e-5,
  rope_theta: 500000,
  max_position_embeddings: 8192,
  vocab_size: 128258,
  bos_token_id: 128000,
  eos_token_id: 128001,
};
const SIGLIP = {
  model_type: 'llava',
  image_token_index: 128256,
  pad_token_id: 128257,
  projector_hidden_act: 'gelu',
  vision_feature_layer: -2,
  vision_feature_select_strategy: 'default',
  text_config: LLAMA_3,
  vision_config: {
    model_type: 'siglip_vision_model',
    hidden_size: 1152,
    intermediate_size: 4304,
    num_hidden_layers: 27,
    num_attention_heads: 16,
    image_size: 384,
    patch_size: 14,
  },
};
const CLIP = {
  ...SIGLIP,
  vision_config: {
    model_type: 'clip_vision_model',
    hidden_size: 1024,
    intermediate_size: 4096,
    num_hidden_layers: 24,
    num_attention_heads: 16,
    image_size: 336,
    patch_size: 14,
  },
};
const IDEFICS2 = {
  model_type: 'idefics2',
  image_token_id: 32001,
  vision_config: {
    hidden_size: 1152,
    intermediate_size: 4304,
    num_hidden_layers: 27,
    num_attention_heads: 16,
    image_size: 980,
    patch_size: 14,
  },
  perceiver_config: {
    resampler_n_latents: 64,
    resampler_depth: 3,
    resampler_n_heads: 16,
    resampler_head_dim: 96,
    num_key_value_heads: 4,
  },
  text_config: {
    model_type: 'mistral',
    hidden_size: 4096,
    intermediate_size: 14336,
    num_hidden_layers: 32,
    num_attention_heads: 32,
    num_key_value_heads: 8,
    rms_norm_eps: 1e-5,
    max_position_embeddings: 32768,
    vocab_size: 32003,
    pad_token_id: 0,
  },
};

const round = (value: number, digits: number): number => Number(value.toFixed(digits));

test('Mantis-8B-SigLIP: the published arithmetic', () => {
  const r = inspectConfig(parseVlmConfig(SIGLIP), 32);
  assert.equal(r.parameters.total, 8_480_007_232);
  assert.equal(r.parameters.decoder + r.parameters.head, 8_030_277_632);
  assert.equal(r.parameters.vision, 428_225_600);
  assert.equal(r.parameters.projector, 21_504_000);
  assert.equal(r.tokensPerImage, 728);
  assert.equal(r.tokensPerImageWithText, 738);
  assert.equal(r.contextTokens, 8192);
  assert.equal(r.imagesInContext, 11);
  assert.equal(r.kvBytesPerToken.bits16, 131_072);
  assert.equal(r.kvBytesPerToken.bits16 * r.contextTokens, 2 ** 30);
  assert.equal(round(r.flopPerToken / 1e9, 2), 13.96);
  assert.equal(round(r.flopPerImage / 1e12, 2), 0.64);
  // What is read in f32: all but the unused.
  assert.equal(r.weights.f32.fileBytes, 4 * (r.parameters.total - r.parameters.unused));
  // 4 bits and a 32-bit scale for 32 values make 5 bits; embeddings are f16.
  assert.ok(
    r.weights.int4.fileBytes / 1e9 > 5.6 && r.weights.int4.fileBytes / 1e9 < 6.1,
    String(r.weights.int4.fileBytes),
  );
});

test('Mantis-8B-CLIP: the published arithmetic', () => {
  const r = inspectConfig(parseVlmConfig(CLIP), 32);
  assert.equal(r.parameters.total, 8_354_764_800);
  assert.equal(r.parameters.vision, 303_507_456);
  assert.equal(r.parameters.projector, 20_979_712);
  assert.equal(r.tokensPerImage, 576);
  assert.equal(r.tokensPerImageWithText, 586);
  assert.equal(r.imagesInContext, 13);
  assert.equal(round(r.flopPerImage / 1e12, 2), 0.37);
});

test('Mantis-8B-Idefics2: the published arithmetic', () => {
  const r = inspectConfig(parseVlmConfig(IDEFICS2), 32);
  assert.equal(r.parameters.total, 8_402_768_112);
  assert.equal(r.parameters.decoder + r.parameters.head, 7_241_756_672);
  assert.equal(r.parameters.vision, 417_792_240);
  assert.equal(r.parameters.projector, 91_750_400 + 651_468_800);
  assert.equal(r.tokensPerImageWithText, 66);
  assert.equal(r.imagesIn8192, 124);
  assert.equal(r.kvBytesPerToken.bits16, 131_072);
});

test('Mantis-8B-Fuyu: the published arithmetic', () => {
  const r = inspectConfig(parseVlmConfig({ model_type: 'fuyu', text_config: { model_type: 'persimmon' } }), 32);
  assert.equal(round(r.parameters.total / 1e9, 2), 9.41);
  assert.equal(r.tokensPerImage, 1056);
  assert.equal(r.imagesIn8192, 7);
  assert.equal(r.kvBytesPerToken.bits16, 589_824);
});

test('a folder with weights is counted from them', () => {
  const r = inspectModel(join(import.meta.dirname, '../../fixtures/checkpoints/tiny-siglip'));
  assert.equal(r.parameters.from, 'weights');
  assert.ok(r.parameters.unused > 0 && r.parameters.total > r.parameters.unused);
});
