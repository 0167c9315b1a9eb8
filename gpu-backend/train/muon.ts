import * as g from '../graph/builder.ts';
import { Graph, type Value } from '../graph/graph.ts';
import { scalar } from '../graph/ops/infer.ts';
import { f32, Session, type Tensor } from '../runtime/session.ts';
import { ADAMW_DEFAULTS, type AdamWOptions, adamwScalars, clipScale, type DecayRule, decaysUnder } from './adamw.ts';
import type { CollatedBatch } from './batch.ts';
import { type ParameterSpec, ParameterState } from './state.ts';
import type { GradientComputer, StepTotals } from './trainer.ts';

/** Momentum of Muon (Jordan et al., 2024, kellerjordan.github.io/posts/muon). */
const MOMENTUM = 0.95;
/** Newton-Schulz iteration of fifth order: coefficients and number of steps of the same source. */
const [A, B, C] = [3.4445, -4.775, 2.0315];
const ITERATIONS = 5;
/** Size of the update relative to AdamW's, so that one learning rate serves both (Liu et al., 2025, arXiv 2502.16982). */
const UPDATE_RMS = 0.2;

/** Whether Muon updates this tensor: hidden matrices; embeddings, the output layer, patches, norms and biases stay with AdamW. */
export const isMuonTensor = ({ name, shape }: ParameterSpec): boolean =>
  shape.length === 2 && !/embed|lm_head|norm/.test(name);

/** Matrices of one shape, which one batched product serves. `wide`: rows at most columns, transposed where they are not. */
interface Stack {
  readonly names: readonly string[];
  readonly rows: number;
  readonly columns: number;
  /** [N, rows, columns] */
  readonly direction: Float32Array;
}

/**
 * [N, R, C] → the nearest semi-orthogonal matrices, roughly: singular values between 0.7 and 1.2.
 */
function orthogonalized(graph: Graph, matrices: Value, rows: number, columns: number): Value {
  const turned = rows > columns;
  let x = turned ? g.transpose(graph, matrices, [0, 2, 1]) : matrices;
  const norm = g.sqrt(graph, g.reduceSum(graph, g.mul(graph, x, x), [1, 2], true));
  x = g.div(graph, x, g.add(graph, norm, scalar(graph, 1e-7)));
  for (let i = 0; i < ITERATIONS; i++) {
    const gram = g.matmul(graph, x, x, { transB: true });
    const mixed = g.add(graph, g.scale(graph, gram, B), g.scale(graph, g.matmul(graph, gram, gram), C));
    x = g.add(graph, g.scale(graph, x, A), g.matmul(graph, mixed, x));
  }
  return turned ? g.transpose(graph, x, [0, 2, 1]) : x;
}

/**
 * A state whose hidden matrices are updated by Muon and whose other tensors by AdamW. The momentum lies where AdamW has its first
 * moment, so checkpoints are of the same form, and a run may change from one optimizer to the other between two steps.
 */
export class MuonState extends ParameterState {
  private readonly stacks: readonly Stack[];
  private readonly session: Session;
  private directions: ReadonlyMap<string, Float32Array> = new Map();

  private constructor(specs: readonly ParameterSpec[], stacks: readonly Stack[], session: Session) {
    super(specs);
    this.stacks = stacks;
    this.session = session;
  }

  /** @param threads kernel threads of the orthogonalisation */
  static async create(specs: readonly ParameterSpec[], threads: number): Promise<MuonState> {
    const byShape = new Map<string, ParameterSpec[]>();
    for (const spec of specs.filter(isMuonTensor)) {
      const key = spec.shape.join('x');
      byShape.set(key, [...(byShape.get(key) ?? []), spec]);
    }
    const graph = new Graph();
    const stacks = [...byShape].map(([key, members]): Stack => {
      const [rows = 0, columns = 0] = members[0]?.shape ?? [];
      const input = graph.input(key, 'f32', [members.length, rows, columns]);
      graph.output(`direction.${key}`, orthogonalized(graph, input, rows, columns));
      const direction = new Float32Array(members.length * rows * columns);
      return { names: members.map(({ name }) => name), rows, columns, direction };
    });
    return new MuonState(specs, stacks, await Session.create(graph, { threads }));
  }

