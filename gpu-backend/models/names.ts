/**
 * Canonical weight names are those of the published Mantis checkpoints (`language_model.model.*`, `language_model.lm_head`,
 * `multi_modal_projector.*`, `vision_tower.vision_model.*`). transformers 5 writes `vision_tower.*` without `vision_model`, and
 * names modules `model.language_model.*`, `model.vision_tower.*`, `lm_head` in memory, which PEFT puts into adapter files.
 */
const RULES: readonly (readonly [RegExp, string])[] = [
  [/^model\.language_model\.(?!model\.|lm_head\.)/, 'language_model.model.'],
  [/^model\.language_model\./, 'language_model.'],
  [/^lm_head\./, 'language_model.lm_head.'],
  [/^model\.multi_modal_projector\./, 'multi_modal_projector.'],
  [/^(?:model\.)?vision_tower\.(?:vision_model\.)?/, 'vision_tower.vision_model.'],
];

/** Canonical name of a tensor in a checkpoint or adapter file; a name of no known layout comes back as it is. */
export function canonicalName(stored: string): string {
  const name = stored.replace(/^base_model\.model\./, '').replace(/\.(lora_[AB])\.default\.weight$/, '.$1.weight');
  for (const [pattern, replacement] of RULES) if (pattern.test(name)) return name.replace(pattern, replacement);
  return name;
}

/** Name under which PEFT (over transformers 5) stores an adapter tensor: the inverse of `canonicalName` for adapters. */
export function peftName(canonical: string): string {
  return `base_model.model.${canonical.replace(/^language_model\.model\./, 'model.language_model.').replace(/^language_model\.lm_head\./, 'lm_head.')}`;
}

/** Parts of a checkpoint that exist but that no feature or logit depends on: final norm, pooling head, buffers. */
export function isUnusedName(canonical: string, visionLayers: number): boolean {
  if (/^vision_tower\.vision_model\.(post_layernorm|head)\./.test(canonical)) return true;
  if (/(position_ids|rotary_emb\.inv_freq)$/.test(canonical)) return true;
  const layer = /^vision_tower\.vision_model\.encoder\.layers\.(\d+)\./.exec(canonical);
  return layer !== null && Number(layer[1]) >= visionLayers;
}
