import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { formatVlmConfig, parseVlmConfig } from '../../../gpu-backend/models/config.ts';
import { canonicalName, peftName } from '../../../gpu-backend/models/names.ts';

const fixtures = join(import.meta.dirname, '../../fixtures/checkpoints');
const published = (): Record<string, unknown> =>
  JSON.parse(readFileSync(join(fixtures, 'tiny-siglip/config.json'), 'utf8')) as Record<string, unknown>;
const withText = (change: Record<string, unknown>): unknown => ({
  ...published(),
  text_config: { ...(published().text_config as object), ...change },
});

test('both config layouts give the same kind of dimensions', () => {
  const siglip = parseVlmConfig(published());
  assert.equal(siglip.vision.kind, 'siglip');
  assert.equal(siglip.visionLayers, 1);
  assert.equal(siglip.tokensPerImage, 3); // 2x2 patches of 8 in 20 pixels, the first left out
  assert.equal(siglip.text.tiedHead, true);
  const clip = parseVlmConfig(JSON.parse(readFileSync(join(fixtures, 'tiny-clip/config.json'), 'utf8')));
  assert.ok(clip.family === 'llava');
  assert.equal(clip.vision.activation, 'quick');
  assert.equal(clip.visionLayers, 2);
  assert.equal(clip.tokensPerImage, 5);
  assert.equal(clip.text.ropeTheta, 10000);
});

test('the published checkpoints rely on the defaults of the Hugging Face classes', () => {
  const config = parseVlmConfig({
    model_type: 'llava',
    image_token_index: 128256,
    text_config: {
      model_type: 'llama',
      vocab_size: 128258,
      intermediate_size: 14336,
      num_key_value_heads: 8,
      rope_theta: 500000,
      max_position_embeddings: 8192,
      rms_norm_eps: 1e-5,
    },
    vision_config: {
      model_type: 'siglip_vision_model',
      hidden_size: 1152,
      intermediate_size: 4304,
      num_hidden_layers: 27,
      num_attention_heads: 16,
      image_size: 384,
      patch_size: 14,
    },
  });
  assert.equal(config.tokensPerImage, 728);
  assert.equal(config.visionLayers, 26);
  assert.equal(config.text.headDim, 128);
  assert.equal(config.text.layers, 32);
});

test('a config survives format and parse', () => {
  const config = parseVlmConfig(published());
  assert.deepEqual(parseVlmConfig(formatVlmConfig(config)), config);
});

test('what is not supported is refused by name', () => {
  const refusals: readonly (readonly [unknown, RegExp])[] = [
    [null, /config\.json must be an object/],
    [{ ...published(), model_type: 'idefics3' }, /model_type must be one of llava, idefics2, fuyu, got "idefics3"/],
    [withText({ model_type: 'qwen2' }), /text_config\.model_type must be one of llama, mistral/],
    [withText({ hidden_size: '32' }), /text_config\.hidden_size must be a positive integer, got "32"/],
    [withText({ num_key_value_heads: 3 }), /text_config\.num_key_value_heads must be a divisor/],
    [withText({ rope_scaling: { rope_type: 'yarn', factor: 4 } }), /text_config\.rope_scaling\.rope_type .*"yarn"/],
    [withText({ attention_bias: true }), /text_config\.attention_bias/],
    [{ ...published(), vision_feature_layer: [-2, -5] }, /vision_feature_layer must be an integer/],
    [{ ...published(), vision_feature_layer: -9 }, /vision_feature_layer must be between/],
    [{ ...published(), image_token_index: 64 }, /image_token_index must be below vocab_size 64/],
    [{ ...published(), vision_feature_select_strategy: 'cls' }, /vision_feature_select_strategy must be one of/],
  ];
  for (const [json, message] of refusals) assert.throws(() => parseVlmConfig(json), message);
});

test('a config that asks for a billion layers is refused before any graph is made', () => {
  assert.throws(
    () => parseVlmConfig(withText({ num_hidden_layers: 1e9 })),
    /text_config\.num_hidden_layers must be at most 1024, got 1000000000/,
  );
  const vision = { ...(published().vision_config as object), num_hidden_layers: 1e9 };
  assert.throws(
    () => parseVlmConfig({ ...published(), vision_config: vision }),
    /vision_config\.num_hidden_layers must be at most 1024/,
  );
  for (const model_type of ['fuyu', 'idefics2'])
    assert.throws(
      () =>
        parseVlmConfig({
          model_type,
          ...(model_type === 'fuyu' ? { num_hidden_layers: 1e9 } : { perceiver_config: { resampler_depth: 1e9 } }),
        }),
      /(num_hidden_layers|resampler_depth) must be at most 1024/,
    );
});

test('all key layouts of a weight lead to one canonical name', () => {
  const same = (canonical: string, ...stored: string[]): void => {
    for (const name of [canonical, ...stored]) assert.equal(canonicalName(name), canonical);
  };
  same('language_model.model.layers.3.mlp.up_proj.weight', 'model.language_model.layers.3.mlp.up_proj.weight');
  same('language_model.lm_head.weight', 'lm_head.weight');
  same('multi_modal_projector.linear_1.bias', 'model.multi_modal_projector.linear_1.bias');
  same(
    'vision_tower.vision_model.encoder.layers.0.mlp.fc1.bias',
    'vision_tower.encoder.layers.0.mlp.fc1.bias',
    'model.vision_tower.encoder.layers.0.mlp.fc1.bias',
    'model.vision_tower.vision_model.encoder.layers.0.mlp.fc1.bias',
  );
  same(
    'language_model.model.layers.0.self_attn.q_proj.lora_A.weight',
    'base_model.model.model.language_model.layers.0.self_attn.q_proj.lora_A.weight',
    'base_model.model.language_model.model.layers.0.self_attn.q_proj.lora_A.default.weight',
  );
  const adapter = 'language_model.model.layers.0.self_attn.q_proj.lora_A.weight';
  assert.equal(peftName(adapter), 'base_model.model.model.language_model.layers.0.self_attn.q_proj.lora_A.weight');
  assert.equal(canonicalName(peftName(adapter)), adapter);
});
