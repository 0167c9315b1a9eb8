import * as g from '../graph/builder.ts';
import { addDims, type Dim, mulDims } from '../graph/dim.ts';
import type { Value } from '../graph/graph.ts';
import type { Idefics2Config } from './config.ts';
import { toHeads, type Weights } from './weights.ts';

const PROJECTION = 'multi_modal_projector.modality_projection';
const RESAMPLER = 'multi_modal_projector.perceiver_resampler';

/** down(silu(gate(x)) · up(x)) without biases: x [M, in] → [M, out]. */
function gatedMlp(w: Weights, module: string, x: Value, intermediate: number, out: number, residual?: Value): Value {
  const gate = g.silu(w.graph, w.linear(x, `${module}.gate_proj`, intermediate));
  const up = w.linear(x, `${module}.up_proj`, intermediate);
  const h = g.mul(w.graph, gate, up);
  return w.linear(h, `${module}.down_proj`, out, residual === undefined ? {} : { residual });
}

/** Gated modality projection of Idefics2: encoder output [M, vision hidden] → [M, text hidden]. */
export function modalityProjection(w: Weights, { text }: Idefics2Config, x: Value): Value {
  return w.graph.scope('projection', () => gatedMlp(w, PROJECTION, x, text.intermediate, text.hidden));
}

/**
 * Perceiver resampler (Idefics2; Jaegle et al., 2021): a fixed number of learned latents reads a picture of any size.
 * Queries are the latents only, keys and values are context ⧺ latents, without position embedding.
 *
 * @param context [N·P, D], P patches a picture
 * @param bias additive [N, 1, 1, P], -1e9 on padding
 * @returns [N·latents, D]
 */
export function perceiverResampler(
  w: Weights,
  config: Idefics2Config,
  context: Value,
  images: Dim,
  patches: Dim,
  bias: Value,
): Value {
  const { graph } = w;
  const { latents: count, depth, rmsNormEpsilon } = config.resampler;
  const D = config.text.hidden;
  const [zeros] = graph.emit('fill', [], { shape: [images, 1, 1, count], value: 0 });
  const start = g.reshape(graph, w.get(`${RESAMPLER}.latents`, [count, D]), [1, count, D]);
  const [expanded] = graph.emit('expand', [start], { shape: [images, count, D] });
  if (zeros === undefined || expanded === undefined) throw new Error('fill and expand have one output');
  const biasWithLatents = g.concat(graph, [bias, zeros], 3);
  let x = g.reshape(graph, expanded, [mulDims(images, count), D]);
  for (let i = 0; i < depth; i++) {
    const input = x;
    x = graph.scope(`resampler${i}`, () =>
      resamplerLayer(w, config, `${RESAMPLER}.layers.${i}`, input, context, images, patches, biasWithLatents),
    );
  }
  return g.rmsNorm(graph, x, w.get(`${RESAMPLER}.norm.weight`, [D]), rmsNormEpsilon);
}

function resamplerLayer(
  w: Weights,
  { text, resampler }: Idefics2Config,
  layer: string,
  x: Value,
  context: Value,
  images: Dim,
  patches: Dim,
  bias: Value,
): Value {
  const { graph } = w;
  const { latents, heads, kvHeads, headDim, rmsNormEpsilon } = resampler;
  const D = text.hidden;
  const norm = (v: Value, name: string): Value =>
    g.rmsNorm(graph, v, w.get(`${layer}.${name}.weight`, [D]), rmsNormEpsilon);
  const own = norm(x, 'input_latents_norm');
  const length = addDims(patches, latents);
  const keys = g.reshape(
    graph,
    g.concat(
      graph,
      [
        g.reshape(graph, norm(context, 'input_context_norm'), [images, patches, D]),
        g.reshape(graph, own, [images, latents, D]),
      ],
      1,
    ),
    [mulDims(images, length), D],
  );
  const part = (v: Value, name: string, rows: Dim, count: number): Value =>
    toHeads(graph, w.linear(v, `${layer}.self_attn.${name}_proj`, count * headDim), images, rows, count, headDim);
  // Grouped queries as a view, so that keys and values are not repeated.
  const q = g.reshape(graph, part(own, 'q', latents, heads), [images, kvHeads, (heads / kvHeads) * latents, headDim]);
  const o = g.attention(
    graph,
    q,
    part(keys, 'k', length, kvHeads),
    part(keys, 'v', length, kvHeads),
    headDim ** -0.5,
    bias,
  );
  const perHead = g.reshape(graph, o, [images, heads, latents, headDim]);
  const merged = g.reshape(graph, g.transpose(graph, perHead, [0, 2, 1, 3]), [
    mulDims(images, latents),
    heads * headDim,
  ]);
  const y = w.linear(merged, `${layer}.self_attn.o_proj`, D, { residual: x });
  return gatedMlp(w, `${layer}.mlp`, norm(y, 'post_attention_layernorm'), 4 * D, D, y);
}
