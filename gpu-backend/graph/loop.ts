import type { Capabilities } from './capabilities.ts';
import type { Graph } from './graph.ts';
import { type FixedWeights, lowerGraph, type OnnxModel, type OnnxValueInfo } from './lowering.ts';
import { liveNodes } from './passes.ts';

/**
 * A graph that runs several times in one run, as ONNX Loop: what is carried from one iteration to the next never leaves the
 * device. Inputs of the body that are not carried are read by every iteration and cross to the device once.
 *
 * As a model it has the input `steps` [] i64 (most iterations), the inputs of the body (the carried ones hold the first values),
 * and as outputs the last values of what is carried, and what is stacked: one slice an iteration that ran, on a new first axis.
 */
export class LoopGraph {
  readonly outputs: readonly { readonly name: string }[];

  /**
   * @param body graph of one iteration
   * @param carried output → input of the body, of one type; sizes of axes may differ (a cache grows)
   * @param stacked outputs of the body, of the same shape in every iteration
   * @param goOn output [] bool of the body: whether there is another iteration
   */
  constructor(
    readonly body: Graph,
    readonly carried: ReadonlyMap<string, string>,
    readonly stacked: readonly string[],
    readonly goOn: string,
  ) {
    const output = (name: string) => {
      const value = body.outputs.find((o) => o.name === name)?.value;
      if (value === undefined) throw new Error(`the loop's body has no output "${name}"`);
      return value;
    };
    for (const [from, to] of carried) {
      const input = body.inputs.find((i) => i.name === to);
      const source = output(from);
      if (input === undefined || input.kind !== 'data') throw new Error(`the loop's body has no data input "${to}"`);
      if (input.value.dtype !== source.dtype || input.value.shape.length !== source.shape.length)
        throw new Error(`"${from}" cannot be carried to "${to}": their types differ`);
    }
    const condition = output(goOn);
    if (condition.dtype !== 'bool' || condition.shape.length !== 0)
      throw new Error(`"${goOn}" must be bool [], got ${condition.dtype} of ${condition.shape.length} axes`);
    for (const name of stacked) output(name);
    this.outputs = [...carried.keys(), ...stacked].map((name) => ({ name }));
  }
}

const STEPS: OnnxValueInfo = { name: 'steps', dtype: 'i64', shape: [] };

/** A loop → ONNX model for one device; see LoopGraph for its inputs and outputs. */
export function lowerLoop(loop: LoopGraph, capabilities: Capabilities, fixed: FixedWeights = {}): OnnxModel {
  const { body, carried, stacked, goOn } = loop;
  // Not ordered for release as a whole model is: nodes of a subgraph must stand in topological order.
  const model = lowerGraph(body, capabilities, liveNodes(body), fixed);
  const outputNames = [goOn, ...carried.keys(), ...stacked];
  const carriedInputs = new Set(carried.values());
  // Names of the body must not hide those of the model around it.
  const own = new Set([...carriedInputs, ...outputNames]);
  const inner = (name: string): string => (own.has(name) ? `body.${name}` : name);
  const infoOf = (list: readonly OnnxValueInfo[], name: string): OnnxValueInfo => {
    const info = list.find((i) => i.name === name);
    if (info === undefined) throw new Error(`internal: the lowered body has no "${name}"`);
    return info;
  };
  const outputs = outputNames.map((name) => infoOf(model.outputs, name));
  return {
    inputs: [STEPS, ...model.inputs],
    outputs: outputs.slice(1).map((info) => {
      // How long a carried axis has become, and how many slices there are, is known at run time alone.
      const shape = info.shape.map((size, axis) => (typeof size === 'number' ? size : `${info.name}.${axis}`));
      return { ...info, shape: stacked.includes(info.name) ? ['iterations', ...shape] : shape };
    }),
    // Of the outer graph: read by every iteration, and packed or uploaded once.
    initializers: model.initializers,
    externals: model.externals,
    nodes: [
      {
        opType: 'Loop',
        domain: '',
        name: 'loop',
        inputs: [STEPS.name, '', ...carried.values()],
        outputs: outputNames.slice(1),
        attrs: {
          body: {
            graph: {
              inputs: [
                { name: 'body.iteration', dtype: 'i64', shape: [] },
                { name: 'body.condition', dtype: 'bool', shape: [] },
                ...[...carried.values()].map((name) => {
                  const info = infoOf(model.inputs, name);
                  return { ...info, name: inner(name) };
                }),
              ],
              outputs: outputs.map((info) => ({ ...info, name: inner(info.name) })),
              nodes: model.nodes.map((node) => ({
                ...node,
                inputs: node.inputs.map(inner),
                outputs: node.outputs.map(inner),
              })),
            },
          },
        },
      },
    ],
  };
}