  /** Orthogonalises the update that the gradients held would make; `update` then applies it. Changes nothing else. */
  async prepare(maxNorm: number): Promise<void> {
    const clip = clipScale(this.gradientNorm(), maxNorm);
    if (!Number.isFinite(clip)) return;
    const feeds: Record<string, Tensor> = {};
    for (const { names, rows, columns, direction } of this.stacks) {
      names.forEach((name, n) => {
        const { grad, firstMoment } = this.get(name);
        const at = n * rows * columns;
        for (let i = 0; i < grad.length; i++) {
          const fresh = (1 - MOMENTUM) * clip * (grad[i] as number);
          // Nesterov: the momentum as it will be, and the gradient once more.
          direction[at + i] = MOMENTUM * (MOMENTUM * (firstMoment[i] as number) + fresh) + fresh;
        }
      });
      feeds[`${rows}x${columns}`] = f32(direction, [names.length, rows, columns]);
    }
    const results = await this.session.run(feeds);
    const directions = new Map<string, Float32Array>();
    for (const { names, rows, columns } of this.stacks) {
      const data = results[`direction.${rows}x${columns}`]?.data as Float32Array;
      names.forEach((name, n) => {
        directions.set(name, data.subarray(n * rows * columns, (n + 1) * rows * columns));
      });
    }
    this.directions = directions;
  }

  /** @throws Error when the gradients were not prepared */
  override update(
    learningRate: number | ((name: string) => number),
    options: { readonly adamw?: Partial<AdamWOptions>; readonly maxNorm?: number; readonly decay?: DecayRule } = {},
  ): { norm: number; applied: boolean } {
    const norm = this.gradientNorm();
    if (!Number.isFinite(norm)) return { norm, applied: false };
    // Before anything is changed.
    if (this.directions.size === 0 && this.stacks.length > 0) throw new Error('the gradients held were not prepared');
    const adamw = { ...ADAMW_DEFAULTS, ...options.adamw };
    const clip = clipScale(norm, options.maxNorm ?? Number.POSITIVE_INFINITY);
    this.step++;
    for (const p of this.parameters) {
      const rate = typeof learningRate === 'number' ? learningRate : learningRate(p.name);
      const decays = decaysUnder(options.decay ?? 'matrices', p.name, p.shape);
      if (!isMuonTensor(p)) {
        const scalars = adamwScalars(adamw, this.step, rate, clip, decays);
        p.kernels.adamw(p.value, p.grad, p.firstMoment, p.secondMoment, scalars);
        continue;
      }
      const direction = this.directions.get(p.name) as Float32Array;
      const keep = 1 - (decays ? rate * adamw.weightDecay : 0);
      const size = rate * UPDATE_RMS * Math.sqrt(Math.max(...p.shape));
      const { value, grad, firstMoment } = p;
      for (let i = 0; i < value.length; i++) {
        firstMoment[i] = MOMENTUM * (firstMoment[i] as number) + (1 - MOMENTUM) * clip * (grad[i] as number);
        value[i] = keep * (value[i] as number) - size * (direction[i] as number);
      }
    }
    this.directions = new Map();
    return { norm, applied: true };
  }
}

/** A computer that leaves the gradients ready for `MuonState.update`. */
export function preparing(inner: GradientComputer, state: MuonState, maxNorm: number): GradientComputer {
  return {
    async accumulate(given, batches: readonly CollatedBatch[]): Promise<StepTotals> {
      const totals = await inner.accumulate(given, batches);
      await state.prepare(maxNorm);
      return totals;
    },
    release: () => inner.release?.(),
  };
}
