import type { VlmConfig } from '../models/config.ts';
import { decodeGraph, type KvFormat } from '../models/decode.ts';
import { readConfig } from '../models/load.ts';
import { readManifest } from '../models/manifest.ts';
import type { Storage } from '../models/storage.ts';
import { visionGraph } from '../models/vlm.ts';
import type { Device } from '../runtime/device.ts';
import { type PrecisionRequest, storageFor, WEIGHT_FORMATS } from './precision.ts';
import { storedAccuracy } from './precision-accuracy.ts';
import { decidePrecision, describePrecision, isAccurateEnough } from './precision-policy.ts';
import { decoderWeights } from './precision-shrink.ts';
import { type PrecisionTable, precisionTable } from './precision-table.ts';

/** What precision is chosen for. */
export interface PrecisionContext {
  /** Folders of the models that are served. */
  readonly dirs: readonly string[];
  readonly device: Device;
  readonly threads: number;
  /** Rows that decode at the same time. */
  readonly maxRows: number;
  /** Keeps the machine's table between starts; `null` = measure now. */
  readonly tables: string | null;
  /** Time every format, not only those that may be chosen. Default false. */
  readonly timesAll?: boolean;
}

/** How models are compiled, and why so. */
export interface ChosenPrecision {
  /** Absent = f32. */
  readonly storage?: Storage;
  readonly kv: KvFormat;
  readonly name: string;
  /** Sentences and table for a log or a terminal. */
  readonly lines: readonly string[];
  /** What was measured; `null` where nothing had to be. */
  readonly table: PrecisionTable | null;
}

/** A folder that cannot be read is named with its model when that is loaded. */
function readableConfig(dir: string): VlmConfig[] {
  try {
    return readManifest(dir) === null ? [readConfig(dir)] : [];
  } catch {
    return [];
  }
}

/** Turns what an operator asked for into formats; what is left to `auto` is chosen by what the machine measures. Never fails: f32 is right everywhere. */
export async function choosePrecision(request: PrecisionRequest, context: PrecisionContext): Promise<ChosenPrecision> {
  const { weights, kv } = request;
  const asked = WEIGHT_FORMATS.find((format) => weights !== 'auto' && weights.name === format);
  const settled = (reason: string): ChosenPrecision => {
    const chosen = { kv: kv === 'auto' ? ('f32' as const) : kv, ...(weights === 'auto' ? { name: 'f32' } : weights) };
    return {
      ...chosen,
      lines: [`precision: weights ${chosen.name}, keys and values ${chosen.kv}: ${reason}`],
      table: null,
    };
  };
  if (weights !== 'auto' && kv !== 'auto') return settled('asked for');
  if (weights !== 'auto' && asked === undefined)
    return settled('asked for by part; int8 keys and values are by name alone then');
  if (context.device !== 'cpu') return settled(`measured choice is for the processor, this is ${context.device}`);
  const configs = context.dirs.flatMap(readableConfig);
  const [largest] = configs.sort((a, b) => decoderWeights(b) - decoderWeights(a));
  if (largest === undefined) return settled('imported models have formats of their own');
  const accuracy = storedAccuracy();
  const formats = WEIGHT_FORMATS.filter(
    (format) => context.timesAll === true || format === asked || isAccurateEnough(accuracy, format),
  );
  let table: PrecisionTable;
  try {
    table = await precisionTable(largest, context.threads, formats, context.tables);
  } catch (error) {
    return settled(error instanceof Error ? error.message : String(error));
  }
  const decision = decidePrecision(table, accuracy, context.maxRows, { weights: asked ?? 'auto', kv });
  const storage = storageFor(decision.weights);
  return {
    kv: decision.kv,
    name: decision.weights,
    ...(storage === undefined ? {} : { storage }),
    lines: [
      `precision: weights ${decision.weights}, keys and values ${decision.kv}: ${decision.reason}`,
      `measured for ${table.geometry} on ${table.machine.processor}, ${table.machine.threads} thread${table.machine.threads === 1 ? '' : 's'}, in ${table.ms} ms:`,
      ...describePrecision(decision, (format) => weightBytes(largest, storageFor(format))),
    ],
    table,
  };
}

const DTYPE_BYTES = { f32: 4, f16: 2, u8: 1, i8: 1, i64: 8, bool: 1 } as const;

/** Bytes of a served model's weights in memory, as its graphs declare them. */
export function weightBytes(config: VlmConfig, storage: Storage | undefined): number {
  const stored = storage === undefined ? {} : { storage };
  const graphs = [
    visionGraph(config, undefined, storage),
    decodeGraph(config, { images: true, joins: true, ...stored }),
  ];
  const bytes = new Map<string, number>();
  for (const { graph } of graphs)
    for (const { name, kind, value } of graph.inputs)
      if (kind === 'param')
        bytes.set(
          name,
          (value.shape as readonly number[]).reduce((a, b) => a * b, DTYPE_BYTES[value.dtype]),
        );
  return [...bytes.values()].reduce((a, b) => a + b, 0);
}
