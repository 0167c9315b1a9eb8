import * as g from '../graph/builder.ts';
import { type Dim, mulDims } from '../graph/dim.ts';
import type { Value } from '../graph/graph.ts';
import type { LlavaConfig, VisionConfig } from './config.ts';
import { patchGrid, visionPositions } from './patch-grid.ts';
import { toHeads, type Weights } from './weights.ts';

export const PREFIX = 'vision_tower.vision_model';

/** The patch convolution as a matrix product: flattened patches [M, 3·p·p] → [M, hidden]. */
export function patchLinear(w: Weights, vision: VisionConfig, patches: Value): Value {
  const { graph } = w;
  const { patchSize: p, hidden } = vision;
  const kernel = g.reshape(graph, w.get(`${PREFIX}.embeddings.patch_embedding.weight`, [hidden, 3, p, p]), [
    hidden,
    3 * p * p,
  ]);
  const bias = vision.kind === 'siglip' ? w.get(`${PREFIX}.embeddings.patch_embedding.bias`, [hidden]) : undefined;
  return g.linear(graph, patches, kernel, bias);
}

/**
 * Cuts pictures into patches and embeds them: pixels [N, 3, H, W] → [N, positions, hidden], with position embeddings and
 * CLIP's class token in front. The strided convolution of the checkpoint is a matrix product over flattened patches; as
 * in the convolution, pixels right and below the last whole patch are not looked at.
 */
function embedPatches(w: Weights, vision: VisionConfig, pixels_NCHW: Value): Value {
  const { graph } = w;
  const images = pixels_NCHW.shape[0] as Dim;
  const { patchSize: p, hidden } = vision;
  const grid = patchGrid(vision);
  const positions = visionPositions(vision);
  let x = pixels_NCHW;
  if (grid * p !== vision.imageSize) {
    x = g.slice(graph, x, 2, 0, grid * p);
    x = g.slice(graph, x, 3, 0, grid * p);
  }
  x = g.reshape(graph, x, [images, 3, grid, p, grid, p]);
  x = g.transpose(graph, x, [0, 2, 4, 1, 3, 5]);
  x = g.reshape(graph, x, [mulDims(images, grid * grid), 3 * p * p]);
  let tokens = g.reshape(graph, patchLinear(w, vision, x), [images, grid * grid, hidden]);
  if (vision.kind === 'clip') {
    const cls = g.reshape(graph, w.get(`${PREFIX}.embeddings.class_embedding`, [hidden]), [1, 1, hidden]);
    const [expanded] = graph.emit('expand', [cls], { shape: [images, 1, hidden] });
    if (expanded === undefined) throw new Error('expand has no output');
    tokens = g.concat(graph, [expanded, tokens], 1);
  }
  return g.add(graph, tokens, w.get(`${PREFIX}.embeddings.position_embedding.weight`, [positions, hidden]));
}

/**
 * One pre-norm encoder layer over x [N·P, hidden]; every position of a picture sees every other.
 * @param bias additive [N, 1, 1, P] that hides the padding of pictures smaller than the batch
 */
export function encoderLayer(
  w: Weights,
  vision: VisionConfig,
  layer: string,
  x: Value,
  images: Dim,
  positions: Dim,
  bias?: Value,
): Value {
  const { graph } = w;
  const { hidden, heads, layerNormEpsilon } = vision;
  const headDim = hidden / heads;
  const norm = (v: Value, name: string): Value =>
    g.layerNorm(
      graph,
      v,
      w.get(`${layer}.${name}.weight`, [hidden]),
      w.get(`${layer}.${name}.bias`, [hidden]),
      layerNormEpsilon,
    );
  const h = norm(x, 'layer_norm1');
  const part = (name: string): Value =>
    toHeads(
      graph,
      w.linear(h, `${layer}.self_attn.${name}_proj`, hidden, { bias: true }),
      images,
      positions,
      heads,
      headDim,
    );
  const o = g.attention(graph, part('q'), part('k'), part('v'), headDim ** -0.5, bias);
  const merged = g.reshape(graph, g.transpose(graph, o, [0, 2, 1, 3]), [mulDims(images, positions), hidden]);
  const y = w.linear(merged, `${layer}.self_attn.out_proj`, hidden, { bias: true, residual: x });
  const up = w.linear(norm(y, 'layer_norm2'), `${layer}.mlp.fc1`, vision.intermediate, { bias: true });
  return w.linear(g.gelu(graph, up, vision.activation), `${layer}.mlp.fc2`, hidden, { bias: true, residual: y });
}

/**
 * Vision transformer (CLIP or SigLIP): pixels [N, 3, H, W] → features [N·tokensPerImage, hidden], the hidden state after
 * `visionLayers` layers without the final norm, without its first position where the strategy is `default`.
 * Layers, final norm and pooling head that nothing reads are not built.
 */
export function visionTower(w: Weights, config: LlavaConfig, pixels_NCHW: Value, checkpoint = false): Value {
  const { graph } = w;
  const { vision } = config;
  const images = pixels_NCHW.shape[0] as Dim;
  const positions = visionPositions(vision);
  let x = graph.scope('vision/embed', () => embedPatches(w, vision, pixels_NCHW));
  if (vision.kind === 'clip') {
    const name = `${PREFIX}.pre_layrnorm`;
    x = g.layerNorm(
      graph,
      x,
      w.get(`${name}.weight`, [vision.hidden]),
      w.get(`${name}.bias`, [vision.hidden]),
      vision.layerNormEpsilon,
    );
  }
  x = g.reshape(graph, x, [mulDims(images, positions), vision.hidden]);
  for (let i = 0; i < config.visionLayers; i++) {
    const input = x;
    const body = (): Value => encoderLayer(w, vision, `${PREFIX}.encoder.layers.${i}`, input, images, positions);
    x = graph.scope(`vision/layer${i}`, () => (checkpoint ? graph.checkpoint([input], body) : body()));
  }
  if (config.dropFirstFeature)
    x = g.slice(graph, g.reshape(graph, x, [images, positions, vision.hidden]), 1, 1, positions);
  return g.reshape(graph, x, [mulDims(images, config.tokensPerImage), vision.hidden]);
}
