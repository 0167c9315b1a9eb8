import { readFileSync } from 'node:fs';
import type { KvFormat } from '../models/decode.ts';
import type { WeightFormat } from './precision.ts';

/** What one format changes in the answers of a trained model. */
export interface FormatAccuracy {
  readonly weights: WeightFormat;
  readonly kv: KvFormat;
  /** Share of greedy answers that are those of f32, word by word. */
  readonly agreement: number;
  /** Kullback-Leibler divergence of a token's probabilities from those of f32, nats. */
  readonly meanKl: number;
  readonly maxKl: number;
}

/** Result of `npm run bench -- precision --save`. */
export interface AccuracyRecord {
  readonly bench: 'precision';
  readonly model: string;
  readonly task: string;
  readonly prompts: number;
  readonly runtimeVersion: string;
  readonly rows: readonly FormatAccuracy[];
}

/** What was measured on the bundled model. */
export function storedAccuracy(): AccuracyRecord {
  return JSON.parse(readFileSync(new URL('./precision-accuracy.json', import.meta.url), 'utf8')) as AccuracyRecord;
}
