import { mkdir, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import type { VlmConfig } from '../../models/config.ts';
import { writeCheckpoint } from '../../models/load.ts';
import { f32 } from '../../runtime/session.ts';
import { formatRecipe } from '../../vision/recipes.ts';
import type { ParameterState } from '../state.ts';
import { nanoImageRecipe } from './recipe.ts';

/**
 * Writes the model as a Hugging Face folder: config.json, model.safetensors, tokenizer.json, tokenizer_config.json,
 * preprocessor_config.json, generation_config.json.
 */
export async function exportNano(
  dir: string,
  state: ParameterState,
  parts: { readonly config: VlmConfig; readonly tokenizerJson: unknown; readonly template: string },
): Promise<void> {
  await mkdir(dir, { recursive: true });
  const { config } = parts;
  const weights = new Map(state.parameters.map((p) => [p.name, f32(p.value, p.shape)]));
  await writeCheckpoint(dir, { config, weights });
  const files: Readonly<Record<string, unknown>> = {
    'tokenizer.json': parts.tokenizerJson,
    'tokenizer_config.json': {
      tokenizer_class: 'PreTrainedTokenizerFast',
      bos_token: '<|begin_of_text|>',
      eos_token: '<|eot_id|>',
      pad_token: '<|pad|>',
      model_max_length: config.text.maxPositions,
      mantis_template: parts.template,
    },
    'preprocessor_config.json': formatRecipe(nanoImageRecipe(config.vision.imageSize)),
    'generation_config.json': {
      bos_token_id: config.text.bosToken,
      eos_token_id: config.text.eosTokens,
      pad_token_id: config.text.padToken,
      max_new_tokens: 64,
      do_sample: false,
    },
  };
  for (const [name, content] of Object.entries(files))
    await writeFile(join(dir, name), `${JSON.stringify(content, null, 1)}\n`);
}
