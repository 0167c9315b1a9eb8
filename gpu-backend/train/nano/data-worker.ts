import { parentPort, workerData } from 'node:worker_threads';
import { parseTokenizer } from '../../text/tokenizer.ts';
import type { TrainingSample } from '../batch.ts';
import { NanoData, type NanoDataSpec, nanoLayout } from './data.ts';
import { type RealParts, realDataOf } from './real.ts';

/** What a data thread is started with. */
export interface DataWorkerData {
  readonly spec: NanoDataSpec;
  readonly real: RealParts | undefined;
  readonly tokenizerJson: unknown;
}

export interface DataRequest {
  readonly cursor: number;
  readonly total: number;
}
export type DataAnswer = { readonly samples: TrainingSample[] } | { readonly error: string };

function main(): void {
  const port = parentPort;
  if (port === null) throw new Error('data-worker.ts runs as a worker thread only');
  const { spec, real: parts, tokenizerJson } = workerData as DataWorkerData;
  const real = parts === undefined ? undefined : realDataOf(parts);
  const data = new NanoData(spec, real, nanoLayout(spec.recipe, parseTokenizer(tokenizerJson)));
  port.on('message', ({ cursor, total }: DataRequest) => {
    try {
      port.postMessage({ samples: data.samples(cursor, total) } satisfies DataAnswer);
    } catch (error) {
      port.postMessage({ error: error instanceof Error ? error.message : String(error) } satisfies DataAnswer);
    }
  });
}

main();
