import type { Capabilities, CapabilityName } from '../graph/capabilities.ts';
import { Graph, type Value } from '../graph/graph.ts';
import { lowerGraph } from '../graph/lowering.ts';
import type { NdArray } from '../graph/nd.ts';
import { emitCase, type OpCase } from './conformance-cases.ts';
import { DEVICE_CASES } from './conformance-device-cases.ts';
import { randomOperand, randomSource } from './conformance-operands.ts';
import type { Placement } from './device.ts';
import { interpret } from './interpreter.ts';
import { Session, type Tensor } from './session.ts';

const SEED = 11;

/** The operands of a case as inputs `x0`, `x1`, …, its results as outputs `y0`, `y1`, … */
export function caseGraph(c: OpCase): Graph {
  const graph = new Graph();
  const inputs = c.inputs.map((s, i) => graph.input(`x${i}`, s.dtype, s.shape));
  emitCase(graph, c, inputs).forEach((y, i) => graph.output(`y${i}`, y));
  return graph;
}

/** A reference value as a session takes it. */
export function toTensor({ dtype }: Pick<Value, 'dtype'>, { shape, data }: NdArray): Tensor {
  switch (dtype) {
    case 'f32':
      return { dtype, shape, data: Float32Array.from(data) };
    case 'i64':
      return { dtype, shape, data: BigInt64Array.from(data, BigInt) };
    case 'i8':
      return { dtype, shape, data: Int8Array.from(data) };
    case 'u8':
    case 'bool':
      return { dtype, shape, data: Uint8Array.from(data) };
    case 'f16':
      throw new Error('op cases have no f16 operands: the interpreter computes in double precision');
  }
}

/**
 * Runs one device case where a placement says and compares it with the interpreter.
 * @returns the largest |difference| of any output, over the largest |value| of that output (at least 1); NaN where one is
 */
export async function compareCase(index: number, placement: Placement): Promise<number> {
  const c = DEVICE_CASES[index];
  if (c === undefined) throw new Error(`there are ${DEVICE_CASES.length} device cases, asked for number ${index}`);
  const graph = caseGraph(c);
  const random = randomSource(SEED);
  const feeds = Object.fromEntries(c.inputs.map((s, i) => [`x${i}`, randomOperand(s, random)]));
  const want = interpret(graph, feeds);
  const session = await Session.create(graph, { placement });
  const got = await session.run(
    Object.fromEntries(graph.inputs.map(({ name, value }) => [name, toTensor(value, feeds[name] as NdArray)])),
  );
  await session.release();
  let worst = 0;
  for (const { name } of graph.outputs) {
    const [w, t] = [want[name], got[name]];
    if (w === undefined || t === undefined || t.data.length !== w.data.length)
      throw new Error(`${name} has ${t?.data.length} values, expected ${w?.data.length}`);
    const size = w.data.reduce((most, v) => Math.max(most, Math.abs(v)), 1);
    w.data.forEach((v, i) => {
      const error = Math.abs(Number(t.data[i]) - v) / size;
      // NaN stays: no later value is compared with it.
      if (!(error <= worst)) worst = error;
    });
    if (Number.isNaN(worst)) return worst;
  }
  return worst;
}

/** Capabilities that the lowering of a case asks for and that the table grants. */
export function capabilitiesUsed(c: OpCase, capabilities: Capabilities): CapabilityName[] {
  const used = new Set<CapabilityName>();
  const watched = new Proxy(capabilities, {
    get(target, key) {
      const name = key as keyof Capabilities;
      if (name !== 'device' && target[name] === true) used.add(name);
      return target[name];
    },
  });
  lowerGraph(caseGraph(c), watched);
  return [...used];
}
