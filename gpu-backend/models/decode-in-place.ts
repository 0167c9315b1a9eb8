import { symbol } from '../graph/dim.ts';
import { Graph, type Value } from '../graph/graph.ts';
import type { TextConfig, VlmConfig } from './config.ts';
import { type DecodeOptions, hasPastWindow } from './decode.ts';
import { embedTokens, joinedQkv, layerName, llamaBlock, rotations } from './llama.ts';
import { hasPrefillGraph } from './prefill.ts';
import { declaredWeights, head, type ModelGraph } from './vlm.ts';
import { type AdapterBank, BANK_RANKS, Weights } from './weights.ts';

/** Whether inPlaceGraph can be made: as prefillGraph, and no window is shorter than what the model can be asked. */
export const hasInPlaceGraph = (config: VlmConfig): boolean => hasPrefillGraph(config) && !hasPastWindow(config);

/**
 * One new token a row over an f32 cache that the run itself extends: the outputs `next_k_i`, `next_v_i` must be bound to the memory
 * of the inputs `cache_k_i`, `cache_v_i` (`Session.bind`), so that nothing is copied and nothing needs to be appended. Attention
 * reads what a row has, not what it has room for, in one kernel: the fastest step over short contexts. Over long ones an int8
 * cache is faster (decodeGraph). A row's positions are its places in the cache, without holes. Joined layers, as prefillGraph.
 *
 * Inputs, B rows, T tokens that a row has room for: `ids` [B, 1]; `lengths` [B] i64, tokens of each row before this one, all below
 * T; `cache_k_i`, `cache_v_i` [B, Hkv, T, headDim], keys already rotated; with adapters `adapter_mask` [B, R_lora] and their A and B.
 * Outputs: `logits` [B, V]; `next_k_i`, `next_v_i`, the cache with the new token at `lengths`.
 * @throws where hasInPlaceGraph(config) is false
 */
export function inPlaceGraph(
  config: VlmConfig,
  options: Pick<DecodeOptions, 'storage' | 'adapterTargets'>,
): ModelGraph {
  if (!hasInPlaceGraph(config))
    throw new Error(
      `the attention of this ${config.family} decoder has no graph over a cache in place: use decodeGraph`,
    );
  const text = config.text as TextConfig;
  const { heads, kvHeads, headDim } = text;
  const graph = new Graph();
  const [batch, room] = [symbol('B'), symbol('T')];
  const ids_B1 = graph.input('ids', 'i64', [batch, 1]);
  const lengths_B = graph.input('lengths', 'i64', [batch]);
  const bank: AdapterBank | undefined = options.adapterTargets && {
    targets: options.adapterTargets,
    mask: graph.input('adapter_mask', 'f32', [batch, BANK_RANKS]),
  };
  const w = new Weights(graph, undefined, options.storage, bank, true);
  const { cos, sin } = rotations(graph, text);
  const attrs = { heads, kvHeads, scale: headDim ** -0.5 };
  const grown: { name: string; value: Value }[] = [];
  let h = embedTokens(w, text, ids_B1);
  for (let i = 0; i < text.layers; i++) {
    const x = h;
    const attention = (normed: Value): Value => {
      const cache = ['k', 'v'].map((kind) =>
        graph.input(`cache_${kind}_${i}`, 'f32', [batch, kvHeads, room, headDim]),
      ) as [Value, Value];
      const inputs = [joinedQkv(w, text, layerName(i), normed), ...cache, lengths_B, cos, sin];
      const [o, k, v] = graph.emit('cacheAttention', inputs, attrs) as [Value, Value, Value];
      grown.push({ name: `next_k_${i}`, value: k }, { name: `next_v_${i}`, value: v });
      return o;
    };
    h = graph.scope(`layer${i}`, () => llamaBlock(w, text, layerName(i), x, attention));
  }
  graph.output('logits', head(w, config, h));
  for (const { name, value } of grown) graph.output(name, value);
  return { graph, weights: declaredWeights(w) };
}
