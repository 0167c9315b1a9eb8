/**
 * The chart of stored results: bars of each case, ours and the fastest format of each peer, with the ratio at every peer's bar.
 *
 *     npm run bench -- chart          reads results/inference.json, writes results/inference.svg
 */
import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { inferenceChart, type Stored } from './inference/chart-svg.ts';

const results = join(import.meta.dirname, 'results');
const stored = JSON.parse(readFileSync(join(results, 'inference.json'), 'utf8')) as Stored;
writeFileSync(join(results, 'inference.svg'), inferenceChart(stored));
console.log(JSON.stringify({ bench: 'chart', written: 'test/bench/results/inference.svg' }));
