import * as g from '../graph/builder.ts';
import { mulDims, symbol } from '../graph/dim.ts';
import { Graph, type Value } from '../graph/graph.ts';
import type { TextConfig, VlmConfig } from './config.ts';
import { type DecodeOptions, hasPastWindow } from './decode.ts';
import { familyOf } from './family.ts';
import { joinedQkv, layerName, llamaBlock, llamaLayer, rotations } from './llama.ts';
import { declaredWeights, head, type ModelGraph, mergedEmbeddings } from './vlm.ts';
import { type AdapterBank, BANK_RANKS, Weights } from './weights.ts';

/**
 * Whether prefillGraph can be made: the decoder is of the Llama kind, without norms between projection and rotation, and its heads
 * are of a size that the kernel takes.
 */
export function hasPrefillGraph(config: VlmConfig): boolean {
  return familyOf(config).decoderLayer === llamaLayer && config.text.headDim % 16 === 0;
}

/**
 * The first tokens of prompts: as decodeGraph with joined layers and nothing in the cache, with attention that makes no scores it
 * would mask. Faster the longer they are, and the same weights.
 *
 * Inputs, legend as in decodeGraph: `ids` [B, S]; rows shorter than S are padded on the right with any id; `rows` [R], R ≥ 1,
 * flat in B·S; with images `image_features` [F, D], `image_rows` [F]; with adapters `adapter_mask` [B·S, R_lora] and their A and B.
 * Outputs: `logits` [R, V]; `new_k_i`, `new_v_i` [B, Hkv, S, headDim] f32. What stands in the places of padding means nothing.
 * @throws where hasPrefillGraph(config) is false
 */
export function prefillGraph(config: VlmConfig, options: Omit<DecodeOptions, 'kv' | 'joins' | 'lora'>): ModelGraph {
  if (!hasPrefillGraph(config))
    throw new Error(`the attention of a ${config.family} decoder has no prefill graph: use decodeGraph`);
  const text = config.text as TextConfig;
  const { heads, kvHeads, headDim } = text;
  const graph = new Graph();
  const [batch, length] = [symbol('B'), symbol('S')];
  const rows = mulDims(batch, length);
  const ids_BS = graph.input('ids', 'i64', [batch, length]);
  const bank: AdapterBank | undefined = options.adapterTargets && {
    targets: options.adapterTargets,
    mask: graph.input('adapter_mask', 'f32', [rows, BANK_RANKS]),
  };
  const w = new Weights(graph, undefined, options.storage, bank, true);
  const features = options.images ? graph.input('image_features', 'f32', [symbol('F'), text.hidden]) : undefined;
  const wanted = { rows: graph.input('rows', 'i64', [symbol('R')]) };
  let h = mergedEmbeddings(w, config, ids_BS, features);
  const { cos, sin } = rotations(graph, text);
  const attrs = {
    heads,
    kvHeads,
    scale: headDim ** -0.5,
    window: hasPastWindow(config) ? (text.slidingWindow ?? null) : null,
  };
  const made: { name: string; value: Value }[] = [];
  for (let i = 0; i < text.layers; i++) {
    const x = h;
    const attention = (normed: Value): Value => {
      const qkv = joinedQkv(w, text, layerName(i), normed);
      const qkv_BSW = g.reshape(graph, qkv, [batch, length, (heads + 2 * kvHeads) * headDim]);
      const [o, k, v] = graph.emit('groupQueryAttention', [qkv_BSW, cos, sin], attrs) as [Value, Value, Value];
      made.push({ name: `new_k_${i}`, value: k }, { name: `new_v_${i}`, value: v });
      return g.reshape(graph, o, [rows, heads * headDim]);
    };
    const keep = i === text.layers - 1 ? wanted : undefined;
    h = graph.scope(`layer${i}`, () => llamaBlock(w, text, layerName(i), x, attention, keep));
  }
  graph.output('logits', head(w, config, h));
  for (const { name, value } of made) graph.output(name, value);
  return { graph, weights: declaredWeights(w) };
}
