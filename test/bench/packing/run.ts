/** One fine-tune of the packing benchmark in a process of its own, so that its peak memory is its own: `run.ts SPEC.json`. The last line is JSON. */
import { readFileSync } from 'node:fs';
import { runFineTune } from '../../../gpu-backend/train/finetune.ts';
import type { FineTuneMetrics, FineTuneSpec } from '../../../gpu-backend/train/finetune-spec.ts';

export interface PackingRun {
  readonly tokensPerSecond: number;
  /** Of processor time: what other work on the machine does not change. */
  readonly tokensPerCpuSecond: number;
  readonly paddingShare: number;
  readonly losses: readonly number[];
  readonly accuracy: number;
  readonly tokens: number;
  readonly seconds: number;
  readonly peakRssMb: number;
}

const spec = JSON.parse(readFileSync(process.argv[2] ?? '', 'utf8')) as FineTuneSpec;
const metrics: FineTuneMetrics[] = [];
let [cpuAtFirst, cpuAtLast] = [0, 0];
const result = await runFineTune(spec, {
  onMetrics: (m) => {
    metrics.push(m);
    const { user, system } = process.cpuUsage();
    cpuAtLast = (user + system) / 1e6;
    if (metrics.length === 1) cpuAtFirst = cpuAtLast;
    if (m.step % 50 === 0) console.error(`  step ${m.step}/${m.totalSteps}, loss ${m.train_loss.toFixed(3)}`);
  },
});
if (result.outcome !== 'succeeded') throw new Error(JSON.stringify(result));

// The first step opens sessions.
const timed = metrics.slice(1);
const sum = (of: (m: FineTuneMetrics) => number): number => timed.reduce((total, m) => total + of(m), 0);
const tokens = sum((m) => m.tokens);
const seconds = sum((m) => m.tokens / m.tokens_per_second);
const run: PackingRun = {
  tokensPerSecond: tokens / seconds,
  tokensPerCpuSecond: tokens / (cpuAtLast - cpuAtFirst),
  paddingShare: 1 - tokens / sum((m) => m.tokens / (1 - m.padding_share)),
  losses: metrics.map((m) => m.train_loss),
  accuracy: metrics.at(-1)?.train_mean_token_accuracy ?? Number.NaN,
  tokens,
  seconds,
  peakRssMb: process.resourceUsage().maxRSS / 1024,
};
console.log(JSON.stringify(run));
