import * as g from '../graph/builder.ts';
import type { Graph, Value } from '../graph/graph.ts';
import { scalar } from '../graph/ops/infer.ts';
import { ADAMW_DEFAULTS, type AdamWOptions, type DecayRule, decaysUnder } from './adamw.ts';

/** One tensor to update: its value (an input of the graph) and its gradient (computed by the graph). */
export interface UpdateTarget {
  readonly name: string;
  readonly value: Value;
  readonly grad: Value;
}

export interface AdamWGraphOptions {
  readonly adamw?: Partial<AdamWOptions>;
  readonly decay?: DecayRule;
}

/**
 * AdamW with global-norm clipping as graph operations, for devices on which parameters and moments stay between runs. The same
 * update as ParameterState.update on the host.
 *
 * Adds inputs `first.<name>`, `second.<name>` (moments, of the tensor's shape) and the scalars `learning_rate`,
 * `correction1` = 1 / (1 - beta1^step), `correction2` = 1 / sqrt(1 - beta2^step), `max_norm`.
 * Adds outputs `new.<name>`, `new_first.<name>`, `new_second.<name>`, and `grad_norm` (before clipping).
 *
 * Feed max_norm = 1e30 to switch clipping off, never leave the clip out: through it every new value depends on all
 * gradients, without which a runtime that updates in place may overwrite a weight that another gradient still reads.
 */
export function appendAdamW(graph: Graph, targets: readonly UpdateTarget[], options: AdamWGraphOptions = {}): void {
  const { beta1, beta2, epsilon, weightDecay } = { ...ADAMW_DEFAULTS, ...options.adamw };
  const [learningRate, correction1, correction2, maxNorm] = (
    ['learning_rate', 'correction1', 'correction2', 'max_norm'] as const
  ).map((name) => graph.input(name, 'f32', [])) as [Value, Value, Value, Value];
  const { norm, clip } = graph.scope('clip', () => clipFactor(graph, targets, maxNorm));
  graph.output('grad_norm', norm);
  for (const { name, value, grad } of targets) {
    graph.scope(`adamw/${name}`, () => {
      const shape = grad.shape as readonly number[];
      const first = graph.input(`first.${name}`, 'f32', shape);
      const second = graph.input(`second.${name}`, 'f32', shape);
      const clipped = g.mul(graph, grad, clip);
      const newFirst = g.add(graph, g.scale(graph, first, beta1), g.scale(graph, clipped, 1 - beta1));
      const newSecond = g.add(
        graph,
        g.scale(graph, second, beta2),
        g.scale(graph, g.mul(graph, clipped, clipped), 1 - beta2),
      );
      const root = g.mul(graph, g.sqrt(graph, newSecond), correction2);
      const step = g.div(
        graph,
        g.mul(graph, newFirst, g.mul(graph, learningRate, correction1)),
        g.add(graph, root, scalar(graph, epsilon)),
      );
      const decays = weightDecay > 0 && decaysUnder(options.decay ?? 'matrices', name, shape);
      const kept = decays
        ? g.mul(graph, value, g.sub(graph, scalar(graph, 1), g.scale(graph, learningRate, weightDecay)))
        : value;
      graph.output(`new.${name}`, g.sub(graph, kept, step));
      graph.output(`new_first.${name}`, newFirst);
      graph.output(`new_second.${name}`, newSecond);
    });
  }
}

/** Global norm, and min(1, maxNorm / (norm + 1e-6)) as maxNorm / (maxNorm + relu(norm + 1e-6 - maxNorm)). */
function clipFactor(
  graph: Graph,
  targets: readonly UpdateTarget[],
  maxNorm: Value,
): { readonly norm: Value; readonly clip: Value } {
  const squares = targets.map(({ grad }) =>
    g.reduceSum(
      graph,
      g.mul(graph, grad, grad),
      grad.shape.map((_, axis) => axis),
    ),
  );
  const [head, ...rest] = squares;
  if (head === undefined) throw new Error('there is nothing to update');
  const norm = g.sqrt(
    graph,
    rest.reduce((sum, square) => g.add(graph, sum, square), head),
  );
  const excess = g.sub(graph, g.add(graph, norm, scalar(graph, 1e-6)), maxNorm);
  const [squared] = graph.emit('squaredRelu', [excess], {});
  if (squared === undefined) throw new Error('squaredRelu has no output');
  return { norm, clip: g.div(graph, maxNorm, g.add(graph, maxNorm, g.sqrt(graph, squared))) };
}
