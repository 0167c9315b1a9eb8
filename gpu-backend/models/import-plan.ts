import type { BlockFormat } from '../io/quantize.ts';
import { blockSizes } from '../io/quantize.ts';
import type { StoredTensor } from '../io/safetensors.ts';
import type { TensorSlot } from '../io/safetensors-write.ts';
import type { VlmConfig } from './config.ts';
import { decodeGraph } from './decode.ts';
import { blockFormat, PACKED_SUFFIX, type Part, partOf, SCALE_SUFFIX, type Storage } from './storage.ts';
import { type ModelGraph, visionGraph } from './vlm.ts';

/** One stored tensor on its way into an imported model. */
export type ImportStep =
  | { readonly kind: 'copy'; readonly source: StoredTensor; readonly name: string; readonly dtype: 'f32' | 'f16' }
  | {
      readonly kind: 'quantize';
      readonly source: StoredTensor;
      /** Names of what it becomes. */
      readonly packed: string;
      readonly scales: string;
      readonly rows: number;
      readonly width: number;
      readonly format: BlockFormat;
    };

export interface ImportPlan {
  readonly graphs: { readonly vision: ModelGraph; readonly decode: ModelGraph };
  /** In the order of the source files, so that they are read front to back. */
  readonly steps: readonly ImportStep[];
  /** Tensors of the new file, in the order in which the steps give them. */
  readonly slots: readonly (readonly [string, TensorSlot])[];
  readonly parameters: Readonly<Record<Part, number>>;
}

/**
 * The graphs that an imported model is served with. One decoder graph takes steps with and without pictures (no feature rows
 * then), so that weights are in memory once.
 */
export function importedGraphs(config: VlmConfig, storage: Storage): ImportPlan['graphs'] {
  return { vision: visionGraph(config, undefined, storage), decode: decodeGraph(config, { images: true, storage }) };
}

/** @param used tensors of the checkpoint by canonical name, everything that the model reads */
export function planImport(config: VlmConfig, storage: Storage, used: ReadonlyMap<string, StoredTensor>): ImportPlan {
  const graphs = importedGraphs(config, storage);
  const source = (name: string): StoredTensor => {
    const tensor = used.get(name);
    if (tensor === undefined) throw new Error(`the checkpoint has no ${name}`);
    return tensor;
  };
  const steps = new Map<string, ImportStep>();
  const parameters = { vision: 0, projector: 0, decoder: 0, head: 0 };
  for (const { name, kind, value } of [...graphs.vision.graph.inputs, ...graphs.decode.graph.inputs]) {
    if (kind !== 'param' || steps.has(name) || name.endsWith(SCALE_SUFFIX)) continue;
    if (name.endsWith(PACKED_SUFFIX)) {
      const module = name.slice(0, -PACKED_SUFFIX.length);
      const tensor = source(`${module}.weight`);
      const [rows = 0, width = 0] = tensor.shape;
      // A tied head is quantised under the name of the embedding matrix.
      const part = module === 'language_model.model.embed_tokens' ? 'head' : partOf(name);
      const format = blockFormat(storage, part);
      if (format === undefined) throw new Error(`${name} is quantised, but ${part} is ${storage.precision[part]}`);
      steps.set(name, {
        kind: 'quantize',
        source: tensor,
        packed: name,
        scales: module + SCALE_SUFFIX,
        rows,
        width,
        format,
      });
      parameters[part] += rows * width;
    } else {
      const tensor = source(name);
      steps.set(name, { kind: 'copy', source: tensor, name, dtype: value.dtype === 'f16' ? 'f16' : 'f32' });
      parameters[partOf(name)] += tensor.shape.reduce((a, b) => a * b, 1);
    }
  }
  const inOrder = [...steps.values()].sort(({ source: a }, { source: b }) =>
    a.path < b.path ? -1 : a.path > b.path ? 1 : a.offsetBytes - b.offsetBytes,
  );
  return { graphs, steps: inOrder, slots: inOrder.flatMap(slotsOf), parameters };
}

function slotsOf(step: ImportStep): [string, TensorSlot][] {
  if (step.kind === 'copy') return [[step.name, { dtype: step.dtype, shape: step.source.shape }]];
  const { rows, width, format, packed, scales } = step;
  const { blocks, bytes } = blockSizes(width, format);
  return [
    [packed, { dtype: 'u8', shape: [rows, blocks, bytes / blocks] }],
    [scales, { dtype: 'f32', shape: [rows, blocks] }],
  ];
}
