import type { Dim } from '../dim.ts';
import type { Graph, Node, TensorType, Value } from '../graph.ts';
import type { LowerContext } from '../lowering.ts';
import type { NdArray } from '../nd.ts';
import type { OpAttrs, OpName } from './attrs.ts';

/** What a gradient rule gets: the node, the gradients of its outputs (undefined where nothing flows), and who wants one. */
export interface GradContext<K extends OpName> {
  readonly graph: Graph;
  readonly node: Node<K>;
  readonly attrs: OpAttrs[K];
  readonly inputs: readonly Value[];
  readonly outputs: readonly Value[];
  /** Gradient of the first output; rules of multi-output ops differentiate the first output only. */
  readonly g: Value;
  /** wants[i]: input i leads to a requested gradient. Rules leave the others undefined and emit nothing for them. */
  readonly wants: readonly boolean[];
}

/** All knowledge about one op. A row must be complete: a missing member is a compile error. */
export interface OpRow<K extends OpName> {
  /** Shape and type rule; throws an Error that says what was expected. */
  infer(inputs: readonly TensorType[], attrs: OpAttrs[K]): TensorType[];
  /** Reverse-mode rule: one gradient per input, or 'none' where the op has no gradient by nature. */
  readonly grad: 'none' | ((ctx: GradContext<K>) => (Value | undefined)[]);
  /** ONNX lowering: emits ONNX nodes and returns the names of the outputs. */
  lower(ctx: LowerContext, node: Node<K>): string[];
  /** Reference value in double precision: the definition of truth for this op. */
  reference(inputs: readonly NdArray[], attrs: OpAttrs[K], resolve: (dim: Dim) => number): NdArray[];
}
