import * as g from '../graph/builder.ts';
import { Graph } from '../graph/graph.ts';
import { scalar } from '../graph/ops/infer.ts';
import { f32, Session } from '../runtime/session.ts';
import { ADAMW_DEFAULTS, type AdamWOptions, adamwScalars, clipScale, type DecayRule, decaysUnder } from './adamw.ts';
import type { Parameter, ParameterState } from './state.ts';

/** Coefficients and number of the Newton–Schulz steps: Jordan et al., Muon, 2024. They bring singular values to about 0.7 … 1.2, not to 1. */
const [A, B, C] = [3.4445, -4.775, 2.0315];
const NEWTON_SCHULZ_STEPS = 5;

export interface MuonOptions {
  /** Of the momentum (Nesterov). */
  readonly momentum: number;
  /** Decoupled, as in AdamW. */
  readonly weightDecay: number;
  /** Root mean square of an update at learning rate 1, so that AdamW's rates and decay serve: Liu et al., Muon is scalable, 2025, section 2.2. */
  readonly updateRms: number;
}

export const MUON_DEFAULTS: MuonOptions = { momentum: 0.95, weightDecay: 0.01, updateRms: 0.2 };

/** Hidden matrices: two axes, no table of embeddings, no head, no patch filter. The others stay with AdamW. */
export function isHiddenMatrix({ name, shape }: Pick<Parameter, 'name' | 'shape'>): boolean {
  return shape.length === 2 && /\.layers\.\d+\./.test(name) && !/embed|norm|lora_/.test(name);
}

/** Matrices of one shape, orthogonalised in one run. `tall`: more rows than columns, so that columns are multiplied. */
interface Group {
  readonly rows: number;
  readonly columns: number;
  readonly parameters: readonly Parameter[];
  readonly input: string;
}

/**
 * Muon: the momentum of every hidden matrix is brought near the closest semi-orthogonal matrix before it is applied, so that all directions of a
 * matrix learn at one pace; everything else is updated by AdamW at the same rate. One Newton–Schulz graph for all matrices, those of a shape as a batch.
 * The momentum lies where AdamW keeps the first moment, so a checkpoint holds it, and a run may change from AdamW to Muon.
 */
export class Muon {
  private constructor(
    private readonly state: ParameterState,
    private readonly session: Session,
    private readonly groups: readonly Group[],
    private readonly options: MuonOptions,
    private readonly adamw: AdamWOptions,
  ) {}

  /** @throws Error when the state has no hidden matrix */
  static async create(
    state: ParameterState,
    options: { readonly muon?: Partial<MuonOptions>; readonly adamw?: Partial<AdamWOptions>; threads?: number } = {},
  ): Promise<Muon> {
    const groups = groupsOf(state.parameters.filter(isHiddenMatrix));
    if (groups.length === 0) throw new Error('Muon: no hidden matrix is trained; use AdamW');
    const session = await Session.create(newtonSchulzGraph(groups), { threads: options.threads ?? 1 });
    const muon = { ...MUON_DEFAULTS, ...options.muon };
    return new Muon(state, session, groups, muon, { ...ADAMW_DEFAULTS, ...options.adamw });
  }

  /**
   * One update of every tensor from the gradients held, clipped to a global norm. A non-finite gradient changes nothing and does not count as a step.
   * @returns the norm before clipping, and whether the update was made
   */
  async update(
    learningRate: (name: string) => number,
    options: { readonly maxNorm?: number; readonly decay?: DecayRule } = {},
  ): Promise<{ norm: number; applied: boolean }> {
    const { state } = this;
    const norm = state.gradientNorm();
    if (!Number.isFinite(norm)) return { norm, applied: false };
    const scale = clipScale(norm, options.maxNorm ?? Number.POSITIVE_INFINITY);
    state.step++;
    const feeds = Object.fromEntries(
      this.groups.map((group) => [group.input, f32(this.momenta(group, scale), shapeOf(group))]),
    );
    const made = await this.session.run(feeds);
    for (const group of this.groups) this.apply(group, made[`new_${group.input}`]?.data as Float32Array, learningRate);
    for (const p of state.parameters) {
      if (isHiddenMatrix(p)) continue;
      const decays = decaysUnder(options.decay ?? 'matrices', p.name, p.shape);
      const scalars = adamwScalars(this.adamw, state.step, learningRate(p.name), scale, decays);
      p.kernels.adamw(p.value, p.grad, p.firstMoment, p.secondMoment, scalars);
    }
    return { norm, applied: true };
  }

