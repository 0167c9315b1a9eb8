import * as g from '../graph/builder.ts';
import type { Value } from '../graph/graph.ts';
import type { LlavaConfig } from './config.ts';
import type { Weights } from './weights.ts';

/** The LLaVA-1.5 projector, a two-layer MLP: features [F, vision hidden] → [F, text hidden]. */
export function projector(w: Weights, config: LlavaConfig, features: Value): Value {
  const { graph } = w;
  const bias = config.projectorBias;
  return graph.scope('projector', () => {
    const h = w.linear(features, 'multi_modal_projector.linear_1', config.text.hidden, { bias });
    return w.linear(
      g.gelu(graph, h, config.projectorActivation),
      'multi_modal_projector.linear_2',
      config.text.hidden,
      { bias },
    );
  });
}
