import type { VlmConfig } from './config.ts';
import { familyOf, namesOf } from './family.ts';

/**
 * Canonical weight names, the same for all families, are those of the published Mantis-SigLIP and Mantis-CLIP checkpoints
 * (`language_model.model.*`, `language_model.lm_head`, `multi_modal_projector.*`, `vision_tower.vision_model.*`). transformers 5
 * writes `vision_tower.*` without `vision_model`, and names modules `model.language_model.*`, `model.vision_tower.*`, `lm_head`
 * in memory, which PEFT puts into adapter files. No layout gives one name two meanings, so reading needs no family.
 */
const RULES: readonly (readonly [RegExp, string])[] = [
  [/^model\.language_model\.(?!model\.|lm_head\.)/, 'language_model.model.'],
  [/^model\.language_model\./, 'language_model.'],
  [/^lm_head\./, 'language_model.lm_head.'],
  [/^model\.multi_modal_projector\./, 'multi_modal_projector.'],
  [/^model\.text_model\./, 'language_model.model.'],
  [/^model\.vision_model\./, 'vision_tower.vision_model.'],
  [/^model\.connector\./, 'multi_modal_projector.'],
  [/^(?:model\.)?vision_embed_tokens\./, 'multi_modal_projector.vision_embed_tokens.'],
  [/^(?:model\.)?vision_tower\.(?:vision_model\.)?/, 'vision_tower.vision_model.'],
];

/** Canonical name of a tensor in a checkpoint or adapter file; a name of no known layout comes back as it is. */
export function canonicalName(stored: string): string {
  const name = stored
    .replace(/^base_model\.model\./, '')
    .replace(/\.(lora_[AB])\.default\.weight$/, '.$1.weight')
    // Older PEFT keeps the magnitude as a module, newer as a parameter.
    .replace(/\.lora_magnitude_vector(?:\.default)?(?:\.weight)?$/, '.lora_magnitude_vector');
  for (const [pattern, replacement] of RULES) if (pattern.test(name)) return name.replace(pattern, replacement);
  return name;
}

function rename(canonical: string, table: readonly (readonly [string, string])[]): string {
  const rule = table.find(([prefix]) => canonical.startsWith(prefix));
  return rule === undefined ? canonical : rule[1] + canonical.slice(rule[0].length);
}

/** Name under which the family's checkpoints store a weight. */
export function storedName(canonical: string, family: VlmConfig['family']): string {
  return rename(canonical, namesOf(family).stored);
}

/** Name under which PEFT (over transformers 5) stores an adapter tensor: the inverse of `canonicalName` for adapters. */
export function peftName(canonical: string, family: VlmConfig['family'] = 'llava'): string {
  return `base_model.model.${rename(canonical, namesOf(family).modules)}`;
}

/** Parts of a checkpoint that exist but that no feature or logit depends on: final norm, pooling head, buffers. */
export function isUnusedName(canonical: string, config: VlmConfig): boolean {
  return /(position_ids|rotary_emb\.inv_freq)$/.test(canonical) || familyOf(config).isUnused(canonical, config);
}