  /** Moves the momenta on and gives what Nesterov's rule makes of them, matrix after matrix, of Frobenius norm 1. */
  private momenta({ rows, columns, parameters }: Group, scale: number): Float32Array {
    const { momentum } = this.options;
    const size = rows * columns;
    const all = new Float32Array(size * parameters.length);
    for (const [i, { grad, firstMoment }] of parameters.entries()) {
      let squares = 0;
      const at = i * size;
      for (let k = 0; k < size; k++) {
        const gradient = (grad[k] as number) * scale;
        const moment = momentum * (firstMoment[k] as number) + (1 - momentum) * gradient;
        firstMoment[k] = moment;
        const ahead = momentum * moment + (1 - momentum) * gradient;
        all[at + k] = ahead;
        squares += ahead * ahead;
      }
      const factor = 1 / (Math.sqrt(squares) + 1e-12);
      for (let k = at; k < at + size; k++) all[k] = (all[k] as number) * factor;
    }
    return all;
  }

  private apply(
    { rows, columns, parameters }: Group,
    made: Float32Array,
    learningRate: (name: string) => number,
  ): void {
    const size = rows * columns;
    // A semi-orthogonal matrix has the root mean square 1 / sqrt(max(rows, columns)).
    const reach = this.options.updateRms * Math.sqrt(Math.max(rows, columns));
    for (const [i, { name, value }] of parameters.entries()) {
      const rate = learningRate(name);
      const keep = 1 - rate * this.options.weightDecay;
      const at = i * size;
      for (let k = 0; k < size; k++) value[k] = (value[k] as number) * keep - rate * reach * (made[at + k] as number);
    }
  }
}

const shapeOf = ({ rows, columns, parameters }: Group): number[] => [parameters.length, rows, columns];

function groupsOf(parameters: readonly Parameter[]): Group[] {
  const groups = new Map<string, Parameter[]>();
  for (const parameter of parameters) {
    const key = parameter.shape.join('x');
    groups.set(key, [...(groups.get(key) ?? []), parameter]);
  }
  return [...groups].map(([key, members]) => {
    const [rows = 0, columns = 0] = members[0]?.shape ?? [];
    return { rows, columns, parameters: members, input: `momentum.${key}` };
  });
}

/** X ← aX + (bXXᵀ + c(XXᵀ)²)X, five times, over the shorter side of each matrix. Inputs and outputs [matrices, rows, columns]. */
function newtonSchulzGraph(groups: readonly Group[]): Graph {
  const graph = new Graph();
  for (const group of groups) {
    graph.scope(group.input, () => {
      const isTall = group.rows > group.columns;
      let x = graph.input(group.input, 'f32', shapeOf(group));
      for (let step = 0; step < NEWTON_SCHULZ_STEPS; step++) {
        const square = isTall ? g.matmul(graph, x, x, { transA: true }) : g.matmul(graph, x, x, { transB: true });
        const polynomial = g.add(
          graph,
          g.mul(graph, square, scalar(graph, B)),
          g.matmul(graph, square, square, { alpha: C }),
        );
        const turned = isTall ? g.matmul(graph, x, polynomial) : g.matmul(graph, polynomial, x);
        x = g.add(graph, g.mul(graph, x, scalar(graph, A)), turned);
      }
      graph.output(`new_${group.input}`, x);
    });
  }
  return graph;
}
