/**
 * How adapters are served. `merged`: folded into a copy of the weights they change, which costs that memory and nothing a step.
 * `unmerged`: beside the base's own weights, two small products a layer more. `auto`: LoRA unmerged, so that many fine-tunes of
 * a large base fit; DoRA merged, since its row lengths would be computed anew in every step.
 */
export const ADAPTER_MODES = ['auto', 'merged', 'unmerged'] as const;
export type AdapterMode = (typeof ADAPTER_MODES)[number];
